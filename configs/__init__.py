"""Recipes in TOML, shipped with the wheel."""
