"""Other people's weights in our networks: one file per project whose checkpoints are understood."""
