"""Commands: options → recipe → job → report. Installed as aerial_seg.cli."""

COMMANDS = (
    "demo", "tile", "train", "predict", "vectorize", "evaluate", "benchmark", "import-weights", "export", "models",
    "info",
)  # fmt: skip
"""The commands in the order of the work; each has a module of its name, with _ for -."""
