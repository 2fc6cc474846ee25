"""From rows of classes to polygons that share their edges, in pixel space."""
