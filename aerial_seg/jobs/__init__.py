"""What a command does: settings and paths in, a report out; never prints, never exits."""
