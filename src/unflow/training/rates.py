"""The learning rate of a training that names none, and the watch over its loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

RATES = tuple(3e-2 / 10 ** (k / 2) for k in range(6))
"""The rates that a range test compares, largest first: two in a decade, 3e-2 to 1e-4."""
UNTRIED = 1e-3
"""The rate of a training that is too short for a range test."""
TRIED = 0.05
"""Largest share of the training's steps that the range test takes, over all rates."""
RISE = 1.5
"""A training has diverged when a window's mean loss is more than this times that of the first window."""
LOWER, MAX_RESTARTS = 3.0, 4
"""A diverged run starts again at the rate divided by LOWER, at most MAX_RESTARTS times."""


def count_trial_steps(steps: int) -> int:
    """Return the steps of the range test for each of ``RATES``; 0 if a training is too short for a test."""
    return int(TRIED * steps) // len(RATES)


def pick_rate(scores: Sequence[float]) -> float:
    """Return the rate of ``RATES`` with the lowest score, a loss; NaN counts as infinite.

    If no score is finite, it is the lowest rate.
    """
    finite = [score if math.isfinite(score) else math.inf for score in scores]
    return RATES[finite.index(min(finite))] if min(finite) < math.inf else RATES[-1]


@dataclass
class Watch:
    """The mean loss of each window of steps, and the restarts that it has caused; checkpoints hold it.

    Attributes:
        window: steps of one window.
        rate: peak learning rate of the parts that name none; None before it is chosen.
        restarts: number of restarts so far.
        said: whether the user has read that the loss rises.
        first: mean loss of the first window; None before its end.
        total: sum of the losses of the present window.
        count: steps of the present window so far.
    """

    window: int
    rate: float | None = None
    restarts: int = 0
    said: bool = False
    first: float | None = None
    total: float | Tensor = 0.0
    count: int = 0

    def add(self, loss: Tensor) -> bool:
        """Add the loss of one step; return whether a window has ended here whose mean is NaN or too high.

        Only the end of a window waits for the device.
        """
        self.total, self.count = self.total + loss, self.count + 1
        if self.count < self.window:
            return False
        mean, self.total, self.count = float(self.total) / self.count, 0.0, 0
        if self.first is None:
            self.first = mean
        return not mean <= RISE * max(self.first, 0.0)

    def restart(self) -> None:
        """Lower the rate, and forget the losses."""
        assert self.rate is not None
        self.rate, self.restarts = self.rate / LOWER, self.restarts + 1
        self.first, self.total, self.count = None, 0.0, 0

    def state(self) -> dict[str, float | bool | None]:
        """Return the fields as plain data."""
        return vars(self) | {"total": float(self.total)}
