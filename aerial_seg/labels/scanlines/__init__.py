"""Polygons onto pixels row by row, compiled, by GDAL's rule."""
