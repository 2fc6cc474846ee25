"""Heads that turn encoder features into logits at their own stride; nothing here enlarges logits."""
