"""Commands: options → recipe → job → report. Installed as aerial_seg.cli."""

COMMANDS = (
    "demo", "tile", "check", "train", "predict", "vectorize", "evaluate", "report", "assess", "benchmark",
    "import-weights", "export", "models", "recipes", "info",
)  # fmt: skip
"""The commands in the order of the work; each has a module of its name, with _ for -."""
