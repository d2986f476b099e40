"""The method of a request that names none."""

from __future__ import annotations

AUTO = "auto"
"""In place of a method's name: the first method of ``plan``."""


def default_method(family: str, in_part: bool = False) -> str:
    """Return the row name of the method that ``unlearn`` uses by default; it accepts every energy.

    Args:
        family: of the model: flow, flow_map or generator.
        in_part: whether only some weights, or adapters, are trained. Of a flow's methods, this needs one that
            trains the flow's own weights.
    """
    if family != "flow":
        return "residual_matching"
    return "erfm_resample_prior" if in_part else "erfm_resample"
