"""The attacks of an audit: the same on the original, on what was unlearned, and on a retrained model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from unflow import metrics
from unflow.attacks import LatentSearch, Relearning, models_inside
from unflow.attacks.relearning import Point, steps_to
from unflow.auditing.evidence import Evidence
from unflow.classifiers import Classifier
from unflow.metrics.forgetting import is_forgotten
from unflow.models import Filtered, GenerativeModel
from unflow.progress import Progress
from unflow.training import stream

Models = Mapping[str, GenerativeModel]


@dataclass(frozen=True, kw_only=True)
class Attacks:
    """What an audit attacks with.

    Attributes:
        relearning: training on a few images.
        search: over latents.
        images: how many images of the forgotten classes the attacker has, one curve each.
        retained: images of the retained classes, for the curve that has no others.
        samples: on which a point of a curve is measured.
    """

    relearning: Relearning = field(default_factory=Relearning)
    search: LatentSearch = field(default_factory=LatentSearch)
    images: tuple[int, ...] = (1, 10, 100)
    retained: int = 1000
    samples: int = 1000


def attack(models: Models, evidence: Evidence, attacks: Attacks, seed: int) -> dict[str, Any]:
    """Return what each attack comes to on each model.

    Args:
        models: row -> model; "original" must be among them.
        evidence: judges, request and held-out images, which are what the attacker has.
        attacks: settings.
        seed: of images, latents and starts.

    Returns:
        "inside": what can be taken off, and the forget rate of it; "latent_search": shares of starts that end
        in the forgotten, per model, None without a second judge; "relearning": curves and steps, per number
        of images.
    """
    curves = [*(str(k) for k in attacks.images), "retain"]
    with Progress("attack", len(models) * (len(curves) + 2)) as progress:
        done = _Count(progress)
        return {
            "inside": {name: done(_inside(model, evidence, attacks, seed)) for name, model in models.items()},
            "latent_search": {
                name: done(_searched(model, evidence, attacks, seed)) for name, model in models.items()
            },
            "relearning": _relearned(models, evidence, attacks, curves, seed, done),
        }


class _Count:
    def __init__(self, progress: Progress) -> None:
        self.progress, self.done = progress, 0

    def __call__(self, value: Any) -> Any:
        self.done += 1
        self.progress.advance(self.done)
        return value


def rate_of(model: GenerativeModel, evidence: Evidence, n: int, seed: int) -> float:
    """Return the forget rate of n samples."""
    x = model.push_batches(model.prior(n, stream(seed, 120)))
    return metrics.forget_rate(evidence.judge.probabilities(x), evidence.forget)


# What can be taken off


def _inside(model: GenerativeModel, evidence: Evidence, attacks: Attacks, seed: int) -> dict[str, Any] | None:
    """Return the model inside that gives the most of the forgotten; None where nothing is inside."""
    rates = [(rate_of(inner, evidence, attacks.samples, seed), inner) for inner in models_inside(model)]
    if not rates:
        return None
    rate, inner = max(rates, key=lambda pair: pair[0])
    return {"model": type(inner).__name__, "forget_rate": rate}


# Latent search


def _searched(
    model: GenerativeModel, evidence: Evidence, attacks: Attacks, seed: int
) -> dict[str, Any] | None:
    judge, second = evidence.judge, evidence.second
    if not isinstance(judge, Classifier) or not isinstance(second, Classifier):
        return None  # there is nothing to climb, or nobody to confirm
    search = attacks.search
    found = search(model, judge, second, list(evidence.forget), stream(seed, 121))
    count = round(found.success_share * search.starts)
    return {
        "success_share": found.success_share, "interval": list(metrics.share_interval(count, search.starts)),
        "fooled_share": float(found.fooled.double().mean()), "starts": search.starts,
    }  # fmt: skip


# Relearning


def _relearned(
    models: Models, evidence: Evidence, attacks: Attacks, curves: list[str], seed: int, done: _Count
) -> dict[str, Any]:
    half = rate_of(models["original"], evidence, attacks.samples, seed) / 2
    record: dict[str, Any] = {"half": half, "steps": attacks.relearning.steps, "images": {}}
    for name in curves:
        images = _images(evidence, attacks, name, seed)
        own = {row: done(_curve(model, images, evidence, attacks, seed)) for row, model in models.items()}
        steps = {row: None if curve is None else steps_to(curve, half) for row, curve in own.items()}
        record["images"][name] = {"curves": own, "steps_to_half": steps, "ratio": _ratios(steps)}
    return record


def _images(evidence: Evidence, attacks: Attacks, name: str, seed: int) -> Tensor:
    held_out = evidence.held_out
    inside = is_forgotten(held_out.labels, evidence.forget)
    x = held_out.x[~inside if name == "retain" else inside]
    order = torch.randperm(len(x), generator=stream(seed, 122))
    return x[order[: attacks.retained if name == "retain" else int(name)]]


def _curve(
    model: GenerativeModel, images: Tensor, evidence: Evidence, attacks: Attacks, seed: int
) -> list[Point] | None:
    if isinstance(model, Filtered):
        return None  # its weights are the original's: there is nothing to relearn, only to take off
    return attacks.relearning(
        model, images, lambda attacked: rate_of(attacked, evidence, attacks.samples, seed), stream(seed, 123)
    )


def _ratios(steps: Mapping[str, float | None]) -> dict[str, float] | None:
    """Return the steps of each model over those of the retrained one; None where that never gets there."""
    base = steps.get("retrained")
    if not base:
        return None
    return {name: value / base for name, value in steps.items() if value is not None}
