"""From rasters to maps: scenes, the stream of their rows, pieces that outlive a crash, finished files."""
