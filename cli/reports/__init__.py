"""How what a job tells is shown, where that is more than a few lines of its command."""
