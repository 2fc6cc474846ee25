"""More rasters for a dataset that is there: what must agree, which chips may come in, the new whole beside the old."""
