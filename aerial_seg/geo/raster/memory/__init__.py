"""Rasters that lie in memory."""
