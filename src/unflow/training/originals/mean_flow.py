"""MeanFlow: train a flow map from samples, by one forward-mode derivative."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from unflow.ground.errors import InputError
from unflow.models import FlowMap
from unflow.training.losses import MeanFlowLoss
from unflow.training.method import (
    Part,
    Parts,
    Problem,
    Tensors,
    require_batch,
    require_unlabelled,
    trainable_copy,
)
from unflow.training.originals.flow_matching import VelocityTraining


@dataclass(frozen=True, kw_only=True)
class MeanFlow(VelocityTraining):
    """Regress U(x_s; s, e) on v + (e - s) dU/ds along the path (arXiv 2505.13447, Eqs. 9-11).

    Attributes:
        interval_share: share of samples with s < e; the others have s = e, plain flow matching.
        power: of the adaptive weight, in [0, 1].
        average: decay of the weight average that becomes the model.
    """

    steps: int = 6000
    learning_rate: float = 1e-3
    interval_share: float = 0.5
    power: float = 1.0
    average: float = 0.999

    falling_loss: ClassVar[str] = ""  # it is weighted anew at every step
    needs: ClassVar[frozenset[str]] = frozenset({"data"})
    families: ClassVar[frozenset[str]] = frozenset({"flow_map"})
    citation: ClassVar[str] = "2505.13447"
    derivatives: ClassVar[frozenset[str]] = frozenset({"weights", "times"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.interval_share <= 1:
            raise InputError(f"got interval_share={self.interval_share}; expected a number in [0, 1]")

    def check(self, problem: Problem) -> None:
        """Raise InputError for a labelled model, or without data."""
        super().check(problem)
        require_unlabelled(problem, "training on data")

    def uncompilable(self) -> str:
        """Return the name of the derivative along the path."""
        return "a forward-mode derivative"

    def prepare(self, problem: Problem, generator: torch.Generator) -> Tensors:
        """Return the data."""
        assert problem.data is not None
        require_batch(len(problem.data), self.batch_size, "training samples")
        return {"x1": problem.data}

    def init(self, problem: Problem, prepared: Tensors, seed: int) -> Parts:
        """Return the average velocity, from its present weights."""
        net = trainable_copy(flow_map_of(problem).net)
        part = Part(MeanFlowLoss(net, self.power), net, self.learning_rate, decay=self.average)
        return {"velocity": part}

    def draw(self, prepared: Tensors, generator: torch.Generator) -> Tensors:
        """Draw noise, data and time intervals."""
        batch = super().draw(prepared, generator)
        first, second = batch.pop("t"), torch.rand(self.batch_size, generator=generator)
        interval = torch.rand(self.batch_size, generator=generator) < self.interval_share
        start = torch.minimum(first, second)
        return batch | {"start": start, "end": torch.where(interval, first.maximum(second), start)}

    def result(self, problem: Problem, parts: Parts) -> nn.Module:
        """Return the flow map with the averaged network."""
        return make_flow_map(problem, parts)


def flow_map_of(problem: Problem) -> FlowMap:
    """Return the problem's model, a flow map."""
    assert isinstance(problem.model, FlowMap)
    return problem.model


def make_flow_map(problem: Problem, parts: Parts) -> FlowMap:
    """Return the problem's flow map with the averaged network of the part "velocity"."""
    return flow_map_of(problem).with_average_velocity(parts["velocity"].average)
