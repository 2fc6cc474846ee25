"""The `tile` command: rasters and labels become chips, and chips a dataset with splits."""
