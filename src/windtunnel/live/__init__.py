"""Against a live engine: load it, measure the device under it, and lay prediction beside measurement."""
