"""Recipes: TOML documents that say how a network is built and trained."""
