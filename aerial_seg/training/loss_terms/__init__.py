"""What a loss is made of: the terms of an output, and what of them adds up over parts and processes."""
