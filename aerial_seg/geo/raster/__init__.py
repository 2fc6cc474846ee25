"""Rasters as they are on disks and servers: opening, facts, nodata, bands, mosaics, reading in swaths."""
