"""Flow matching: train the velocity of a flow from samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from unflow.ground.errors import InputError, choose
from unflow.mathematics.couplings import COUPLINGS, pair_blocks
from unflow.mathematics.paths import Path, new_path
from unflow.models import Conditional, Flow, without_conditions
from unflow.nets import AdaptedVelocity
from unflow.training.losses import ConditionalVelocityLoss, VelocityLoss
from unflow.training.method import (
    Descend,
    Part,
    Parts,
    Problem,
    Tensors,
    Training,
    check_share,
    draw_rows,
    drop_labels,
    require_batch,
    require_unlabelled,
    trainable_copy,
)


@dataclass(frozen=True, kw_only=True)
class VelocityTraining(Training):
    """A training of one network, the part "velocity"; its loss takes the tensors of a batch in order."""

    falling_loss: ClassVar[str] = "loss"

    def draw(self, prepared: Tensors, generator: torch.Generator) -> Tensors:
        """Draw {x0: noise or its partner of x1, x1: data, t: times}."""
        return draw_flow_batch(prepared, self.batch_size, generator)

    def step(self, parts: Parts, batch: Tensors, descend: Descend, progress: float) -> Tensors:
        """Take one step on the velocity."""
        return {"loss": descend("velocity", *batch.values())}


@dataclass(frozen=True, kw_only=True)
class FlowMatching(VelocityTraining):
    """Regress net(x_t, t) on x1 - x0 with noise x0 and data x1 (arXiv 2302.00482, Eq. 2).

    Attributes:
        path: a name in ``paths.PATHS``.
        coupling: "independent" draws new pairs in every step; "exact_ot" plans pairs once, over blocks
            (arXiv 2302.00482, Section 3.2.2), which gives straighter flows and sharper samples.
        null_share: of a conditional model with a null condition: share of samples trained without their
            condition, in [0, 1) (arXiv 2207.12598).
        average: decay of the weight average that becomes the model.
    """

    steps: int = 5000
    learning_rate: float | None = 2e-3
    path: str = "linear"
    coupling: str = "independent"
    null_share: float = 0.1
    average: float = 0.999

    needs: ClassVar[frozenset[str]] = frozenset({"data"})
    families: ClassVar[frozenset[str]] = frozenset({"flow"})
    citation: ClassVar[str] = "2302.00482"

    def __post_init__(self) -> None:
        super().__post_init__()
        new_path(self.path)
        choose(COUPLINGS, self.coupling, "coupling")
        check_share(self.null_share, "null_share")

    def check(self, problem: Problem) -> None:
        """Raise InputError without data, and for a conditional model without labels."""
        super().check(problem)
        conditional = conditional_of(problem)
        if conditional is not None:
            require_labels(problem, conditional)
            if self.coupling != "independent":
                raise InputError(
                    f"got coupling={self.coupling} for a conditional model; expected independent: a plan "
                    "would make the noise depend on the condition"
                )

    def prepare(self, problem: Problem, generator: torch.Generator) -> Tensors:
        """Return the data, in pairs with noise if the coupling plans pairs."""
        assert problem.data is not None
        require_batch(len(problem.data), self.batch_size, "training samples")
        conditional = conditional_of(problem)
        if conditional is not None:
            return labelled_data(problem, conditional)
        return pair_flow_data(problem.data, self.coupling, self.steps * self.batch_size, generator)

    def init(self, problem: Problem, prepared: Tensors, seed: int) -> Parts:
        """Return the velocity, from its present weights."""
        net, path = flow_of(problem).net, new_path(self.path)
        return {"velocity": make_velocity_part(net, path, self.learning_rate, self.average, problem)}

    def draw(self, prepared: Tensors, generator: torch.Generator) -> Tensors:
        """Draw {x0: noise or its partner of x1, x1: data, t: times}, and labels of a conditional model."""
        return draw_batch(prepared, self.batch_size, self.null_share, generator)

    def result(self, problem: Problem, parts: Parts) -> nn.Module:
        """Return the flow with the averaged velocity."""
        return with_velocity(problem, parts["velocity"].average)

    def held_out_loss(self, problem: Problem, parts: Parts) -> float | None:
        """Return the loss of the averaged velocity on held-out samples, at 16 fixed times each."""
        if problem.held_out is None or conditional_of(problem) is not None:
            return None
        loss = VelocityLoss(parts["velocity"].average, new_path(self.path))
        return measure_flow_loss(loss, problem.held_out)


def require_flow(problem: Problem) -> None:
    """Raise InputError for a chained or labelled model, which has no training loss on data."""
    require_unlabelled(problem, "training on data")
    if not isinstance(problem.model, Flow):
        raise InputError("got a chained model to train on data; expected a Flow: train its base instead")


def conditional_of(problem: Problem) -> Conditional | None:
    """Return the problem's model if it is a conditional one."""
    return problem.model if isinstance(problem.model, Conditional) else None


