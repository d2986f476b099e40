"""What everything stands on: errors, files, batches, progress, plugins and random streams."""
