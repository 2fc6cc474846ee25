"""How a trained network runs: prepared, in an engine, on batches, in several orientations and sizes, with others."""
