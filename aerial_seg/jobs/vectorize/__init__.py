"""The `vectorize` command: masks become layers of polygons."""
