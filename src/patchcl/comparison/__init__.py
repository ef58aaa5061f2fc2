"""Many methods, several amounts of masks, several seeds: run as a grid of cells, and shown as one answer."""
