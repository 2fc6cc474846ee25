"""A page of a map that needs nothing but a browser: the map itself, what it holds, and how good it is."""
