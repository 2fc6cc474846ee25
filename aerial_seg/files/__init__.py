"""Files and folders of a run: what they may be called, who writes them now, what they are made from."""
