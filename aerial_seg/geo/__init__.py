"""Grids, rasters, labels and vectors. Knows nothing of torch."""
