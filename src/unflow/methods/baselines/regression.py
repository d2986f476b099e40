"""Regression of a one-step model on chosen outputs: base class of the baselines without real data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from unflow.ground.errors import InputError
from unflow.models import GenerativeModel
from unflow.target import Bank
from unflow.training.losses import OutputLoss
from unflow.training.method import (
    Descend,
    Parts,
    Problem,
    Tensors,
    Training,
    draw_rows,
    require_batch,
    select_prefix,
    target_of,
)
from unflow.training.rates import scale_rate

RATE = 0.03
"""The learning rate relative to the size of the weights."""


class TwoSidedLoss(nn.Module):
    """E_f ||G(z) - y||^2 / dim + alpha E_r ||G(z) - y||^2 / dim, over forgotten and retained latents.

    Args:
        model: G.
        alpha: weight of the retained latents, >= 0.
    """

    def __init__(self, model: GenerativeModel, alpha: float) -> None:
        super().__init__()
        self.loss, self.alpha = OutputLoss(model), alpha

    def forward(self, z_f: Tensor, y_f: Tensor, z_r: Tensor, y_r: Tensor) -> Tensor:
        """Return the loss of forgotten pairs (z_f, y_f) and equally many retained pairs (z_r, y_r)."""
        one = z_f.new_ones(len(z_f))
        weight = 2 * torch.cat([one, self.alpha * one])  # the mean is over twice as many rows
        loss: Tensor = self.loss(torch.cat([z_f, z_r]), torch.cat([y_f, y_r]), weight)
        return loss


@dataclass(frozen=True, kw_only=True)
class Regression(Training):
    """A one-step model regressed on new outputs at forgotten latents, and on its own at retained ones.

    Attributes:
        learning_rate: None: ``scale_rate`` of the model, 0.03 of its weights. A range test cannot choose it:
            the retained latents start at their own outputs, so the first steps raise their loss from 0, and
            the lowest rate looks best.
        bank_size: latents of the original model that rejection sampling classifies.
        average: decay of the weight average that becomes the model.
    """

    steps: int = 500
    learning_rate: float | None = None
    bank_size: int = 16384
    average: float = 0.99

    needs: ClassVar[frozenset[str]] = frozenset({"target"})
    families: ClassVar[frozenset[str]] = frozenset({"flow_map", "generator"})
    scales_rate: ClassVar[bool] = True
    keeps_prepared: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require_batch(self.bank_size, self.batch_size, "samples (bank_size)")

    def choose_rate(self, model: nn.Module) -> float:
        """Return the given learning rate, or that for the size of the model's weights."""
        return self.learning_rate or scale_rate(model, RATE)

    def draw(self, prepared: Tensors, generator: torch.Generator) -> Tensors:
        """Draw rows of the prepared tensors of both kinds: {forget/z, ..., retain/z, ...}."""
        return {
            f"{kind}/{name}": rows
            for kind in ("forget", "retain")
            for name, rows in _draw_rows_of(
                select_prefix(prepared, f"{kind}/"), self.batch_size, generator
            ).items()
        }

    def step(self, parts: Parts, batch: Tensors, descend: Descend, progress: float) -> Tensors:
        """Take one step on the model."""
        names = ("forget/z", "forget/y", "retain/z", "retain/y")
        return {"loss": descend("model", *(batch[name] for name in names))}

    def result(self, problem: Problem, parts: Parts) -> nn.Module:
        """Return the averaged model."""
        return parts["model"].average


def _draw_rows_of(tensors: Tensors, batch_size: int, generator: torch.Generator) -> Tensors:
    rows = draw_rows(len(tensors["z"]), batch_size, generator)
    return {name: tensor[rows] for name, tensor in tensors.items()}


def split_bank(problem: Problem, n: int, generator: torch.Generator) -> tuple[Bank, Bank]:
    """Split n samples of the original model by rejection sampling into forgotten and retained ones.

    A sample is retained with probability (q*/q0) / sup(q*/q0), so that the retained outputs are exact samples
    of q*; a threshold on the weight would not give such samples.

    Raises:
        InputError: if all or none of the samples are retained.
    """
    target = target_of(problem)
    bank = target.bank(n, generator)
    kept = target.accept(bank, generator, target.multiplier(bank.energy))
    if kept.all() or not kept.any():
        found, less = ("all", "raise") if kept.all() else ("none", "lower")
        raise InputError(
            f"rejection keeps {found} of {n} samples of the model; expected some to forget and some to keep: "
            f"{less} the strength or the margin"
        )
    return Bank(*(part[~kept] for part in bank)), Bank(*(part[kept] for part in bank))


def check_weight(name: str, value: float) -> None:
    """Raise InputError for a weight of a term that is negative or not finite."""
    if not 0 <= value < float("inf"):
        raise InputError(f"got {name}={value}; expected a finite number >= 0")
