"""reject: a filter behind the model, and no training."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import ClassVar

import torch

from unflow.energies import Energy, frozen
from unflow.ground.errors import InputError
from unflow.models import Filtered
from unflow.training.method import Problem, Untrained, model_of, target_of


@dataclass(frozen=True, kw_only=True)
class Reject(Untrained):
    r"""Draw again while a sample is rejected: the exact target, from a model that has forgotten nothing.

        P(accept x) = (q*/q0) / sup(q*/q0)

    No weight changes, and the original is inside. It is the upper line for quality, and the row to beat:
    the price is a look of the guide at every sample and 1 / P(accept) pushes for each.

    Attributes:
        rounds: draws before a latent is given up, >= 1.
        bank_size: samples of the original on which the energy is checked, and kappa computed.
    """

    rounds: int = 1000
    bank_size: int = 16384

    label: ClassVar[str] = "rejection sampling"
    summary: ClassVar[str] = "no training: samples are drawn again until the target accepts one"
    needs: ClassVar[frozenset[str]] = frozenset({"target"})

    def __post_init__(self) -> None:
        for name in ("rounds", "bank_size"):
            if getattr(self, name) < 1:
                raise InputError(f"got {name}={getattr(self, name)}; expected 1 or more")

    def make(self, problem: Problem, generator: torch.Generator) -> Filtered:
        """Return a copy of the model behind a filter.

        Raises:
            InputError: if the filter would let nothing pass.
        """
        target = target_of(problem)
        bank = target.bank(self.bank_size, generator)
        if not target.accept(bank, generator).any():
            raise InputError(
                f"the filter rejected all of {self.bank_size} samples; expected some to pass: lower the "
                "strength or the margin"
            )
        model, energy = copy.deepcopy(model_of(problem)), frozen(target.energy)
        assert isinstance(energy, Energy)
        kappa = target.multiplier(bank.energy)
        return Filtered(model, energy, target.strength, target.divergence, kappa, self.rounds)
