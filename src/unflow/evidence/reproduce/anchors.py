"""Requests by a few images and no labels: how many images, which kernel, which features."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from unflow.energies import Energy
from unflow.energies.anchoring import add_threshold, grow_request, make_anchor
from unflow.evidence.reproduce.glance import glance
from unflow.evidence.reproduce.one_step import OneStepRequest
from unflow.evidence.reproduce.study import Study
from unflow.ground.files import stage
from unflow.ground.streams import Stream, stream
from unflow.models.classifier import Features

COUNTS = (1, 5, 20)
NUM_FIT = 8000
"""Samples of the original to which energies are fitted."""
RAW_STRENGTH = 5.0
"""lam of the bare kernels, which lie in [-1, 1]."""
ROW = "uot_tilted"

Maker = Callable[[nn.Module, Tensor, Tensor, int], Energy]
KINDS: dict[str, Maker] = {
    "cosine": lambda phi, images, x, seed: make_anchor(phi, images, x, "cosine"),
    "rbf": lambda phi, images, x, seed: make_anchor(phi, images, x, "rbf"),
    "cosine, log-odds": lambda phi, images, x, seed: add_threshold(
        make_anchor(phi, images, x, "cosine"), x, 2.0
    ),
    "rbf, log-odds": lambda phi, images, x, seed: add_threshold(make_anchor(phi, images, x, "rbf"), x, 2.0),
    "grown": lambda phi, images, x, seed: grow_request(phi, images, x, stream(seed, Stream.WALK)),
}
"""Energy -> how it is made of an extractor, k images, samples of the model, and a seed."""

COLUMNS = {
    "dataset": ("request", -1),
    "images": ("images", 0),
    "extractor": ("extractor", -1),
    "energy": ("energy", -1),
    "pul": ("PUL %", 1),
    "pul_target": ("of its exact target %", 1),
    "dropped": ("retained mass it drops %", 1),
    "left": ("forgotten left %", 2),
    "fid_retain": ("u-FID", 2),
    "stayed": ("stayed %", 1),
}


def by_images(request: OneStepRequest) -> list[dict[str, Any]]:
    """Return every number of images, extractor and energy for one class."""
    return [
        by_some_images(request, k, extractor, kind)
        for extractor in ("latents", "guide")
        for kind in KINDS
        for k in COUNTS
    ]


def by_some_images(request: OneStepRequest, k: int, extractor: str, kind: str) -> dict[str, Any]:
    """Return what a request by k images comes to, made by uot_tilted.

    Args:
        request: by the guide, whose class the images are of.
        k: images, drawn from the training part.
        extractor: "latents" (no labels at all) or "guide", its hidden features, which have seen labels.
        kind: a name in ``KINDS``.
    """
    folder = f"anchors/{k}-{extractor}-{kind}".replace(", ", "-")
    return dict(
        stage(request.out / folder / "record.json", lambda: _measured(request, k, extractor, kind, folder))
    )


def _measured(request: OneStepRequest, k: int, extractor: str, kind: str, folder: str) -> dict[str, Any]:
    study, raw = request.study, kind in ("cosine", "rbf")
    own = OneStepRequest(
        study,
        request.forget,
        f"{request.name}/{folder}",
        rows=(),
        energy=energy_of(request, k, extractor, kind),
        strength=RAW_STRENGTH if raw else 1.0,
        energy_data=(f"{k} forget images", *(("guide_images",) if extractor == "guide" else ())),
    )
    words = {"dataset": request.name, "images": k, "extractor": extractor, "energy": kind}
    return words | _wanted(request, own) | glance(request, own.unlearned(ROW).model)


def energy_of(request: OneStepRequest, k: int, extractor: str, kind: str) -> Energy:
    """Return the energy of k training images of the request's class, fitted to the original's samples."""
    study = request.study
    rows = study.latents("train").of_classes(request.forget).x
    chosen = torch.randperm(len(rows), generator=stream(study.seed, Stream.FEW_IMAGES))[:k]
    samples = request.model.sample(NUM_FIT, stream(study.seed, Stream.IMAGE_ENERGY))
    return KINDS[kind](_extractor(study, extractor), rows[chosen], samples, study.seed)


def _extractor(study: Study, name: str) -> nn.Module:
    return Features(study.guide) if name == "guide" else nn.Flatten()


def _wanted(request: OneStepRequest, own: OneStepRequest) -> dict[str, float | None]:
    """Return what the exact target of the images' energy forgets, and takes from the rest, in percent."""
    study = request.study
    bank = own.target.bank(request.study.recipe.n, stream(study.seed, Stream.IMAGE_TARGET))
    ratio = own.target.density_ratio(bank.energy)
    labels = study.judge.probabilities(study.decoded(bank.x)).argmax(1)
    forgotten = torch.isin(labels, torch.tensor(request.forget))
    share, before = float(ratio[forgotten].sum() / ratio.sum()), float(forgotten.float().mean())
    kept = own.target.acceptance(bank.energy)[~forgotten]
    return {
        "pul_target": 100 * (1 - share / before) if before else None,
        "dropped": 100 * (1 - float(kept.mean())),
    }


def mean_over_classes(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the mean of the numbers of several classes."""
    words = {key: records[0][key] for key in ("images", "extractor", "energy")}
    numbers = [key for key in COLUMNS if key not in words and key != "dataset"]
    values = {key: [record[key] for record in records if record[key] is not None] for key in numbers}
    means = {key: sum(own) / len(own) if own else None for key, own in values.items()}
    return {"dataset": "mean", **words, **means}


__all__ = ["COLUMNS", "by_images", "by_some_images", "energy_of", "mean_over_classes"]
