"""The `train` command: data, a run as a folder, the two models in it."""
