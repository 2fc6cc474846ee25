"""What training samples are made of: their order, what is drawn for each, decoded chips, the bytes of a batch."""
