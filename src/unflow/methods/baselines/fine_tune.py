"""fine_tune: go on training on what is to be kept."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

from unflow.methods.base import Method, Problem, Training
from unflow.methods.flow_matching import FlowMatching
from unflow.methods.mean_flow import MeanFlow
from unflow.models import Flow


@dataclass(frozen=True, kw_only=True)
class FineTune(Method):
    """The model's own training loss on retain data, from the trained weights.

    A flow goes on with flow matching, a flow map with MeanFlow (a baseline of arXiv 2506.18747).

    Attributes:
        coupling: of noise and data, as in the training of the original (a flow's).
        average: decay of the weight average that becomes the model.
    """

    steps: int = 300
    learning_rate: float = 3e-4
    coupling: str = "independent"
    average: float = 0.99

    needs: ClassVar[frozenset[str]] = frozenset({"retain"})
    families: ClassVar[frozenset[str]] = frozenset({"flow", "flow_map"})
    citation: ClassVar[str] = "2506.18747"

    def training(self, problem: Problem, seed: int) -> tuple[Training, Problem]:
        """Return the training loss of the model's family, on the retain data."""
        common = {name: getattr(self, name) for name in ("steps", "batch_size", "learning_rate", "average")}
        is_flow = isinstance(problem.model, Flow)
        loop = FlowMatching(**common, coupling=self.coupling) if is_flow else MeanFlow(**common)
        return loop, dataclasses.replace(problem, data=problem.retain)
