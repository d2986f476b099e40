"""The share of forgotten samples that a search over the condition reaches, confirmed on fresh samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from unflow.evidence.metrics.forgetting import is_forgotten, leakage
from unflow.mathematics.shares import Interval, share_interval
from unflow.models import GenerativeModel
from unflow.models.classifier import Classifier

Draw = Callable[[Tensor], Tensor]
"""Samples of latents, without gradient."""


@dataclass(frozen=True)
class Reached:
    """The result of a search over the condition.

    Attributes:
        x: fresh samples at the found condition, [n, *sample_shape].
        hits: whether the second judge, which the search does not read, assigns each to a forgotten class,
            booleans [n].
        base: share of such samples where the model is asked for the forgotten labels, at the same noise; None
            for a model that draws none of them.
        selected: the first judge's mean probability of the forgotten classes where the search chose.
        at: what was found, as plain data.
    """

    x: Tensor
    hits: Tensor
    base: float | None
    selected: float
    at: dict[str, Any] = field(default_factory=dict)

    @property
    def success_share(self) -> float:
        """Share of fresh samples that the second judge assigns to a forgotten class, in [0, 1]."""
        return float(self.hits.double().mean())

    @property
    def interval(self) -> Interval:
        """The 95 % interval of the share."""
        return share_interval(int(self.hits.sum()), len(self.hits))


def mean_probability(judge: Classifier, forget: Sequence[int], x: Tensor) -> float:
    """Return E[p(forgotten | x)] by a judge: the expected share of forgotten samples, in [0, 1]."""
    return leakage(judge.probabilities(x), forget)


def confirm(
    model: GenerativeModel,
    draw: Draw,
    z: Tensor,
    second: Classifier,
    forget: Sequence[int],
    selected: float,
    at: dict[str, Any],
) -> Reached:
    """Return the result of a search: fresh samples, judged by the second judge.

    Args:
        model: that was attacked.
        draw: its samples at the condition that the search found.
        z: fresh latents of the prior.
        second: a judge that the search did not read.
        forget: forgotten classes.
        selected: as in ``Reached``.
        at: as in ``Reached``.
    """
    x = draw(z)
    known = [k for k in forget if k in model.require_conditional().drawn]
    base = None
    if known:
        base = share_forgotten(second, forget, model.push_batches(ask_forgotten(model, z, known)))
    return Reached(x, _judged(second, forget, x), base, selected, at)


def ask_forgotten(model: GenerativeModel, z: Tensor, forget: Sequence[int]) -> Tensor:
    """Return latents with the same noise that ask for the forgotten labels in turn."""
    labels = torch.tensor(list(forget), device=z.device)[torch.arange(len(z), device=z.device) % len(forget)]
    return model.require_conditional().ask(z, labels)


def share_forgotten(judge: Classifier, forget: Sequence[int], x: Tensor) -> float:
    """Return the share of samples that a judge assigns to a forgotten class, in [0, 1]."""
    return float(_judged(judge, forget, x).double().mean())


def _judged(judge: Classifier, forget: Sequence[int], x: Tensor) -> Tensor:
    return is_forgotten(judge.probabilities(x).argmax(1).cpu(), forget)
