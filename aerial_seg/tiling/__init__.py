"""Plan and stitch: integers, numpy and numba only. Knows neither rasters nor networks."""
