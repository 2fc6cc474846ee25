"""Rasters and arrays become classes: the stream of rows, predictors, ensembles, test-time augmentation."""
