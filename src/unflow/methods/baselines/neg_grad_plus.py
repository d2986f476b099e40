"""neg_grad_plus: descend on retain data and ascend on forget data in the same step."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from unflow.ground.errors import InputError
from unflow.methods.baselines.own_training import OwnTraining
from unflow.training.losses import MeanFlowLoss, VelocityLoss
from unflow.training.method import Parts, Problem, Tensors, Training, require_batch, select_prefix
from unflow.training.originals.flow_matching import VelocityTraining


class ClippedDifference(nn.Module):
    """L(retain) - s_k L(forget), with s_k limited by the ratio of the gradients.

        s_k = min(s, clip ||grad L(retain)|| / ||grad L(forget)||)

    Args:
        loss: L, of flow matching or MeanFlow; its ``net`` is trained.
        strength: s > 0.
        clip: largest ratio of the norm of the ascent gradient to that of the descent gradient.
    """

    def __init__(self, loss: VelocityLoss | MeanFlowLoss, strength: float, clip: float) -> None:
        super().__init__()
        self.loss, self.strength, self.clip = loss, strength, clip

    def forward(self, *batch: Tensor) -> Tensor:
        """Return the loss for the tensors of a retain batch followed by those of a forget batch."""
        half = len(batch) // 2
        keep: Tensor = self.loss(*batch[:half])
        drop: Tensor = self.loss(*batch[half:])
        ratio = self._norm(keep) / self._norm(drop).clamp(min=1e-12)
        return keep - (self.clip * ratio).clamp(max=self.strength) * drop

    def _norm(self, loss: Tensor) -> Tensor:
        weights = [weight for weight in self.loss.net.parameters() if weight.requires_grad]
        gradients = torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True)
        squares = [gradient.square().sum() for gradient in gradients if gradient is not None]
        return torch.stack(squares).sum().sqrt()


@dataclass(frozen=True, kw_only=True)
class NegGradPlus(OwnTraining):
    """The model's training loss on retain data minus s times that on forget data.

    A flow is trained by flow matching, a flow map by MeanFlow. The ascent gradient is clipped to a tenth
    of the descent gradient's norm, as in the code of arXiv 2503.01034, which uses this baseline for
    generative models. A distilled flow map was not trained by MeanFlow's loss; the change of loss has a cost
    here, as in ``fine_tune``.

    Attributes:
        strength: s of the ascent, > 0.
        clip: largest ratio of the norm of the ascent gradient to that of the descent gradient, > 0.
    """

    strength: float = 1.0
    clip: float = 0.1

    label: ClassVar[str] = "NegGrad+"
    summary: ClassVar[str] = (
        "baseline: climb the loss on the forget data while descending it on the retained data"
    )
    needs: ClassVar[frozenset[str]] = frozenset({"retain", "forget"})
    shares_batches: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("strength", "clip"):
            if not getattr(self, name) > 0:
                raise InputError(f"got {name}={getattr(self, name)}; expected a number > 0")

    def training(self, problem: Problem, seed: int) -> tuple[Training, Problem]:
        """Return the training of the model's family on both kinds of data."""
        own = self.own_training(problem)
        loop = AscentDescent(
            own=own,
            strength=self.strength,
            clip=self.clip,
            steps=self.steps,
            batch_size=self.batch_size,
            learning_rate=own.learning_rate,
        )
        return loop, problem


@dataclass(frozen=True, kw_only=True)
class AscentDescent(VelocityTraining):
    """Flow matching or MeanFlow with the loss ``ClippedDifference`` of a retain batch and a forget batch.

    Attributes:
        own: flow matching or MeanFlow, with the same steps, batch_size and learning_rate.
        strength, clip: as in ``NegGradPlus``.
    """

    own: Training
    strength: float
    clip: float

    falling_loss: ClassVar[str] = ""  # the loss on the forget set is to rise
    needs: ClassVar[frozenset[str]] = frozenset({"retain", "forget"})
    families: ClassVar[frozenset[str]] = frozenset({"flow", "flow_map"})
    shares_batches: ClassVar[bool] = False

    @property
    def derivatives(self) -> frozenset[str]:  # type: ignore[override]
        """Those of ``own``."""
        return self.own.derivatives

    def uncompilable(self) -> str:
        """Return the part of the replaced loss that cannot be compiled."""
        return self.own.uncompilable()

    def prepare(self, problem: Problem, generator: torch.Generator) -> Tensors:
        """Return the tensors that ``own`` prepares from retain data and from forget data."""
        prepared: Tensors = {}
        for kind, rows in (("retain", problem.retain), ("forget", problem.forget)):
            assert rows is not None
            require_batch(len(rows), self.batch_size, f"{kind} samples")
            own = self.own.prepare(dataclasses.replace(problem, data=rows), generator)
            prepared |= _add_prefix(kind, own)
        return prepared

    def init(self, problem: Problem, prepared: Tensors, seed: int) -> Parts:
        """Return the velocity, or average velocity, starting at the trained weights."""
        parts = self.own.init(problem, select_prefix(prepared, "retain/"), seed)
        (part,) = parts.values()
        assert isinstance(part.loss, VelocityLoss | MeanFlowLoss)
        part.loss = ClippedDifference(part.loss, self.strength, self.clip)
        return parts

    def draw(self, prepared: Tensors, generator: torch.Generator) -> Tensors:
        """Draw the batch that ``own`` draws from retain data, then the one from forget data."""
        batch: Tensors = {}
        for kind in ("retain", "forget"):
            batch |= _add_prefix(kind, self.own.draw(select_prefix(prepared, f"{kind}/"), generator))
        return batch

    def result(self, problem: Problem, parts: Parts) -> nn.Module:
        """Return the model with the averaged velocity."""
        return self.own.result(problem, parts)


def _add_prefix(kind: str, tensors: Tensors) -> Tensors:
    return {f"{kind}/{name}": tensor for name, tensor in tensors.items()}
