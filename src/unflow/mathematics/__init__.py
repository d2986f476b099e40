"""The mathematics: divergences, paths, couplings, integrators, and the optimum on a finite support."""
