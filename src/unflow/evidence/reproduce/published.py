"""The settings of the methods in the published tables, where the defaults have changed since."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from unflow.methods import ERFM, OTFM, UNLEARNERS, UOT, LatentFlow, SelectiveAmnesia
from unflow.training.method import Method

BASELINE_RATES = {
    "gradient_ascent": 1e-4,
    "neg_grad_plus": 3e-4,
    "fine_tune": 3e-4,
    "relabel": 1e-4,
    "saliency": 1e-4,
    "selective_amnesia": 1e-4,
    "weight_extrapolation": 1e-4,
}
"""Baseline -> its learning rate in the tables."""


def find_published_method(name: str, flow_net: dict[str, Any]) -> Method:
    """Return the method of a row with the fixed rates, and the size of the appended flow, of the tables.

    Args:
        name: of the row, in ``UNLEARNERS``.
        flow_net: description of the original flow, an MLP: the appended flow had its width and half its
            layers.
    """
    method = UNLEARNERS[name]
    if isinstance(method, ERFM | OTFM):
        return replace(method, learning_rate=1e-2, width=flow_net.get("width"))
    if isinstance(method, LatentFlow):
        return replace(method, learning_rate=4e-3)
    if isinstance(method, UOT):
        return replace(method, network="mlp")
    if isinstance(method, SelectiveAmnesia):
        method = replace(method, lam=100.0)
    if name in BASELINE_RATES:
        return replace(method, learning_rate=BASELINE_RATES[name])  # type: ignore[call-arg]
    return method
