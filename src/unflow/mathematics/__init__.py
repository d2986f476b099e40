"""The mathematics: divergences, paths, couplings, integrators, and the optimal law on a finite support."""
