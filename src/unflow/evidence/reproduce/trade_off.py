"""Forgetting against quality: every method pressed harder and less hard, by its own knob."""

from __future__ import annotations

import dataclasses
from typing import Any

from unflow.evidence.reproduce.glance import glance
from unflow.evidence.reproduce.one_step import OURS, OneStepRequest
from unflow.models import GenerativeModel

STRENGTHS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""lam of the target, for every method that follows the target's density."""
KNOBS: dict[str, tuple[str, tuple[float, ...]]] = {
    "fine_tune": ("steps", (100, 300, 1000, 3000)),
    "gradient_ascent": ("steps", (25, 50, 100, 200)),
    "neg_grad_plus": ("clip", (0.05, 0.1, 0.2, 0.4)),  # which binds long before its strength
    "relabel": ("steps", (125, 250, 500, 1000)),
    "saliency": ("steps", (125, 250, 500, 1000)),
    "selective_amnesia": ("lam", (1000.0, 100.0, 10.0, 1.0)),
    "weight_extrapolation": ("gamma", (0.25, 0.5, 1.0, 2.0)),
}
"""What presses a baseline, from gentle to hard; the default is among the values."""

COLUMNS = {
    "method": ("method", -1),
    "knob": ("knob", -1),
    "value": ("value", 2),
    "left": ("forgotten left %", 2),
    "pul": ("PUL %", 2),
    "fid_retain": ("u-FID", 2),
    "fid_target": ("FD target", 2),
    "share_tv": ("share TV", 3),
    "stayed": ("stayed %", 1),
}


def trade_off_points(request: OneStepRequest) -> list[dict[str, Any]]:
    """Return one record per method and strength, all held to the request's own target (strength 1)."""
    records = [_at_strength(request, name, strength) for name in (*OURS, "reject") for strength in STRENGTHS]
    for name, (knob, values) in KNOBS.items():
        records += [_turned(request, name, knob, value) for value in values]
    return records


def _at_strength(request: OneStepRequest, name: str, strength: float) -> dict[str, Any]:
    own = request
    if strength != 1:
        folder = f"{request.name}/strength-{strength:g}"
        own = OneStepRequest(request.study, request.forget, folder, strength=strength, rows=())
    return _point(request, own.unlearned(name).model, name, "lam", strength, strength == 1)


def _turned(request: OneStepRequest, name: str, knob: str, value: float) -> dict[str, Any]:
    method = request.study.recipe.method(name)
    default = getattr(method, knob)
    folder = name if value == default else f"sweep/{name}-{value:g}"
    changed = dataclasses.replace(method, **{knob: type(default)(value)})
    model = request.carried_out(name, changed, folder).model
    return _point(request, model, name, knob, value, value == default)


def _point(
    request: OneStepRequest, model: GenerativeModel, name: str, knob: str, value: float, is_default: bool
) -> dict[str, Any]:
    words = {"method": name, "knob": knob, "value": value, "is_default": is_default}
    return words | glance(request, model)
