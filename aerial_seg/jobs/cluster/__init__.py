"""Work handed out to other processes and machines: who is there, what they agree on, what comes home."""
