"""Rows of classes made clean: majority filter, sieve, objects that touch kept apart."""
