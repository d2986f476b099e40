"""Forgetting against quality: every method at several strengths, set by one of its hyper-parameters."""

from __future__ import annotations

import dataclasses
from typing import Any

from unflow.evidence.reproduce.one_step import OURS, OneStepRequest
from unflow.models import GenerativeModel

STRENGTHS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""lam of the target, for every method that uses the target's density."""
KNOBS: dict[str, tuple[str, tuple[float, ...]]] = {
    "fine_tune": ("steps", (100, 300, 1000, 3000)),
    "gradient_ascent": ("steps", (25, 50, 100, 200)),
    "neg_grad_plus": (
        "clip",
        (0.05, 0.1, 0.2, 0.4),
    ),  # the clip limits the update long before the strength does
    "relabel": ("steps", (125, 250, 500, 1000)),
    "saliency": ("steps", (125, 250, 500, 1000)),
    "selective_amnesia": ("lam", (1000.0, 100.0, 10.0, 1.0)),
    "weight_extrapolation": ("gamma", (0.25, 0.5, 1.0, 2.0)),
}
"""Baseline -> hyper-parameter that sets its strength, and values from weak to strong, with the default."""

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


def measure_trade_off(request: OneStepRequest) -> list[dict[str, Any]]:
    """Return one record per method and strength; all are compared with the request's target (strength 1)."""
    rows = request.default_rows
    own = [name for name in rows if name in ("residual_matching", *OURS, "reject")]
    records = [_measure_strength(request, name, strength) for name in own for strength in STRENGTHS]
    for name, (knob, values) in ((name, KNOBS[name]) for name in KNOBS if name in rows):
        records += [_measure_knob(request, name, knob, value) for value in values]
    return records


def _measure_strength(request: OneStepRequest, name: str, strength: float) -> dict[str, Any]:
    own = request
    if strength != 1:
        folder = f"{request.name}/strength-{strength:g}"
        own = type(request)(request.study, request.forget, folder, strength=strength, rows=())
    return _make_record(request, own.run_row(name).model, name, "lam", strength, strength == 1)


def _measure_knob(request: OneStepRequest, name: str, knob: str, value: float) -> dict[str, Any]:
    method = request.study.recipe.find_method(name)
    default = getattr(method, knob)
    folder = name if value == default else f"sweep/{name}-{value:g}"
    changed = dataclasses.replace(method, **{knob: type(default)(value)})
    model = request.run_method(name, changed, folder).model
    return _make_record(request, model, name, knob, value, value == default)


def _make_record(
    request: OneStepRequest, model: GenerativeModel, name: str, knob: str, value: float, is_default: bool
) -> dict[str, Any]:
    words = {"method": name, "knob": knob, "value": value, "is_default": is_default}
    return words | request.measure(model)
