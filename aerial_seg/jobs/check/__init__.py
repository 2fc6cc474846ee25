"""The `check` command: a chip dataset as it lies there, with all that is wrong with it."""
