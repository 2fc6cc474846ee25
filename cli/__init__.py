"""Commands: options → recipe → job → report. Installed as aerial_seg.cli."""
