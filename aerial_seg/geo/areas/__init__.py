"""Polygons that people give: read, mended, and laid on a grid as the area to work in."""
