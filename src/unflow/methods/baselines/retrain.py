"""retrain: the reference, the original's training from scratch on retain data."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

from unflow.methods.baselines.own_training import OwnTraining
from unflow.models import Flow, FlowMap
from unflow.nets import net_config, new_net
from unflow.training.method import Problem, Training
from unflow.training.originals.distill import Distill


@dataclass(frozen=True, kw_only=True)
class Retrain(OwnTraining):
    """The training of the original from fresh weights, on retain data only.

    A flow is trained by flow matching. A flow map is trained by distillation if the problem has a ``teacher``
    (a retrained flow), else by MeanFlow. The defaults are those of a flow; for a flow map, write the steps
    and the learning rate of the original's training (``Distill``: 3,000 and 1e-3; ``MeanFlow``: 6,000 and
    1e-3).

    The loss on held-out data is recorded, so that costs can also be compared with a shorter training that
    stops within 5 % of the best held-out loss (``seconds_to_within``).
    """

    steps: int = 5000
    learning_rate: float = 2e-3
    average: float = 0.999

    watches_held_out: ClassVar[bool] = True
    label: ClassVar[str] = "retrained"
    summary: ClassVar[str] = "trained from scratch on the retained data only"

    def reads(self, problem: Problem) -> frozenset[str]:
        """Return the teacher for a flow map with one, else retain."""
        return frozenset({"teacher" if _is_distilled(problem) else "retain"})

    def training(self, problem: Problem, seed: int) -> tuple[Training, Problem]:
        """Return the training of the model's family, for a model with fresh weights."""
        loop = Distill(**self.common(problem.model)) if _is_distilled(problem) else self.own_training(problem)
        return loop, dataclasses.replace(problem, model=_reset_weights(problem, seed), data=problem.retain)


def _is_distilled(problem: Problem) -> bool:
    return isinstance(problem.model, FlowMap) and problem.teacher is not None


def _reset_weights(problem: Problem, seed: int) -> Flow | FlowMap:
    model = problem.model
    assert isinstance(model, Flow | FlowMap)
    net = new_net(net_config(model.net), seed)
    return model.with_velocity(net) if isinstance(model, Flow) else model.with_average_velocity(net)
