"""Foundations of all packages: errors, files, batches, progress, plugins and random streams."""
