"""Requests by a few images without labels, for several numbers of images, kernels and features."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from unflow.energies import Energy
from unflow.energies.anchoring import add_threshold, grow_request, make_anchor
from unflow.evidence.reproduce.one_step import OneStepRequest
from unflow.evidence.reproduce.study import Study
from unflow.ground.files import stage
from unflow.ground.streams import Stream, stream
from unflow.models.classifier import Features

COUNTS = (1, 5, 20)
NUM_FIT = 8000
"""Samples of the original to which energies are fitted."""
RAW_STRENGTH = 5.0
"""lam of the kernels without log-odds, whose values lie in [-1, 1]."""
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
"""Name -> function that makes the energy from an extractor, k images, samples of the model, and a seed."""

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


def compare_images(request: OneStepRequest) -> list[dict[str, Any]]:
    """Return one record per number of images, extractor and energy, for one class."""
    return [
        measure_images(request, k, extractor, kind)
        for extractor in (name_samples(request.study), "guide")
        for kind in KINDS
        for k in COUNTS
    ]


def name_samples(study: Study) -> str:
    """Return the name of the extractor that returns the samples themselves: latents, or else pixels."""
    return "pixels" if study.recipe.autoencoder_net is None else "latents"


def measure_images(request: OneStepRequest, k: int, extractor: str, kind: str) -> dict[str, Any]:
    """Return the metrics of a request by k images, carried out by uot_tilted.

    Args:
        request: the request by the guide for the images' class.
        k: number of images, drawn from the training part.
        extractor: "latents" or "pixels", the samples themselves (uses no labels), or "guide" (the hidden
            features of the guide, which is trained with labels).
        kind: a name in ``KINDS``.
    """
    folder = f"anchors/{k}-{extractor}-{kind}".replace(", ", "-")
    return dict(
        stage(request.out / folder / "record.json", lambda: _measure(request, k, extractor, kind, folder))
    )


def _measure(request: OneStepRequest, k: int, extractor: str, kind: str, folder: str) -> dict[str, Any]:
    study, raw = request.study, kind in ("cosine", "rbf")
    own = type(request)(
        study,
        request.forget,
        f"{request.name}/{folder}",
        rows=(),
        energy=make_energy(request, k, extractor, kind),
        strength=RAW_STRENGTH if raw else 1.0,
        energy_data=(f"{k} forget images", *(("guide_images",) if extractor == "guide" else ())),
    )
    words = {"dataset": request.name, "images": k, "extractor": extractor, "energy": kind}
    return words | _measure_target(request, own) | request.measure(own.run_row(ROW).model)


def make_energy(request: OneStepRequest, k: int, extractor: str, kind: str) -> Energy:
    """Return the energy from k training images of the request's class, fitted to the original's samples."""
    study = request.study
    rows = study.encode_part("train").of_classes(request.forget).x
    chosen = torch.randperm(len(rows), generator=stream(study.seed, Stream.FEW_IMAGES))[:k]
    samples = request.model.sample(NUM_FIT, stream(study.seed, Stream.IMAGE_ENERGY))
    return KINDS[kind](_choose_extractor(study, extractor), rows[chosen], samples, study.seed)


def _choose_extractor(study: Study, name: str) -> nn.Module:
    return Features(study.guide) if name == "guide" else nn.Flatten()


def _measure_target(request: OneStepRequest, own: OneStepRequest) -> dict[str, float | None]:
    """Return PUL and dropped retained mass of the exact target of the images' energy, in percent."""
    study = request.study
    bank = own.target.bank(request.study.recipe.n, stream(study.seed, Stream.IMAGE_TARGET))
    ratio = own.target.density_ratio(bank.energy)
    labels = study.judge.probabilities(study.decode(bank.x)).argmax(1)
    forgotten = torch.isin(labels, torch.tensor(request.forget))
    share, before = float(ratio[forgotten].sum() / ratio.sum()), float(forgotten.float().mean())
    kept = own.target.acceptance(bank.energy)[~forgotten]
    return {
        "pul_target": 100 * (1 - share / before) if before else None,
        "dropped": 100 * (1 - float(kept.mean())),
    }


def average_classes(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the record of the means over several classes."""
    words = {key: records[0][key] for key in ("images", "extractor", "energy")}
    numbers = [key for key in COLUMNS if key not in words and key != "dataset"]
    values = {key: [record[key] for record in records if record[key] is not None] for key in numbers}
    means = {key: sum(own) / len(own) if own else None for key, own in values.items()}
    return {"dataset": "mean", **words, **means}


__all__ = ["COLUMNS", "average_classes", "compare_images", "make_energy", "measure_images", "name_samples"]
