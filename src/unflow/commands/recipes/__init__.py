"""Shipped experiments as YAML: `unflow train NAME` and `unflow unlearn NAME` find them here."""
