"""Networks, device and precision, model file. Knows nothing of rasters."""
