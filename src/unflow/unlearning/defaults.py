"""The method of a request that names none."""

from __future__ import annotations

AUTO = "auto"
"""In place of a method's name: the first method of ``plan``."""


def default_method(family: str) -> str:
    """Return the row name of the method that ``unlearn`` uses by default; it accepts every energy.

    Args:
        family: of the model: flow, flow_map or generator.
    """
    return "energy_guidance" if family == "flow" else "residual_matching"
