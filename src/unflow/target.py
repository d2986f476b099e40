"""The target law of a request: its weights and its exact samples."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from unflow.energies import Energy, evaluate, require_bounded
from unflow.ground.errors import InputError
from unflow.ground.streams import Stream, stream
from unflow.mathematics.divergences import KL, Divergence
from unflow.models.base import GenerativeModel

KAPPA_SAMPLES = 16384
"""Samples of the original model from which ``Target.kappa`` is computed."""


class Bank(NamedTuple):
    """Samples of the original model with their latents and energies."""

    z: Float[Tensor, " n *prior_shape"]
    """Latents, [n, *prior_shape]."""
    x: Float[Tensor, " n *sample_shape"]
    """Samples x = G0(z), [n, *sample_shape]."""
    energy: Float[Tensor, " n"]
    """F(x), [n]."""


@dataclass(frozen=True)
class Target:
    r"""The solution of an unlearning request.

        q* = argmin_q  lam E_q[F] + D_phi(q || q0) = q0(x) tilt(kappa - lam F(x))

    Args:
        model: the original model, whose law is q0.
        energy: what to forget, F: [batch, *shape] -> [batch].
        strength: lam >= 0; 0 leaves the law unchanged.
        divergence: D_phi, which keeps q* near q0.

    Raises:
        InputError: for a strength that is negative or not finite.
    """

    model: GenerativeModel
    energy: Energy
    strength: float = 1.0
    divergence: Divergence = field(default_factory=KL)

    def __post_init__(self) -> None:
        check_strength(self.strength)

    def bank(self, n: int, generator: torch.Generator) -> Bank:
        """Draw n samples of the original model and compute their energies."""
        z = self.model.prior(n, generator)
        x = self.model.push_batches(z)
        return Bank(z, x, evaluate(self.energy, x))

    def multiplier(
        self, energy: Float[Tensor, " n"], probabilities: Float[Tensor, " n"] | None = None
    ) -> float:
        """Return kappa for energies F [n] of samples (or atoms with ``probabilities``) of q0."""
        return self.divergence.multiplier(self.strength * energy, probabilities)

    def density_ratio(
        self, energy: Float[Tensor, " n"], probabilities: Float[Tensor, " n"] | None = None
    ) -> Float[Tensor, " n"]:
        """Return q*/q0 = tilt(kappa - lam F) at samples of q0; its mean under q0 is 1. Shape [n]."""
        kappa = self.multiplier(energy, probabilities)
        return self.divergence.tilt(kappa - self.strength * energy)

    def acceptance(self, energy: Float[Tensor, " n"], kappa: float | None = None) -> Float[Tensor, " n"]:
        """Return (q*/q0) / sup(q*/q0) in [0, 1], the probability to keep a sample, [n].

        For KL, F = softplus(G) and lam = 1 this is ContinualFlow's weight sigmoid(-G)
        (arXiv 2506.18747, Section 4). Other divergences need ``kappa``; None computes it from ``energy``.

        Raises:
            InputError: for an energy without a lower bound, because q*/q0 then has no supremum.
        """
        require_bounded(self.energy, "weights and rejection")
        if kappa is None:
            kappa = 0.0 if isinstance(self.divergence, KL) else self.multiplier(energy)
        return self.divergence.acceptance(energy, self.energy.lower_bound, self.strength, kappa)

    def effective_sample_size(self, energy: Float[Tensor, " n"]) -> float:
        """Return the effective share of a bank under its weights w, (sum w)^2 / (n sum w^2), in (0, 1].

        Warns under 5 %, because few samples then carry most of the weight.
        """
        ratio = self.density_ratio(energy)
        share = float(ratio.sum() ** 2 / (len(ratio) * (ratio**2).sum()))
        if share < 0.05:
            warnings.warn(
                f"the effective sample size is {share:.1%} of the bank: lower the strength or the "
                "margin, or expect a noisy result",
                stacklevel=2,
            )
        return share

    @cached_property
    def kappa(self) -> float:
        """The multiplier of this request, from ``KAPPA_SAMPLES`` samples of the model.

        They have a random stream of their own. So the law of accepted samples does not depend on their bank.
        """
        return self.multiplier(self.bank(KAPPA_SAMPLES, stream(0, Stream.KAPPA)).energy)

    def accept(
        self, bank: Bank, generator: torch.Generator, kappa: float | None = None
    ) -> Bool[Tensor, " n"]:
        """Return which rows of a bank rejection sampling accepts, [n]; those are exact samples of q*.

        Args:
            bank: samples of the model.
            generator: of the random numbers.
            kappa: the multiplier; None: ``Target.kappa``. KL does not need it.
        """
        probability = self._request_acceptance(bank.energy, kappa)
        return torch.rand(len(probability), generator=generator).to(probability) < probability

    def _request_acceptance(self, energy: Tensor, kappa: float | None = None) -> Tensor:
        require_bounded(self.energy, "weights and rejection")  # before a bank is drawn for kappa
        if kappa is None and not isinstance(self.divergence, KL):
            kappa = self.kappa
        return self.acceptance(energy, kappa)

    def sample(self, n: int, generator: torch.Generator) -> Bank:
        """Return n exact samples of q*, with their latents, by rejection sampling from the original model.

        Raises:
            InputError: if n is under 1, or no sample of a bank of max(n, 1000) is accepted.
        """
        if n < 1:
            raise InputError(f"got {n} samples to draw; expected 1 or more")
        parts: list[Bank] = []
        found = 0
        while found < n:
            bank = self.bank(max(n, 1000), generator)
            accepted = self.accept(bank, generator)
            if not accepted.any():
                mean = float(self._request_acceptance(bank.energy).mean())
                raise InputError(
                    f"rejection accepted none of {len(accepted)} samples (mean acceptance probability "
                    f"{mean:.2g}); expected some: lower the strength "
                    "or the margin"
                )
            parts.append(Bank(*(part[accepted] for part in bank)))
            found += int(accepted.sum())
        return Bank(*(torch.cat(columns)[:n] for columns in zip(*parts, strict=True)))


def check_strength(strength: float) -> None:
    """Raise InputError for a strength that is negative or not finite."""
    if not (strength >= 0 and math.isfinite(strength)):
        raise InputError(f"got strength={strength}; expected a finite number >= 0")
