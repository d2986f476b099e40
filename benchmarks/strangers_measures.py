"""Measures of the benchmark of strangers: an independent judge, two feature extractors, sharpness."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from third_party import classifiers
from torch import Tensor

import unflow as uf

EXTRACTORS = ("judge", "autoencoder")


class Judges:
    """The judge and the autoencoder of one dataset; both read images [n, 1, 28, 28] in [-1, 1].

    Args:
        cache: folder with the weights.
        prefix: of the names of their files: "" or "fashion_".
    """

    def __init__(self, cache: Path, prefix: str) -> None:
        self.judge = _load(classifiers.Judge(), cache / f"{prefix}judge.safetensors")
        self.autoencoder = _load(classifiers.Autoencoder(), cache / f"{prefix}autoencoder.safetensors")

    @torch.no_grad()
    def classes(self, x: Tensor) -> Tensor:
        """Return the class [n] that the judge assigns to each image."""
        return torch.cat([self.judge(_flat(part)).argmax(1) for part in x.split(1000)])

    @torch.no_grad()
    def features(self, x: Tensor) -> dict[str, Tensor]:
        """Return the features [n, d] of each extractor."""
        flat = [_flat(part) for part in x.split(1000)]
        return {
            "judge": torch.cat([self.judge.features(part) for part in flat]),
            "autoencoder": torch.cat([self.autoencoder.encode(part) for part in flat]),
        }


def _load(net: Any, file: Path) -> Any:
    net.load_state_dict(load_file(file))
    return net.eval()


def _flat(x: Tensor) -> Tensor:
    return ((x + 1) / 2).clamp(0, 1).flatten(1)


@dataclass(frozen=True)
class Reference:
    """Everything that rows of one stranger and one request are compared with.

    Attributes:
        is_forgotten: images and their judged classes [n] -> whether each belongs to the forget set, [n].
        sets: features of independent sets of exact target samples, by extractor.
        exact: exact target samples, the first of those sets.
        floors: mean and standard deviation of the Fréchet distance between two of those sets.
        original: samples of the original at ``z``.
        original_classes: the judge's.
        z: the latents of every row.
        facts: what the table says of the original and the exact target.
    """

    is_forgotten: Callable[[Tensor, Tensor], Tensor]
    sets: dict[str, list[Tensor]]
    exact: Tensor
    floors: dict[str, tuple[float, float]]
    original: Tensor
    original_classes: Tensor
    z: Tensor
    facts: dict[str, Any]


def distance(features: Tensor, sets: Sequence[Tensor]) -> float:
    """Return the mean Fréchet distance to several sets of features."""
    found = [uf.metrics.frechet_distance(generated=features, reference=each) for each in sets]
    return sum(found) / len(found)


def floor_of(sets: Sequence[Tensor]) -> tuple[float, float]:
    """Return the mean and standard deviation of the distance over all pairs of sets."""
    found = torch.tensor(
        [uf.metrics.frechet_distance(generated=a, reference=b) for a, b in combinations(sets, 2)]
    )
    return float(found.mean()), float(found.std())


def share(hits: Tensor) -> dict[str, float]:
    """Return a share with its 95 % interval."""
    low, high = uf.metrics.share_interval(int(hits.sum()), len(hits))
    return {"share": float(hits.double().mean()), "low": low, "high": high}


def make_reference(
    judges: Judges,
    guide_classes: Callable[[Tensor], Tensor],
    is_forgotten: Callable[[Tensor, Tensor], Tensor],
    exact: Sequence[Tensor],
    original: Tensor,
    z: Tensor,
) -> Reference:
    """Measure the original and independent sets of exact target samples."""
    features = [judges.features(x) for x in exact]
    sets = {name: [each[name] for each in features] for name in EXTRACTORS}
    floors = {name: floor_of(sets[name]) for name in EXTRACTORS}
    classes = judges.classes(original)
    gone = is_forgotten(original, classes)
    kept = ~gone
    every = torch.cat(list(exact))
    of_original = judges.features(original)
    facts = {
        "n": len(original),
        "original": share(gone),
        "target": share(is_forgotten(every, judges.classes(every))),
        "agreement": float((guide_classes(original) == classes)[kept].double().mean()),
        "original_sharpness": uf.metrics.sharpness_ratio(generated=original, reference=exact[0]),
        "floors": floors,
        "original_distance": {name: distance(of_original[name], sets[name]) for name in EXTRACTORS},
    }
    return Reference(is_forgotten, sets, exact[0], floors, original, classes, z, facts)


def measure(reference: Reference, judges: Judges, x: Tensor, same_latents: bool) -> dict[str, Any]:
    """Measure the samples x of a row at the reference's latents."""
    classes, features = judges.classes(x), judges.features(x)
    kept = ~reference.is_forgotten(reference.original, reference.original_classes)
    keeps = (classes == reference.original_classes)[kept].double().mean()
    return {
        "left": share(reference.is_forgotten(x, classes)),
        "distance": {name: distance(features[name], reference.sets[name]) for name in EXTRACTORS},
        "sharpness": uf.metrics.sharpness_ratio(generated=x, reference=reference.exact),
        "kept": float(keeps) if same_latents else None,
        "finite": bool(torch.isfinite(x).all()),
    }


def list_failures(row: dict[str, Any], facts: dict[str, Any], is_flow: bool) -> list[str]:
    """Return the bounds of a default method, of a flow or a one-step model, that a row misses."""
    floor, before = facts["floors"]["judge"][0], facts["original_distance"]["judge"]
    most = 2 * floor if is_flow else 4 * floor + 0.01 * before
    failures = []
    if row["left"]["share"] > facts["target"]["share"] + 0.005:
        failures.append("forgotten")
    if row["distance"]["judge"] > most:
        failures.append("distance")
    if not 0.97 <= row["sharpness"] <= 1.03:
        failures.append("sharpness")
    if row["kept"] is not None and row["kept"] < facts["agreement"] - 0.02:
        failures.append("kept")
    if row["share_of_training"] > 0.25:
        failures.append("seconds")
    return failures
