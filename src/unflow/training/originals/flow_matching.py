"""Flow matching: train the velocity of a flow from samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from unflow.ground.errors import InputError, choose
from unflow.mathematics.couplings import COUPLINGS, pair_blocks
from unflow.mathematics.paths import Path, new_path
from unflow.models import Flow
from unflow.training.losses import VelocityLoss
from unflow.training.method import (
    Descend,
    Part,
    Parts,
    Problem,
    Tensors,
    Training,
    draw_rows,
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
        average: decay of the weight average that becomes the model.
    """

    steps: int = 5000
    learning_rate: float | None = 2e-3
    path: str = "linear"
    coupling: str = "independent"
    average: float = 0.999

    needs: ClassVar[frozenset[str]] = frozenset({"data"})
    families: ClassVar[frozenset[str]] = frozenset({"flow"})
    citation: ClassVar[str] = "2302.00482"

    def __post_init__(self) -> None:
        super().__post_init__()
        new_path(self.path)
        choose(COUPLINGS, self.coupling, "coupling")

    def check(self, problem: Problem) -> None:
        """Raise InputError for a labelled model, or without data."""
        super().check(problem)
        require_unlabelled(problem, "training on data")

    def prepare(self, problem: Problem, generator: torch.Generator) -> Tensors:
        """Return the data, in pairs with noise if the coupling plans pairs."""
        assert problem.data is not None
        require_batch(len(problem.data), self.batch_size, "training samples")
        return pair_flow_data(problem.data, self.coupling, self.steps * self.batch_size, generator)

    def init(self, problem: Problem, prepared: Tensors, seed: int) -> Parts:
        """Return the velocity, from its present weights."""
        net, path = flow_of(problem).net, new_path(self.path)
        return {"velocity": make_velocity_part(net, path, self.learning_rate, self.average)}

    def result(self, problem: Problem, parts: Parts) -> nn.Module:
        """Return the flow with the averaged velocity."""
        return flow_of(problem).with_velocity(parts["velocity"].average)

    def held_out_loss(self, problem: Problem, parts: Parts) -> float | None:
        """Return the loss of the averaged velocity on held-out samples, at 16 fixed times each."""
        if problem.held_out is None:
            return None
        loss = VelocityLoss(parts["velocity"].average, new_path(self.path))
        return measure_flow_loss(loss, problem.held_out)


def require_flow(problem: Problem) -> None:
    """Raise InputError for a chained or labelled model, which has no training loss on data."""
    require_unlabelled(problem, "training on data")
    if not isinstance(problem.model, Flow):
        raise InputError("got a chained model to train on data; expected a Flow: train its base instead")


def flow_of(problem: Problem) -> Flow:
    """Return the problem's model, a flow."""
    assert isinstance(problem.model, Flow)
    return problem.model


def make_velocity_part(net: nn.Module, path: Path, learning_rate: float | None, average: float) -> Part:
    """Return the flow-matching loss around a copy of ``net``, with its optimizer and average."""
    net = trainable_copy(net)
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


@torch.no_grad()
def measure_flow_loss(loss: nn.Module, data: Tensor, repeats: int = 16) -> float:
    """Return a flow-matching loss with the same noise and times at every call."""
    generator = torch.Generator().manual_seed(0)
    x1 = data.repeat(repeats, *[1] * (data.ndim - 1))
    x0 = torch.randn(x1.shape, generator=generator).to(x1)
    return float(loss(x0, x1, torch.rand(len(x1), generator=generator).to(x1)))
