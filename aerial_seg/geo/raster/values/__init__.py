"""What the numbers in a raster mean: which are no measurements, in which units the others are, what those are like."""
