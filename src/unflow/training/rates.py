"""The learning rate of a training that names none, and the watch over its loss."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

RATES = (3e-2, 1e-2, 3e-3, 1e-3, 3e-4)
"""The rates that a range test compares."""
PROGRESS = 0.5
"""Share of the best rate's progress in the range test that the chosen rate must make."""
UNTRIED, MIN_TRIED = 3e-3, 4
"""The rate of a training that is too short for a range test, which needs these steps with each rate."""
TRIED = 0.05
"""Largest share of the training's steps that the range test takes, over all rates."""
RISE = 2.0
"""A training has diverged when a window's mean loss is more than this times the loss before training.

A window is a twentieth of the steps, at least 20."""
MIN_START = 5
"""First losses that stand for the loss before training where a rate is given."""
START = 20
"""Fewest batches on which the loss before training is measured where the rate is chosen."""
LOWER, MAX_RESTARTS = 3.0, 4
"""A diverged run starts again at the rate divided by LOWER, at most MAX_RESTARTS times."""


def count_trial_steps(steps: int) -> int:
    """Return the steps of a range test for each rate, and for rate 0; 0 if a training is too short for it."""
    found = int(TRIED * steps) // (len(RATES) + 1)
    return found if found >= MIN_TRIED else 0


def pick_rate(start: float, losses: Sequence[float]) -> float:
    """Return the highest rate whose trial loss falls at least half as much as that of the best rate.

    A few steps favour low rates, a long training with a falling schedule the highest stable one.

    Args:
        start: the loss on the batches of the trial without training (rate 0).
        losses: of the trial with each of ``RATES``; NaN or infinite for one that diverges.

    Returns:
        the rate; the lowest one if the loss falls with none.
    """
    falls = [start - loss if math.isfinite(loss) else -math.inf for loss in losses]
    if max(falls) <= 0:
        return RATES[-1]
    return next(rate for rate, fall in zip(RATES, falls, strict=True) if fall >= PROGRESS * max(falls))


def bound_mean(losses: Sequence[float]) -> float:
    """Return the mean of two or more losses plus 3 standard errors, which are large for a rare class."""
    mean = statistics.fmean(losses)
    if not math.isfinite(mean):
        return mean
    return mean + 3 * statistics.stdev(losses, mean) / math.sqrt(len(losses))


@dataclass
class Watch:
    """The mean loss of each window of steps, and the restarts that it has caused; checkpoints hold it.

    Attributes:
        window: steps of one window.
        rate: peak learning rate of the parts that name none; None before it is chosen.
        restarts: number of restarts so far.
        said: whether the user has read that the loss rises.
        start: the loss before training (``bound_mean``); 0 if no batch has a loss, which then sets no limit.
            None where a rate is given: the first loss, or the mean of the first ``MIN_START`` ones if that is
            lower, takes its place.
        first: those losses so far.
        total: sum of the losses of the present window.
        count: steps of the present window so far.
    """

    window: int
    rate: float | None = None
    restarts: int = 0
    said: bool = False
    start: float | None = None
    first: list[float] = field(default_factory=list)
    total: float | Tensor = 0.0
    count: int = 0

    def add(self, loss: Tensor) -> bool:
        """Add the loss of one step; return whether a window has ended here whose mean is NaN or too high.

        Only the end of a window waits for the device.
        """
        if self.start is None:
            self._add_first(float(loss))
        self.total, self.count = self.total + loss, self.count + 1
        if self.count < self.window:
            return False
        mean, self.total, self.count = float(self.total) / self.count, 0.0, 0
        most = RISE * self.start if self.start else math.inf
        return not math.isfinite(mean) or mean > most

    def _add_first(self, loss: float) -> None:
        self.first = [*self.first, loss]
        if len(self.first) == MIN_START:
            self.start = min(self.first[0], sum(self.first) / MIN_START)

    def restart(self) -> None:
        """Lower the rate, and forget the losses."""
        assert self.rate is not None
        self.rate, self.restarts = self.rate / LOWER, self.restarts + 1
        self.total, self.count = 0.0, 0

    def state(self) -> dict[str, Any]:
        """Return the fields as plain data."""
        return vars(self) | {"total": float(self.total)}


def scale_rate(net: nn.Module, share: float) -> float:
    """Return the learning rate of Adam that changes a typical weight by ``share`` of its size in a step.

    The size is the median, over the weight matrices and kernels that are trained, of the root mean square of
    their entries: 0.02 to 0.1 in common networks. In a network without gradients all are counted.
    """
    weights = list(net.parameters())
    trained = [weight for weight in weights if weight.requires_grad] or weights
    sizes = [weight.detach().square().mean().sqrt() for weight in trained if weight.ndim > 1]
    found = share * float(torch.stack(sizes).median()) if sizes else 0.0
    return found if found > 0 else UNTRIED
