"""Base class of the baselines that continue or repeat the training of the original."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from unflow.ground.errors import InputError, choose
from unflow.mathematics.couplings import COUPLINGS
from unflow.models import Flow, FlowMap, without_conditions
from unflow.training.method import Problem, Trained, Training, model_of, require_unlabelled
from unflow.training.originals.flow_matching import FlowMatching
from unflow.training.originals.mean_flow import MeanFlow
from unflow.training.rates import scale_rate

RATE = 0.02
"""The learning rate relative to the size of the weights."""


@dataclass(frozen=True, kw_only=True)
class OwnTraining(Trained):
    """A method that trains by the loss of the model's family: flow matching, or MeanFlow for a flow map.

    Attributes:
        coupling: of noise and data, as in the training of the original; for flows only.
        average: decay of the weight average that becomes the model.
        learning_rate: None: ``scale_rate`` of the model, a fiftieth of its weights. A range test cannot
            choose it: at trained weights a few steps do not lower the loss.
    """

    steps: int = 300
    learning_rate: float | None = None
    coupling: str = "independent"
    average: float = 0.99

    families: ClassVar[frozenset[str]] = frozenset({"flow", "flow_map"})

    def __post_init__(self) -> None:
        super().__post_init__()
        choose(COUPLINGS, self.coupling, "coupling")

    def check(self, problem: Problem) -> None:
        """Raise InputError for a chained model, which has no training loss on data, and unfit conditions."""
        super().check(problem)
        self.check_conditions(problem)
        model = problem.model
        if not isinstance(without_conditions(model), Flow | FlowMap):
            raise InputError(
                "got a chained model to train on data; expected a Flow or a FlowMap: train its base instead"
            )

    def check_conditions(self, problem: Problem) -> None:
        """Raise InputError for a conditional model, whose labels the method does not read."""
        require_unlabelled(problem, "training on data")

    def common(self, model: nn.Module) -> dict[str, Any]:
        """Return the hyper-parameters of every training of a base model, with the rate for this model."""
        named = {name: getattr(self, name) for name in ("steps", "batch_size", "average")}
        return named | {"learning_rate": self.learning_rate or scale_rate(model, RATE)}

    def own_training(self, problem: Problem) -> Training:
        """Return the training of the model's family with these hyper-parameters."""
        common = self.common(problem.model)
        if model_of(problem).family == "flow_map":
            return MeanFlow(**common)
        return FlowMatching(**common, coupling=self.coupling)
