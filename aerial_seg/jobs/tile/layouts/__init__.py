"""The chips of a dataset, laid out beside our own files as other programs read them."""
