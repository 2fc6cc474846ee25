"""predict on many workers: groups of pieces go out, pieces come home, and one process writes."""
