"""Training with labels that have no samples of their own: they learn the mixture of all samples."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unflow.models import Conditional
from unflow.training.method import Parts, Problem, Tensors, Training
from unflow.training.originals.flow_matching import VelocityTraining, conditional_of


@dataclass(frozen=True, kw_only=True)
class SpareLabels(VelocityTraining):
    """A conditional training in which some samples take a label that has no samples of its own.

    A sample of any label takes the spare label c with probability p_c, that of the model. So c learns the
    mixture of all samples, as often as the model draws it, and the other labels learn the same as before.

    Attributes:
        own: flow matching or MeanFlow, with the same steps, batch_size and learning_rate.
    """

    own: Training

    @classmethod
    def around(cls, own: Training) -> SpareLabels:
        """Return the training with the hyper-parameters of ``own``."""
        return cls(own=own, steps=own.steps, batch_size=own.batch_size, learning_rate=own.learning_rate)

    @property
    def falling_loss(self) -> str:  # type: ignore[override]
        """That of ``own``."""
        return self.own.falling_loss

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        """Those of ``own``."""
        return self.own.needs

    @property
    def families(self) -> frozenset[str]:  # type: ignore[override]
        """Those of ``own``."""
        return self.own.families

    @property
    def derivatives(self) -> frozenset[str]:  # type: ignore[override]
        """Those of ``own``."""
        return self.own.derivatives

    def uncompilable(self) -> str:
        """Return the part of the loss of ``own`` that cannot be compiled."""
        return self.own.uncompilable()

    def check(self, problem: Problem) -> None:
        """Raise InputError as ``own``."""
        self.own.check(problem)

    def prepare(self, problem: Problem, generator: torch.Generator) -> Tensors:
        """Return the tensors of ``own``, and the spare labels with their probabilities."""
        model = conditional_of(problem)
        assert model is not None
        spare = find_spare(problem, model)
        shares = torch.tensor([model.probabilities[k] for k in spare])
        return self.own.prepare(problem, generator) | {"spare": torch.tensor(spare), "shares": shares}

    def init(self, problem: Problem, prepared: Tensors, seed: int) -> Parts:
        """Return the network of ``own``."""
        return self.own.init(problem, prepared, seed)

    def draw(self, prepared: Tensors, generator: torch.Generator) -> Tensors:
        """Draw a batch of ``own``, of which some samples take a spare label; null stays null."""
        batch = self.own.draw(prepared, generator)
        label = spread_spare(batch["label"], prepared["spare"], prepared["shares"], generator)
        if "null" in prepared:
            label = torch.where(batch["label"] == prepared["null"], batch["label"], label)
        return batch | {"label": label}

    def result(self, problem: Problem, parts: Parts) -> nn.Module:
        """Return the model of ``own``."""
        return self.own.result(problem, parts)


def find_spare(problem: Problem, model: Conditional) -> list[int]:
    """Return the labels that the model draws and none of the problem's samples has."""
    assert problem.labels is not None
    seen = {*torch.unique(problem.labels).tolist(), model.null}
    return [k for k in model.drawn if k not in seen]


def spread_spare(label: Tensor, spare: Tensor, shares: Tensor, generator: torch.Generator) -> Tensor:
    """Return labels [n], of which each becomes spare label c with probability share c; sum shares < 1."""
    place = torch.rand(len(label), generator=generator)
    row = torch.searchsorted(shares.cpu().cumsum(0), place, right=True)
    taken = spare[row.clamp(max=len(spare) - 1).to(spare.device)].to(label)
    return torch.where((row < len(spare)).to(label.device), taken, label)