def flow_of(problem: Problem) -> Flow:
    """Return the problem's model, a flow, or the flow in a conditional model."""
    flow = without_conditions(problem.model)
    assert isinstance(flow, Flow)
    return flow


def with_velocity(problem: Problem, net: nn.Module) -> nn.Module:
    """Return the problem's model, a flow or a conditional one, with another velocity."""
    conditional, flow = conditional_of(problem), flow_of(problem).with_velocity(net)
    return flow if conditional is None else conditional.around(flow)


def labelled_data(problem: Problem, model: Conditional) -> Tensors:
    """Return {x1: data, label: its labels [n]}, and ``null_of`` the conditional model."""
    assert problem.data is not None
    assert problem.labels is not None
    return {"x1": problem.data, "label": problem.labels, **null_of(model)}


def null_of(model: Conditional) -> Tensors:
    """Return {null: the null condition [1]} for prepared tensors; nothing for a model without one."""
    return {} if model.null is None else {"null": torch.tensor([model.null])}


def require_labels(problem: Problem, model: Conditional) -> None:
    """Raise InputError unless the data have labels that the conditional model knows."""
    if problem.labels is None:
        raise InputError("got data without labels for a conditional model; expected labels=..., [n]")
    most = int(problem.labels.max()) if len(problem.labels) else 0
    if most >= model.num_conditions:
        raise InputError(
            f"got the label {most} for a model of {model.num_conditions} conditions; expected labels from 0 "
            f"to {model.num_conditions - 1}"
        )


def make_velocity_part(
    net: nn.Module,
    path: Path,
    learning_rate: float | None,
    average: float,
    problem: Problem | None = None,
    original: AdaptedVelocity | None = None,
) -> Part:
    """Return the flow-matching loss around a copy of ``net``, with its optimizer and average.

    For the problem of a conditional model, it is the loss at given conditions, anchored to ``original``.
    """
    net = trainable_copy(net)
    if problem is not None and conditional_of(problem) is not None and isinstance(net, AdaptedVelocity):
        loss = ConditionalVelocityLoss(net, path, original)
        return Part(loss, net, learning_rate, decay=average)
    return Part(VelocityLoss(net, path), net, learning_rate, decay=average)


MAX_PAIRS, PLAN_SIZE = 2**15, 256
"""Largest number of planned pairs of noise and data, and rows of one plan, whose time is cubic in them."""


def pair_flow_data(data: Tensor, coupling: str, num_draws: int, generator: torch.Generator) -> Tensors:
    """Return {x1: data}, or min(num_draws, MAX_PAIRS) pairs {x1: data, x0: noise} planned over blocks."""
    if coupling == "independent":
        return {"x1": data}
    x1 = data[draw_rows(len(data), min(num_draws, MAX_PAIRS), generator).to(data.device)]
    x0 = torch.randn(x1.shape, generator=generator).to(x1)
    return {"x1": pair_blocks(COUPLINGS[coupling](), x0, x1, PLAN_SIZE), "x0": x0}


def draw_flow_batch(prepared: Tensors, batch_size: int, generator: torch.Generator) -> Tensors:
    """Return {x0: noise, x1: rows of data, t: uniform times} from the tensors of ``pair_flow_data``."""
    rows = draw_rows(len(prepared["x1"]), batch_size, generator).to(prepared["x1"].device)
    x1 = prepared["x1"][rows]
    x0 = prepared["x0"][rows] if "x0" in prepared else torch.randn(x1.shape, generator=generator)
    return {"x0": x0, "x1": x1, "t": torch.rand(batch_size, generator=generator)}


def draw_batch(prepared: Tensors, batch_size: int, null_share: float, generator: torch.Generator) -> Tensors:
    """Return ``draw_flow_batch``; of ``labelled_data`` also {label: of x1, or null with ``null_share``}."""
    if "label" not in prepared:
        return draw_flow_batch(prepared, batch_size, generator)
    rows = draw_rows(len(prepared["x1"]), batch_size, generator)
    x1, label = prepared["x1"][rows], prepared["label"][rows]
    x0 = torch.randn(x1.shape, generator=generator).to(x1)
    t = torch.rand(batch_size, generator=generator)
    if "null" in prepared:
        label = drop_labels(label, prepared["null"], null_share, generator)
    return {"x0": x0, "x1": x1, "t": t, "label": label}


@torch.no_grad()
def measure_flow_loss(loss: nn.Module, data: Tensor, repeats: int = 16) -> float:
    """Return a flow-matching loss with the same noise and times at every call."""
    generator = torch.Generator().manual_seed(0)
    x1 = data.repeat(repeats, *[1] * (data.ndim - 1))
    x0 = torch.randn(x1.shape, generator=generator).to(x1)
    return float(loss(x0, x1, torch.rand(len(x1), generator=generator).to(x1)))
