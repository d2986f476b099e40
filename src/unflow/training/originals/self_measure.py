"""The self-measure of a trained classifier or generator: the last line of `unflow train`."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from unflow.data import LabelledData
from unflow.data.confusions import describe_confusions, list_confusions
from unflow.ground.progress import hide_progress
from unflow.ground.streams import Stream, stream
from unflow.mathematics.shares import share_interval
from unflow.mathematics.sharpness import REPEATED, Neighbourhood, flatten_small
from unflow.models import GenerativeModel
from unflow.models.classifier import Classifier
from unflow.models.components import SavedModel

MOST = 500
"""Samples, at most, of a generator and of each half of the real samples."""
LEAST = 20
"""Real samples, at least, in each half."""
NOISE = 0.75
"""Share of the way from real samples to noise, from which on samples are no better than noise."""
SKILL = 0.25
"""Share of the way from chance to perfect accuracy, below which a classifier is near chance."""


def describe_model(model: SavedModel, data: LabelledData, where: str, seed: int) -> str | None:
    """Return how good a model is on labelled samples, in one sentence; None for an autoencoder.

    Args:
        model: the trained model.
        data: samples, best those that it was not trained on.
        where: the name of their part, like "held-out".
        seed: of the samples of a generator.
    """
    hint = "" if where == "held-out" else " (no held-out ones: write --split split.json)"
    if isinstance(model, Classifier):
        return describe_classifier(model, data, where) + hint
    if isinstance(model, GenerativeModel):
        return describe_generator(model, data, where, seed) + hint
    return None


def describe_classifier(model: Classifier, data: LabelledData, where: str) -> str:
    """Return the accuracy of a classifier with its 95 % interval, and the classes that it confuses most."""
    judged = model.probabilities(data.x).argmax(1)
    correct, n = int((judged == data.labels).sum()), len(data)
    low, high = share_interval(correct, n)
    chance = float(data.labels.bincount().max()) / n
    words = (
        f"correct on {100 * correct / n:.1f} % [{100 * low:.1f}, {100 * high:.1f}] of {n:,} {where} samples"
    )
    if correct / n < chance + SKILL * (1 - chance):
        words = (
            f"the classifier is near chance: {words}, where the most frequent class alone is "
            f"{100 * chance:.1f} %"
        )
    confused = describe_confusions(list_confusions(judged, data), data.class_names)
    return f"{words}; confuses most {confused}" if confused else words


def describe_generator(model: GenerativeModel, data: LabelledData, where: str, seed: int) -> str:
    """Return the distance of a generator's samples to real ones, beside the distances of real ones and noise.

    The distance is that to the k-th nearest of one half of the real samples, relative to the spacing of that
    half there: about 1 for the other half. Noise has the mean and the standard deviation of the real samples
    in every pixel.
    """
    found = measure_generator(model, data.x, seed)
    if found is None:
        return f"cannot know: got {len(data)} {where} samples; expected {2 * LEAST} or more"
    if not math.isfinite(found.distance):
        return f"the {model.family} diverged: its samples are NaN or infinite"
    numbers = (
        f"distance {found.distance:.2f} of {found.n:,} samples to {where} samples, where that of real "
        f"samples is 1 and that of noise {found.noise:.2f}"
    )
    if found.is_noise:
        return f"the {model.family} draws samples no better than noise: {numbers}"
    if found.gap < REPEATED:
        return f"the {model.family} repeats few samples (gap {found.gap:.2f} of real samples' gap): {numbers}"
    return f"the {model.family} draws samples better than noise: {numbers}"


@dataclass(frozen=True)
class Measured:
    """Distances of a generator's samples, relative to those of real samples.

    Attributes:
        n: samples.
        distance: to real samples.
        noise: that of noise.
        gap: between nearest samples, in the median.
    """

    n: int
    distance: float
    noise: float
    gap: float

    @property
    def is_noise(self) -> bool:
        """Whether the distance is at least ``NOISE`` of the way from 1 to that of noise, in logarithms."""
        return math.log(self.distance) >= NOISE * math.log(max(self.noise, 1.0 + 1e-6))


def measure_generator(model: GenerativeModel, real: Tensor, seed: int) -> Measured | None:
    """Return the distances of fresh samples; None for too few real samples."""
    generator = stream(seed, Stream.SELF_MEASURE)
    chosen = real[torch.randperm(len(real), generator=generator)[: 2 * MOST]]
    n = len(chosen) // 2
    if n < LEAST:
        return None
    one, other = chosen[:n], chosen[n : 2 * n]
    with hide_progress():
        x = model.sample(n, generator).cpu()
    if not bool(x.isfinite().all()):
        return Measured(n, math.inf, math.nan, math.nan)
    noise = one.mean(0) + one.std(0) * torch.randn(one.shape, generator=generator)
    around = Neighbourhood.around(flatten_small(one))
    base = around.log_distances(flatten_small(other)).mean()
    gap = around.log_gaps(flatten_small(x)).median() - around.log_gaps(flatten_small(other)).median()
    far, very_far = (around.log_distances(flatten_small(each)).mean() - base for each in (x, noise))
    return Measured(n, float(far.exp()), float(very_far.exp()), float(gap.exp()))
