"""What a cell of a network sees of the image, followed through its operations."""
