"""The `predict` command: scenes, pieces that outlive a crash, memory, finished files."""
