"""reject: rejection sampling from the model, without training."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import ClassVar

import torch

from unflow.energies import Energy, frozen
from unflow.ground.errors import InputError, require_at_least
from unflow.models import Filtered
from unflow.training.method import Problem, Untrained, model_of, target_of


@dataclass(frozen=True, kw_only=True)
class Reject(Untrained):
    r"""Draw each sample again until it is accepted: exact samples of the target, without training.

        P(accept x) = (q*/q0) / sup(q*/q0)

    The result contains the original, so nothing is removed. Its quality is the upper limit for other methods.
    Each sample costs an evaluation of the energy per draw, and 1 / P(accept) draws on average.

    Attributes:
        rounds: largest number of draws for one sample, >= 1.
        bank_size: samples of the original for the check of the energy and for kappa, >= 1.
    """

    rounds: int = 1000
    bank_size: int = 16384

    label: ClassVar[str] = "rejection sampling"
    summary: ClassVar[str] = "no training: samples are drawn again until the target accepts one"
    needs: ClassVar[frozenset[str]] = frozenset({"target"})

    def __post_init__(self) -> None:
        require_at_least(self, rounds=1, bank_size=1)

    def make(self, problem: Problem, generator: torch.Generator) -> Filtered:
        """Return a copy of the model with a filter.

        Raises:
            InputError: if the filter rejects every sample of the bank.
        """
        target = target_of(problem)
        bank = target.bank(self.bank_size, generator)
        kappa = target.multiplier(bank.energy)
        if not target.accept(bank, generator, kappa).any():
            raise InputError(
                f"the filter rejected all of {self.bank_size} samples; expected some to pass: lower the "
                "strength or the margin"
            )
        model, energy = copy.deepcopy(model_of(problem)), frozen(target.energy)
        assert isinstance(energy, Energy)
        return Filtered(model, energy, target.strength, target.divergence, kappa, self.rounds)
