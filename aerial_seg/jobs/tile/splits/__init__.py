"""Which chip is for training, validation or test: by fraction, name, area or fold; no ground is in two of them."""
