"""neg_grad_plus: ascend on forget data and descend on retain data at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from unflow.couplings import COUPLINGS
from unflow.errors import InputError, choose
from unflow.methods.base import (
    Descend,
    Part,
    Parts,
    Problem,
    Tensors,
    Training,
    require_batch,
    trainable_copy,
    under,
)
from unflow.methods.flow_matching import draw_flow_batch, flow_data, flow_of, require_flow
from unflow.methods.losses import VelocityLoss


class ClippedDifference(nn.Module):
    """L(retain) - s L(forget), with s lowered until the ascent is a share of the descent.

        s_k = min(s, clip ||grad L(retain)|| / ||grad L(forget)||)

    Args:
        loss: the flow-matching loss, whose ``net`` is trained.
        strength: s > 0.
        clip: largest norm of the ascent gradient relative to the descent gradient.
    """

    def __init__(self, loss: VelocityLoss, strength: float, clip: float) -> None:
        super().__init__()
        self.loss, self.strength, self.clip = loss, strength, clip

    def forward(self, *batch: Tensor) -> Tensor:
        """Return the loss of (x0, x1, t) of retain data followed by (x0, x1, t) of forget data."""
        keep, drop = self.loss(*batch[:3]), self.loss(*batch[3:])
        ratio = self._norm(keep) / self._norm(drop).clamp(min=1e-12)
        return keep - (self.clip * ratio).clamp(max=self.strength) * drop

    def _norm(self, loss: Tensor) -> Tensor:
        weights = list(self.loss.net.parameters())
        gradients = torch.autograd.grad(loss, weights, retain_graph=True)
        return torch.stack([gradient.square().sum() for gradient in gradients]).sum().sqrt()


@dataclass(frozen=True, kw_only=True)
class NegGradPlus(Training):
    """The model's training loss on retain data minus s times that on forget data.

    The ascent gradient is clipped to a tenth of the descent gradient's norm, as in the code of
    arXiv 2503.01034, whose baseline this is for generative models.

    Attributes:
        strength: s of the ascent, > 0.
        clip: largest norm of the ascent gradient relative to the descent gradient, > 0.
        coupling: of noise and data, as in the training of the original.
        average: decay of the weight average that becomes the model.
    """

    steps: int = 300
    learning_rate: float = 3e-4
    strength: float = 1.0
    clip: float = 0.1
    coupling: str = "independent"
    average: float = 0.99

    needs: ClassVar[frozenset[str]] = frozenset({"retain", "forget"})
    families: ClassVar[frozenset[str]] = frozenset({"flow"})
    shares_batches: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        choose(COUPLINGS, self.coupling, "coupling")
        for name in ("strength", "clip"):
            if not getattr(self, name) > 0:
                raise InputError(f"got {name}={getattr(self, name)}; expected a number > 0")

    def check(self, problem: Problem) -> None:
        """Raise InputError for a chained model, whose training loss is not known."""
        super().check(problem)
        require_flow(problem)

    def prepare(self, problem: Problem, generator: torch.Generator) -> Tensors:
        """Return retain and forget data."""
        assert problem.retain is not None
        assert problem.forget is not None
        require_batch(len(problem.retain), self.batch_size, "retain samples")
        require_batch(len(problem.forget), self.batch_size, "forget samples")
        num_draws = self.steps * self.batch_size
        keep = flow_data(problem.retain, self.coupling, num_draws, generator)
        drop = flow_data(problem.forget, self.coupling, num_draws, generator)
        return _named("retain", keep) | _named("forget", drop)

    def init(self, problem: Problem, prepared: Tensors, seed: int) -> Parts:
        """Return the flow's velocity, from the trained weights."""
        net = trainable_copy(flow_of(problem).net)
        loss = ClippedDifference(VelocityLoss(net), self.strength, self.clip)
        return {"velocity": Part(loss, net, self.learning_rate, decay=self.average)}

    def draw(self, prepared: Tensors, generator: torch.Generator) -> Tensors:
        """Draw noise, data and times of both kinds."""
        keep, drop = (
            draw_flow_batch(under(prepared, f"{kind}/"), self.batch_size, generator)
            for kind in ("retain", "forget")
        )
        return _named("retain", keep) | _named("forget", drop)

    def step(self, parts: Parts, batch: Tensors, descend: Descend, progress: float) -> Tensors:
        """Take one step on the velocity."""
        return {"loss": descend("velocity", *batch.values())}

    def result(self, problem: Problem, parts: Parts) -> nn.Module:
        """Return the flow with the averaged velocity."""
        return flow_of(problem).with_velocity(parts["velocity"].average)


def _named(kind: str, tensors: Tensors) -> Tensors:
    return {f"{kind}/{name}": tensor for name, tensor in tensors.items()}
