"""report: a map as a page that judges it, as a picture, or as a project of QGIS."""
