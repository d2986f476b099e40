"""How anything is trained: what a method is, the one loop, and what trains the original models."""
