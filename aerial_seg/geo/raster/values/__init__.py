"""What the numbers in a raster mean: which of them are no measurements, and in which units the others are."""
