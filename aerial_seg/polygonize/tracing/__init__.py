"""Clean rows of classes become arcs that neighbours share, and arcs become rings."""
