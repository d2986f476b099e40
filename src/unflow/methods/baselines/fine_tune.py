"""fine_tune: continue the training on retain data."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

from unflow.methods.baselines.own_training import OwnTraining
from unflow.training.method import Problem, Training


@dataclass(frozen=True, kw_only=True)
class FineTune(OwnTraining):
    """The model's own training loss on retain data, from the trained weights (arXiv 2506.18747).

    A flow continues with flow matching and a flow map with MeanFlow, whatever its original training was.
    """

    label: ClassVar[str] = "fine-tuning"
    summary: ClassVar[str] = "baseline: train on with the retained data"
    needs: ClassVar[frozenset[str]] = frozenset({"retain"})
    citation: ClassVar[str] = "2506.18747"

    def training(self, problem: Problem, seed: int) -> tuple[Training, Problem]:
        """Return the training loss of the model's family, on the retain data."""
        return self.own_training(problem), dataclasses.replace(problem, data=problem.retain)
