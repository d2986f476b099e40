"""The attacks of an audit, the same on the original, the unlearned and the retrained model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from unflow.evidence import metrics
from unflow.evidence.attacks import LatentSearch, Relearning, models_inside
from unflow.evidence.attacks.relearning import Point, steps_to
from unflow.evidence.auditing.evidence import Evidence
from unflow.evidence.metrics.forgetting import is_forgotten
from unflow.ground.progress import Progress
from unflow.ground.streams import Stream, stream
from unflow.models import Filtered, GenerativeModel, inner_model
from unflow.models.classifier import Classifier

Models = Mapping[str, GenerativeModel]


@dataclass(frozen=True, kw_only=True)
class Attacks:
    """Settings of the attacks of an audit.

    Attributes:
        relearning: settings of the training on a few images.
        search: settings of the search over latents.
        images: numbers of images of the forgotten classes that the attacker has, one curve each.
        retained: images of the retained classes, for the curve without forgotten ones.
        samples: drawn to measure one point of a curve.
    """

    relearning: Relearning = field(default_factory=Relearning)
    search: LatentSearch = field(default_factory=LatentSearch)
    images: tuple[int, ...] = (1, 10, 100)
    retained: int = 1000
    samples: int = 1000


def attack(models: Models, evidence: Evidence, attacks: Attacks, seed: int) -> dict[str, Any]:
    """Attack every model and return the results side by side.

    Args:
        models: row name -> model, "original" among them.
        evidence: judges, request, and the held-out images, which the attacker has.
        attacks: settings.
        seed: of images, latents and starts.

    Returns:
        As ``together``.
    """
    records = {name: attack_one(model, evidence, attacks, seed, name) for name, model in models.items()}
    return compare_attacks(records, attacks)


def attack_one(
    model: GenerativeModel, evidence: Evidence, attacks: Attacks, seed: int, name: str = ""
) -> dict[str, Any]:
    """Attack one model; return "rate", "inside", "latent_search" and "curves".

    "rate" is the forget rate without an attack.

    Args:
        model: to attack; it is not changed.
        evidence: as in ``attack``.
        attacks: settings.
        seed: as in ``attack``.
        name: row name, for the progress line.
    """
    curves = [*(str(k) for k in attacks.images), "retain"]
    record: dict[str, Any] = {"rate": rate_of(model, evidence, attacks.samples, seed), "curves": {}}
    with Progress(f"attack {name}".strip(), len(curves) + 2) as progress:
        record["inside"] = _inside(model, evidence, attacks, seed)
        progress.advance(1)
        record["latent_search"] = _searched(model, evidence, attacks, seed)
        progress.advance(2)
        for done, k in enumerate(curves, 3):
            record["curves"][k] = _curve(model, _images(evidence, attacks, k, seed), evidence, attacks, seed)
            progress.advance(done)
    return record


def compare_attacks(records: Mapping[str, Mapping[str, Any]], attacks: Attacks) -> dict[str, Any]:
    """Return the results of the attacks on all models side by side.

    Args:
        records: row name -> result of ``attack_one``, "original" among them.
        attacks: settings.

    Returns:
        "rate": forget rates without an attack; "inside": the model inside a chain or filter, and its forget
        rate; "latent_search": shares of starts that reach a forgotten class, None without a second judge;
        "relearning": curves, and steps until half of the original's rate is back, per number of images.
    """
    half = records["original"]["rate"] / 2
    images: dict[str, Any] = {}
    for k in records["original"]["curves"]:
        curves = {row: record["curves"][k] for row, record in records.items()}
        steps = {row: None if curve is None else steps_to(curve, half) for row, curve in curves.items()}
        images[k] = {"curves": curves, "steps_to_half": steps, "ratio": _ratios(steps)}
    return {
        "rate": {row: record["rate"] for row, record in records.items()},
        "inside": {row: record["inside"] for row, record in records.items()},
        "latent_search": {row: record["latent_search"] for row, record in records.items()},
        "relearning": {"half": half, "steps": attacks.relearning.steps, "images": images},
    }


def rate_of(model: GenerativeModel, evidence: Evidence, n: int, seed: int) -> float:
    """Return the forget rate of n samples."""
    x = model.push_batches(model.prior(n, stream(seed, Stream.ATTACK_RATE)))
    return metrics.forget_rate(evidence.judge.probabilities(x), evidence.forget)


# Taking off a chain or filter


def _inside(model: GenerativeModel, evidence: Evidence, attacks: Attacks, seed: int) -> dict[str, Any] | None:
    """Return the model inside with the largest forget rate; None for a model that contains no other."""
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
        return None  # the search follows the judge's gradient, and the second judge confirms it
    search = attacks.search
    found = search(model, judge, second, list(evidence.forget), stream(seed, Stream.LATENT_SEARCH))
    count = round(found.success_share * search.starts)
    return {
        "success_share": found.success_share,
        "interval": list(metrics.share_interval(count, search.starts)),
        "fooled_share": float(found.fooled.double().mean()),
        "starts": search.starts,
    }


# Relearning


def _images(evidence: Evidence, attacks: Attacks, name: str, seed: int) -> Tensor:
    held_out = evidence.held_out
    inside = is_forgotten(held_out.labels, evidence.forget)
    x = held_out.x[~inside if name == "retain" else inside]
    order = torch.randperm(len(x), generator=stream(seed, Stream.ATTACK_IMAGES))
    return x[order[: attacks.retained if name == "retain" else int(name)]]


def _curve(
    model: GenerativeModel, images: Tensor, evidence: Evidence, attacks: Attacks, seed: int
) -> list[Point] | None:
    if isinstance(inner_model(model), Filtered):
        return None  # its weights are the original's: the filter can be taken off, nothing is relearned
    return attacks.relearning(
        model,
        images,
        lambda attacked: rate_of(attacked, evidence, attacks.samples, seed),
        stream(seed, Stream.RELEARNING),
    )


def _ratios(steps: Mapping[str, float | None]) -> dict[str, float] | None:
    """Return each model's steps divided by the retrained model's; None if the latter never gets there."""
    base = steps.get("retrained")
    if not base:
        return None
    return {name: value / base for name, value in steps.items() if value is not None}
