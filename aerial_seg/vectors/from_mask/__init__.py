"""From the rows of a mask to its polygons: cleaned, traced, measured, placed."""
