"""The `benchmark` command: a dataset's images under a protocol, scores beside published ones."""
