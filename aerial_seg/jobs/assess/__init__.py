"""assess: a random sample of a map to be looked at, and what the looking says of the map's accuracy and areas."""
