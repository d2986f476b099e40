"""The law of latents whose push-forward is the target."""

from __future__ import annotations

import torch
from torch import Tensor

from unflow.energies import require_bounded, require_finite
from unflow.ground.batches import in_batches
from unflow.models import Chain, GenerativeModel, Generator
from unflow.target import Bank, Target


class LatentLaw:
    r"""The law of latents whose push-forward is the target: p(z) r(z) with r(z) = (q*/q0)(G0(z)).

    The coupling that moves the least mass keeps z with probability min(1, r) and moves the rest of the mass
    to the *residual*:

        p(z) r(z) = p(z) min(1, r(z)) + p(z) (r(z) - 1)+

    Args:
        target: of the request.
        bank: latents of the prior with their outputs and energies.

    Raises:
        InputError: for an energy without a lower bound, for which r has no supremum.
    """

    def __init__(self, target: Target, bank: Bank) -> None:
        require_bounded(target.energy, "latent transport")
        self.target, self.bank = target, bank
        self.kappa = target.multiplier(bank.energy)
        self.ratio = self._ratio(bank.energy)
        """r of the bank's latents, [n]."""

    @classmethod
    def draw(cls, target: Target, n: int, generator: torch.Generator) -> LatentLaw:
        """Return the law with a bank of n latents; warn if the effective sample size is small."""
        bank = target.bank(n, generator)
        target.effective_sample_size(bank.energy)
        return cls(target, bank)

    @torch.no_grad()
    def _energy(self, z: Tensor, batch_size: int = 4096) -> Tensor:
        x = self.target.model.push_batches(z)
        energy = torch.cat([self.target.energy(chunk) for chunk in in_batches(x, batch_size)])
        require_finite(energy)  # a NaN would count as a latent that is never accepted
        return energy

    def _ratio(self, energy: Tensor) -> Tensor:
        return self.target.divergence.tilt(self.kappa - self.target.strength * energy)

    @property
    def residual(self) -> Tensor:
        """Return (r - 1)+ of the bank's latents, [n]."""
        return (self.ratio - 1).clamp(min=0)

    def keep(self, generator: torch.Generator) -> Tensor:
        """Return which latents of the bank stay, each with probability min(1, r); booleans [n]."""
        return draw_uniform(self.ratio, generator) < self.ratio

    def ratio_at(self, z: Tensor) -> Tensor:
        """Return r of any latents z [batch, *prior_shape]: [batch], in double precision."""
        return self._ratio(self._energy(z)).double()

    def to_normal(self, z: Tensor) -> Tensor:
        """Return latents as standard normals: z itself, or Phi^-1((z + 1) / 2) for a uniform prior."""
        if prior_name(self.target.model) == "normal":
            return z
        # Rounding: an entry of a float32 sample can be exactly -1, whose quantile is infinite.
        x: Tensor = torch.special.ndtri(((z.double() + 1) / 2).clamp(1e-8, 1 - 1e-8))
        return x.to(z.dtype)

    def from_normal(self, x: Tensor) -> Tensor:
        """Return the latents of standard normals: the inverse of ``to_normal``."""
        if prior_name(self.target.model) == "normal":
            return x
        z: Tensor = 2 * torch.special.ndtr(x.double()) - 1
        return z.to(x.dtype)


def prior_name(model: GenerativeModel) -> str:
    """Return "uniform" for a generator whose prior is uniform, or a chain of one; else "normal"."""
    while isinstance(model, Chain):
        model = model.base
    return model.prior_name if isinstance(model, Generator) else "normal"


def draw_uniform(like: Tensor, generator: torch.Generator) -> Tensor:
    """Return len(like) uniform numbers in [0, 1), with the type and device of ``like``."""
    return torch.rand(len(like), generator=generator).to(like)
