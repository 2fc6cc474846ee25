"""Plan and stitch: integers and numpy only. Knows neither rasters nor networks."""
