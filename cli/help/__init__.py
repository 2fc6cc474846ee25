"""How a command's --help fits on a screen."""
