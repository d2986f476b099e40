"""Ablation of uot_tilted: one factor at a time, all others at their defaults."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from unflow.evidence import metrics
from unflow.evidence.reproduce.one_step import OneStepRequest
from unflow.ground.files import stage
from unflow.ground.streams import Stream, stream
from unflow.mathematics.divergences import DIVERGENCES
from unflow.training.method import Method
from unflow.unlearning.unlearn import GUIDE_DATA, unlearn


@dataclass(frozen=True)
class Variant:
    """One change of the default settings.

    Attributes:
        factor: name of the changed factor.
        value: its new value, in words.
        method: changed hyper-parameters of the method.
        strength, margin, divergence: of the target.
    """

    factor: str
    value: str
    method: dict[str, Any] = field(default_factory=dict)
    strength: float = 1.0
    margin: float | None = None
    divergence: str = "kl"


def _vary(factor: str, *values: Any) -> list[Variant]:
    return [Variant(factor, f"{value:g}", {factor: value}) for value in values]


VARIANTS = (
    Variant("default", ""),
    *(Variant("divergence", name, divergence=name) for name in ("softplus", "chi2")),
    Variant("pool", "model", {"pool": "model"}),
    Variant("pool", "model, share 1 (row uot)", {"pool": "model", "share": 1.0}),
    Variant("source", "relaxed", {"source": "relaxed"}),
    *_vary("tau", 0.0, 1.0, 2.0, 10.0, 30.0),
    *_vary("share", 0.0, 0.1, 1.0),
    *(Variant("strength", f"{lam:g}", strength=lam) for lam in (0.5, 2.0)),
    *(Variant("margin", f"{margin:g}", margin=margin) for margin in (0.0, 2.0, 8.0)),
    *_vary("r1", 0.01, 0.1, 1.0),
    *_vary("average", 0.0, 0.9, 0.999),
    *_vary("steps", 350, 700, 2800),
    Variant("potential", "features", {"potential": "features"}),
    *_vary("width", 64, 512),
)
COLUMNS = {
    "factor": ("factor", -1),
    "value": ("value", -1),
    "left": ("forgotten left %", 2),
    "pul": ("PUL %", 2),
    "left_target": ("left by its exact target %", 2),
    "fid_retain": ("u-FID", 2),
    "fid_target": ("FD to the default's target", 2),
    "share_tv": ("share TV", 3),
    "stayed": ("stayed %", 1),
    "seconds": ("seconds", 1),
}
ROW = "uot_tilted"


def run_ablation(request: OneStepRequest) -> list[dict[str, Any]]:
    """Return one record per variant, each measured against the default's target."""
    return [_find_record(request, variant) for variant in VARIANTS]


def _find_record(request: OneStepRequest, variant: Variant) -> dict[str, Any]:
    name = "-".join(word for word in (variant.factor, variant.value) if word)
    folder = "ablation/" + "".join(c if c.isalnum() or c in "-." else "_" for c in name)
    return dict(stage(request.out / folder / "record.json", lambda: _measure(request, variant, folder)))


def _measure(request: OneStepRequest, variant: Variant, folder: str) -> dict[str, Any]:
    study, target = request.study, request.target
    if variant.strength != 1 or variant.margin is not None:
        target = type(request)(
            study,
            request.forget,
            f"{request.name}/{folder}",
            strength=variant.strength,
            margin=variant.margin,
            rows=(),
        ).target
    target = dataclasses.replace(target, divergence=DIVERGENCES[variant.divergence]())
    method: Method = dataclasses.replace(study.recipe.find_method(ROW), **variant.method)
    result = unlearn(
        target, method, request.out / folder / "model", seed=study.seed, name=ROW, guide_data=GUIDE_DATA
    )
    words = {"factor": variant.factor, "value": variant.value, "seconds": result.lineage["seconds"]}
    exact = study.decode(target.sample(study.recipe.n, stream(study.seed, Stream.TARGET_FIGURE)).x)
    left_target = 100 * metrics.forget_rate(study.judge.probabilities(exact), request.forget)
    return words | {"left_target": left_target} | request.measure(result.model)
