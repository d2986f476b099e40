"""The samples of every row of an audit, and the reference sets of all rows."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from unflow.data import LabelledData
from unflow.energies import Energy
from unflow.evidence.extractors import Extractor
from unflow.evidence.metrics.forgetting import check_request
from unflow.ground.errors import InputError
from unflow.ground.streams import Stream, stream
from unflow.models import GenerativeModel
from unflow.target import Target


@dataclass(frozen=True)
class Samples:
    """The samples of one row.

    Attributes:
        x: samples, [n, *shape].
        z: their latents, [n, *prior_shape]; None for samples without latents.
        inference_ms: milliseconds per sample; None if sampling was not timed.
    """

    x: Tensor
    z: Tensor | None = None
    inference_ms: float | None = None


@dataclass(frozen=True)
class Entry:
    """A row before it is measured: the samples of a method, its data and its cost."""

    method: str
    samples: Samples
    seed: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    original_recoverable: bool = False
    data_used: Sequence[str] = ()
    cost: dict[str, float | int | None] = field(default_factory=dict)


class Judge(Protocol):
    """The interface of a judge: a ``Classifier``, or exact geometry in the plane."""

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        ...

    def probabilities(self, x: Tensor) -> Tensor:
        """Return class probabilities [n, num_classes] of samples [n, *shape]."""
        ...

    def features(self, x: Tensor) -> Tensor:
        """Return the features in which distances are measured, [n, num_features]."""
        ...


@dataclass(frozen=True)
class Evidence:
    """The judges and the real data that all rows of an audit are measured with.

    Attributes:
        judge: a classifier (or exact geometry) that had no part in the request.
        forget: forgotten classes.
        held_out: real samples on which neither generator, guide nor judge was trained.
        training: real samples that the generators were trained on.
        energy: F of the request, stored with the samples for a histogram; None without one.
        extractor: name of the judge's features in tables.
        bandwidth: sigma of the MMD; None: the median distance of the retained held-out features.
        c2st: a name in ``metrics.CLASSIFIERS``.
        second: another judge, for a second forget rate; None without one.
        repeats: resamples for the interval of each distance; 0 for no intervals, tests and classes.
        second_extractor: of features that neither guide nor judge has shaped; None without one.
    """

    judge: Judge
    forget: Sequence[int]
    held_out: LabelledData
    training: LabelledData
    energy: Energy | None = None
    extractor: str = "judge features"
    bandwidth: float | None = None
    c2st: str = "logistic"
    second: Judge | None = None
    repeats: int = 0
    second_extractor: Extractor | None = None

    def __post_init__(self) -> None:
        check_request(self.forget, self.judge.num_classes)
        if self.second is not None and self.second.num_classes != self.judge.num_classes:
            raise InputError(
                f"got judges of {self.judge.num_classes} and {self.second.num_classes} classes; expected the "
                "same classes for both"
            )

    @property
    def retain(self) -> LabelledData:
        """Held-out samples of the retained classes."""
        return self.held_out.without_classes(self.forget)


def draw_samples(model: GenerativeModel, z: Tensor) -> Samples:
    """Push latents through a model and time it."""
    started = time.perf_counter()
    x = model.push_batches(z)
    return Samples(x, z, 1000 * (time.perf_counter() - started) / len(z))


def target_samples(target: Target, n: int, seed: int, which: int) -> Samples:
    """Return the ``which``-th independent set of n exact samples of q*."""
    return _draw_exact(target, n, stream(seed, Stream.TARGET + which))


def floor_samples(target: Target, n: int, seed: int, which: int) -> Samples:
    """Return the ``which``-th of further such sets, between which the floor is measured."""
    return _draw_exact(target, n, stream(seed, Stream.FLOOR, which))


def _draw_exact(target: Target, n: int, generator: torch.Generator) -> Samples:
    bank = target.sample(n, generator)
    return Samples(bank.x, bank.z)
