"""Networks whose convolutions multiply 8-bit numbers."""
