"""From coverages to vector files: attributes, place on the ground, formats, writing."""
