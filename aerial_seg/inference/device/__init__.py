"""The stream on a device: what `inference/stream.py` and `tiling/` do on the host, in torch, on the CPU too."""
