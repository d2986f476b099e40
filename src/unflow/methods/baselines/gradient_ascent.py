"""gradient_ascent: increase the loss on forget data, without a term for the rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from unflow.energies import Energy
from unflow.models import Flow, GenerativeModel
from unflow.training.losses import VelocityLoss
from unflow.training.method import (
    Descend,
    Part,
    Parts,
    Problem,
    Tensors,
    Training,
    require_batch,
    trainable_copy,
)
from unflow.training.originals.flow_matching import draw_flow_batch
from unflow.training.rates import scale_rate

RATE = 0.002
"""The learning rate relative to the size of the weights."""


class Ascent(nn.Module):
    """-L: descent on it is ascent on L."""

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, *batch: Tensor) -> Tensor:
        """Return minus the loss."""
        loss: Tensor = self.loss(*batch)
        return -loss


class EnergyLoss(nn.Module):
    """lam E[F(G(z))]; the energy is not trained, and so not registered here."""

    def __init__(self, model: GenerativeModel, energy: Energy, strength: float) -> None:
        super().__init__()
        self.model, self.strength = model, strength
        self._read = (energy,)

    def forward(self, z: Tensor) -> Tensor:
        """Return the mean energy of the samples from z, times the strength."""
        (energy,) = self._read
        mean: Tensor = energy(self.model.push(z)).mean()
        return self.strength * mean


@dataclass(frozen=True, kw_only=True)
class GradientAscent(Training):
    """Ascend on the training loss of forget data (flow), or descend on lam F(G(z)) (one-step model).

    No term protects the rest of the law: long training destroys the model, so the default is few steps.

    Attributes:
        learning_rate: None: ``scale_rate`` of the model, a five-hundredth of its weights. A range test cannot
            choose it: the steeper the loss falls, the more is destroyed.
    """

    steps: int = 100
    batch_size: int = 64
    learning_rate: float | None = None

    label: ClassVar[str] = "gradient ascent"
    summary: ClassVar[str] = "baseline: climb the loss on what is to be forgotten"
    needs_gradient: ClassVar[bool] = True
    scales_rate: ClassVar[bool] = True

    def reads(self, problem: Problem) -> frozenset[str]:
        """Return forget data for a flow, the target's energy for a one-step model."""
        return frozenset({"forget" if isinstance(problem.model, Flow) else "target"})

    def prepare(self, problem: Problem, generator: torch.Generator) -> Tensors:
        """Return the forget data (flow), or latents (one-step model)."""
        if isinstance(problem.model, Flow):
            assert problem.forget is not None
            require_batch(len(problem.forget), self.batch_size, "forget samples")
            return {"x1": problem.forget}
        assert isinstance(problem.model, GenerativeModel)
        return {"z": problem.model.prior(self.steps * self.batch_size, generator)}

    def init(self, problem: Problem, prepared: Tensors, seed: int) -> Parts:
        """Return the model, starting at its trained weights."""
        model = trainable_copy(problem.model)
        rate = self.learning_rate or scale_rate(model, RATE)
        if isinstance(model, Flow):
            return {"model": Part(Ascent(VelocityLoss(model.net)), model, rate)}
        assert isinstance(model, GenerativeModel)
        assert problem.target is not None
        loss = EnergyLoss(model, problem.target.energy, problem.target.strength)
        return {"model": Part(loss, model, rate)}

    def draw(self, prepared: Tensors, generator: torch.Generator) -> Tensors:
        """Draw noise, forget data and times (flow), or latents (one-step model)."""
        if "x1" in prepared:
            return draw_flow_batch(prepared, self.batch_size, generator)
        rows = torch.randint(len(prepared["z"]), (self.batch_size,), generator=generator)
        return {"z": prepared["z"][rows]}

    def step(self, parts: Parts, batch: Tensors, descend: Descend, progress: float) -> Tensors:
        """Take one step."""
        return {"loss": descend("model", *batch.values())}

    def result(self, problem: Problem, parts: Parts) -> nn.Module:
        """Return the model."""
        return parts["model"].average
