"""Windows of rasters, read at random as if they were files of their own."""
