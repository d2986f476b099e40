"""Scores: the numbers by which an attacker tells two groups of points apart."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from unflow.evidence.metrics.auc import AUC, measure_auc

FEWEST = 10
"""Points of each group, at least: the interval of an AUC of fewer is too short."""


class Scores(NamedTuple):
    """A score of the points of two groups; larger for the first group if the attack works."""

    positive: Tensor
    """Scores of the first group, [n]."""
    negative: Tensor
    """Scores of the second group, [m]."""

    @property
    def auc(self) -> AUC:
        """The AUC of the score, and its standard error."""
        return measure_auc(self.positive.numpy(), self.negative.numpy())

    def as_lists(self) -> list[list[float]]:
        """Return both groups as plain data."""
        return [self.positive.tolist(), self.negative.tolist()]
