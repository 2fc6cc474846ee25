"""Batch norms while a network is trained: by whose statistics they normalise, and what of them stays as it came."""
