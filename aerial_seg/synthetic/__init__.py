"""A town that is drawn, not photographed: imagery with true labels for the demo and the tests."""
