"""retrain: the reference; the same recipe from scratch, without what is to be forgotten."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

from unflow.methods.base import Method, Problem, Training
from unflow.methods.flow_matching import FlowMatching, flow_of, require_flow
from unflow.nets import net_config, new_net


@dataclass(frozen=True, kw_only=True)
class Retrain(Method):
    """Flow matching on retain data from fresh weights, by the recipe of the original.

    The row's quality is that of the whole training. Its loss on held-out data is recorded on the way,
    so that costs can also be compared with the shorter training that stops within 5 % of the best
    held-out loss (``training.seconds_to_within``).

    Attributes:
        coupling: of noise and data, as in the training of the original.
        average: decay of the weight average that becomes the model.
    """

    steps: int = 5000
    learning_rate: float = 2e-3
    coupling: str = "independent"
    average: float = 0.999

    needs: ClassVar[frozenset[str]] = frozenset({"retain"})
    families: ClassVar[frozenset[str]] = frozenset({"flow"})

    def check(self, problem: Problem) -> None:
        """Raise InputError for a chained model, whose own training loss is not known."""
        super().check(problem)
        require_flow(problem)

    def training(self, problem: Problem, seed: int) -> tuple[Training, Problem]:
        """Return flow matching of a fresh network on the retain data."""
        flow = flow_of(problem)
        fresh = new_net(net_config(flow.net), seed)
        loop = FlowMatching(
            steps=self.steps,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            coupling=self.coupling,
            average=self.average,
        )
        return loop, dataclasses.replace(problem, model=flow.with_velocity(fresh), data=problem.retain)
