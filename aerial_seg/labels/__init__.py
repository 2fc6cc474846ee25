"""Labels on a raster's grid, from polygons and from class rasters, and chips as files."""
