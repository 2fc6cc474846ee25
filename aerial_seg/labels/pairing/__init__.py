"""Label rasters without CRS, and the rasters that they belong to."""
