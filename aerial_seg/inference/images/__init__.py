"""What a caller hands over as an image."""
