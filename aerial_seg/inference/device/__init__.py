"""The device's carrier of the lattice: what `tiling/` does on the host, in torch, on any device, the CPU among them."""
