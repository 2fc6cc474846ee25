"""The `info` command: what a raster, mask, model or dataset holds."""
