"""retrain: the reference; the same recipe from scratch, without what is to be forgotten."""

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
    """The training of the original from fresh weights, without what is to be forgotten.

    A flow is trained by flow matching on retain data. A flow map is trained as the original was: by
    distillation, if the problem has a ``teacher`` (a flow that was itself retrained), or by MeanFlow on
    retain data. The defaults are those of a flow; write the steps and the learning rate of the
    original's training for a flow map (``Distill``: 3,000 and 1e-3; ``MeanFlow``: 6,000 and 1e-3).

    The row's quality is that of the whole training. Its loss on held-out data is recorded on the way,
    so that costs can also be compared with the shorter training that stops within 5 % of the best
    held-out loss (``training.seconds_to_within``).
    """

    steps: int = 5000
    learning_rate: float = 2e-3
    average: float = 0.999

    watches_held_out: ClassVar[bool] = True
    label: ClassVar[str] = "retrained"
    summary: ClassVar[str] = "trained from scratch on the retained data only"

    def reads(self, problem: Problem) -> frozenset[str]:
        """Return retain data; for a flow map to be distilled, the teacher in place of them."""
        return frozenset({"teacher" if _is_distilled(problem) else "retain"})

    def training(self, problem: Problem, seed: int) -> tuple[Training, Problem]:
        """Return the training of a fresh network by the recipe of the model's family."""
        loop = Distill(**self.common) if _is_distilled(problem) else self.own_training(problem)
        return loop, dataclasses.replace(problem, model=_reset_weights(problem, seed), data=problem.retain)


def _is_distilled(problem: Problem) -> bool:
    return isinstance(problem.model, FlowMap) and problem.teacher is not None


def _reset_weights(problem: Problem, seed: int) -> Flow | FlowMap:
    model = problem.model
    assert isinstance(model, Flow | FlowMap)
    net = new_net(net_config(model.net), seed)
    return model.with_velocity(net) if isinstance(model, Flow) else model.with_average_velocity(net)
