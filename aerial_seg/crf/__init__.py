"""Fully connected conditional random fields: class probabilities that follow the edges of an image."""
