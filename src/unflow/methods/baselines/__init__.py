"""Baselines: what a new method must beat, each in one file."""
