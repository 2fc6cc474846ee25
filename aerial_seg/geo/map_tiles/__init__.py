"""Map tiles whose names say where they lie: read in the one way that fits, placed by VRTs, told by their own names."""
