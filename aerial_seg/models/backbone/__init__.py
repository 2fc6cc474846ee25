"""Encoders: where they stride, where they dilate, how they begin and how deep they go."""
