"""Baselines for comparison, each in one file."""
