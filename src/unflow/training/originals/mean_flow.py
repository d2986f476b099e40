"""MeanFlow: train a flow map from samples, by one forward-mode derivative."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from unflow.ground.errors import InputError
from unflow.models import Conditional, FlowMap, GenerativeModel
from unflow.nets import AdaptedAverageVelocity
from unflow.training.losses import ConditionalMeanFlowLoss, MeanFlowLoss
from unflow.training.method import Part, Parts, Problem, Tensors, check_share, require_batch, trainable_copy
from unflow.training.originals.flow_matching import (
    VelocityTraining,
    conditional_of,
    draw_batch,
    labelled_data,
    require_labels,
)


@dataclass(frozen=True, kw_only=True)
class MeanFlow(VelocityTraining):
    """Regress U(x_s; s, e) on v + (e - s) dU/ds along the path (arXiv 2505.13447, Eqs. 9-11).

    A conditional model learns the average velocity of each condition, at ``guidance``
    (``ConditionalMeanFlowLoss``): one evaluation then draws a sample at that guidance.

    Attributes:
        interval_share: share of samples with s < e; the others have s = e, plain flow matching.
        power: of the adaptive weight, in [0, 1].
        guidance: of a conditional model: guidance scale of the flow whose average velocity is learned; 1: the
            condition alone. Another scale needs a null condition.
        null_share: of a conditional model with a null condition: share of samples trained without their
            condition, in [0, 1).
        average: decay of the weight average that becomes the model.
    """

    steps: int = 6000
    learning_rate: float = 1e-3
    interval_share: float = 0.5
    power: float = 1.0
    guidance: float = 1.0
    null_share: float = 0.1
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
        check_share(self.null_share, "null_share")
        check_guidance(self.guidance)
        if self.guidance != 1 and self.null_share == 0:
            raise InputError(
                f"got guidance={self.guidance:g} and null_share=0; expected null_share > 0, because guidance "
                "reads the velocity of the null condition: write null_share=0.1"
            )

    def check(self, problem: Problem) -> None:
        """Raise InputError without data, for a conditional model without labels, and for unfit guidance."""
        super().check(problem)
        conditional = conditional_of(problem)
        if conditional is not None:
            require_labels(problem, conditional)
        if self.guidance != 1:
            require_null(conditional, self.guidance, "model")

    def uncompilable(self) -> str:
        """Return the name of the derivative along the path."""
        return "a forward-mode derivative"

    def prepare(self, problem: Problem, generator: torch.Generator) -> Tensors:
        """Return the data."""
        assert problem.data is not None
        require_batch(len(problem.data), self.batch_size, "training samples")
        conditional = conditional_of(problem)
        return {"x1": problem.data} if conditional is None else labelled_data(problem, conditional)

    def init(self, problem: Problem, prepared: Tensors, seed: int) -> Parts:
        """Return the average velocity, from its present weights."""
        net = trainable_copy(flow_map_of(problem).net)
        return {"velocity": Part(self.make_loss(net, problem), net, self.learning_rate, decay=self.average)}

    def make_loss(self, net: nn.Module, problem: Problem) -> nn.Module:
        """Return the loss of an average velocity; for a conditional model that at given conditions."""
        conditional = conditional_of(problem)
        if conditional is None:
            return MeanFlowLoss(net, self.power)
        assert isinstance(net, AdaptedAverageVelocity)
        return ConditionalMeanFlowLoss(net, conditional.null, self.guidance, self.power)

    def draw(self, prepared: Tensors, generator: torch.Generator) -> Tensors:
        """Draw noise, data, labels of a conditional model, and time intervals."""
        batch = draw_batch(prepared, self.batch_size, self.null_share, generator)
        first, second = batch.pop("t"), torch.rand(self.batch_size, generator=generator)
        interval = torch.rand(self.batch_size, generator=generator) < self.interval_share
        start = torch.minimum(first, second)
        return batch | {"start": start, "end": torch.where(interval, first.maximum(second), start)}

    def result(self, problem: Problem, parts: Parts) -> nn.Module:
        """Return the model with the averaged network."""
        return make_flow_map(problem, parts)


def flow_map_of(problem: Problem) -> FlowMap:
    """Return the problem's model, a flow map, or the flow map in a conditional model."""
    conditional = conditional_of(problem)
    model = problem.model if conditional is None else conditional.inner
    assert isinstance(model, FlowMap)
    return model


def make_flow_map(problem: Problem, parts: Parts) -> nn.Module:
    """Return the problem's model, with the averaged network of the part "velocity" in its flow map."""
    flow_map = flow_map_of(problem).with_average_velocity(parts["velocity"].average)
    conditional = conditional_of(problem)
    return flow_map if conditional is None else conditional.around(flow_map)


def check_guidance(guidance: float) -> None:
    """Raise InputError for a guidance scale that is not finite."""
    if not math.isfinite(guidance):
        raise InputError(f"got guidance={guidance}; expected a finite number")


def require_null(model: GenerativeModel | None, guidance: float, what: str) -> None:
    """Raise InputError unless ``model``, the model or teacher of a training, has a null condition."""
    if not isinstance(model, Conditional):
        raise InputError(
            f"got guidance={guidance:g} for a {what} without conditions; expected a conditional one: train "
            "with --conditional true, or leave guidance out"
        )
    if model.null is None:
        raise InputError(
            f"got guidance={guidance:g} for a {what} without a null condition; expected one that has a label "
            "for no class: leave guidance out, or declare null=10 in its specification"
        )
