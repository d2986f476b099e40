"""Couplings of the prior with the prior tilted by the target's density ratio."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from unflow.energies import require_bounded, require_finite
from unflow.ground.batches import in_batches
from unflow.ground.progress import Progress
from unflow.mathematics.couplings import ExactOT, pair_blocks
from unflow.models import Flow, latent_norm
from unflow.nets.modes import evaluating
from unflow.target import Bank, Target
from unflow.training.method import draw_weighted


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
        self.supremum = float(self._ratio(bank.energy.new_tensor(target.energy.lower_bound)))
        """The largest r of any latent."""

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
        return _draw_uniform(self.ratio, generator) < self.ratio

    def accept(self, z: Tensor, generator: torch.Generator) -> Tensor:
        """Return which latents the residual accepts, with probability (r - 1)+ / sup (r - 1); [batch]."""
        excess = self._ratio(self._energy(z)) - 1
        return _draw_uniform(excess, generator) * (self.supremum - 1) < excess


def _draw_uniform(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.rand(len(like), generator=generator).to(like)


class Move(ABC):
    """One way to move rejected latents; those that do not arrive are left to the next move."""

    needs_gradient: ClassVar[bool] = False
    """Whether the move follows the gradient of the energy."""
    needs_normal: ClassVar[bool] = False
    """Whether the move needs a normal prior."""

    @abstractmethod
    def __call__(self, law: LatentLaw, z: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return new latents for z [batch, *prior_shape], and which of them have arrived, [batch]."""


@dataclass(frozen=True)
class MaximalMove(Move):
    """z' drawn from the residual, independently of z: exact, and over long distances."""

    def __call__(self, law: LatentLaw, z: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return rows of the bank; all have arrived."""
        drawn = draw_weighted(law.bank.z, law.residual, len(z), generator)
        return drawn, torch.ones(len(z), dtype=torch.bool, device=z.device)


@dataclass(frozen=True)
class MatchMove(Move):
    """z' drawn from the residual, and paired at the least total squared distance (arXiv 2302.00482).

    The move is exact. In few dimensions the partners are near; in many, hardly nearer than other draws.

    Attributes:
        block_size: rows of one plan, whose time is cubic in them.
    """

    block_size: int = 512

    def __call__(self, law: LatentLaw, z: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return the partners; all have arrived."""
        drawn, arrived = MaximalMove()(law, z, generator)
        return pair_blocks(ExactOT(), z, drawn, self.block_size), arrived


@dataclass(frozen=True)
class ShiftMove(Move):
    """T(z), T the optimal affine map between the Gaussians of z and of the residual (``gaussian_map``)."""

    def __call__(self, law: LatentLaw, z: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return T(z), clamped to the range of the bank; it has arrived if the residual accepts it."""
        low, high = law.bank.z.amin(0), law.bank.z.amax(0)  # a uniform prior has bounded support
        moved = gaussian_map(z, law.bank.z, law.residual).clamp(low, high)
        return moved, law.accept(moved, generator)


@dataclass(frozen=True)
class RedrawMove(Move):
    """z' = sqrt(1 - share) z + sqrt(share) noise, if the residual accepts it.

    Attributes:
        share: share of the variance that is renewed, in (0, 1]; a share of 1 is exact rejection sampling.
    """

    share: float

    needs_normal: ClassVar[bool] = True

    def __call__(self, law: LatentLaw, z: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return the mixture where it is accepted, and z elsewhere."""
        noise = law.target.model.prior(len(z), generator)
        mixed = (1 - self.share) ** 0.5 * z + self.share**0.5 * noise
        accepted = law.accept(mixed, generator)
        return torch.where(accepted.reshape(-1, *[1] * (z.ndim - 1)), mixed, z), accepted


@dataclass(frozen=True)
class ProjectMove(Move):
    """Descend lam F(G0(z')) + tau/2 ||z' - z||^2 from z, with the norm of z restored in every step.

    Attributes:
        steps: of Adam.
        rate: of Adam.
        tau: >= 0, weight of the distance to z.
    """

    steps: int = 60
    rate: float = 0.1
    tau: float = 0.05

    needs_gradient: ClassVar[bool] = True
    needs_normal: ClassVar[bool] = True

    def __call__(self, law: LatentLaw, z: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return the end of each descent; it has arrived if the residual accepts it."""
        with evaluating(law.target.model):
            chunks = in_batches(z, 4096)
            with Progress("move latents along the gradient", len(chunks) * self.steps) as progress:
                moved = torch.cat([self._descend(law.target, chunk, progress) for chunk in chunks])
        return moved, law.accept(moved, generator)

    def _descend(self, target: Target, z: Tensor, progress: Progress) -> Tensor:
        norm, moved = latent_norm(z), z.clone().requires_grad_(True)
        optimizer = torch.optim.Adam([moved], self.rate)
        for _ in range(self.steps):
            distance = (moved - z).square().flatten(1).sum(1)
            cost = target.strength * target.energy(target.model.push(moved)) + self.tau / 2 * distance
            (moved.grad,) = torch.autograd.grad(cost.sum(), moved)
            optimizer.step()
            with torch.no_grad():
                moved.mul_(norm / latent_norm(moved).clamp(min=1e-12))  # a latent at 0 has no direction
            progress.advance(progress.done + 1)
        return moved.detach()


@dataclass(frozen=True)
class FlowMove(Move):
    """S(z), the image of z under a flow of latents.

    Attributes:
        flow: S.
    """

    flow: Flow

    def __call__(self, law: LatentLaw, z: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return S(z); it has arrived if the residual accepts it."""
        moved = self.flow.push_batches(z)
        return moved, law.accept(moved, generator)


SHIFTS: tuple[Move, ...] = (ShiftMove(),) * 4
"""Each map moves the latents that have not arrived after the map before."""

REDRAWS: tuple[Move, ...] = tuple(RedrawMove(round(0.09 * k, 2)) for k in range(1, 11))
"""Moves of increasing distance."""


def gaussian_map(z: Tensor, other: Tensor, weight: Tensor) -> Tensor:
    r"""Return T(z), T the optimal map from the Gaussian of z to that of weighted rows.

        T(z) = m1 + A (z - m0),    A = C0^(-1/2) (C0^(1/2) C1 C0^(1/2))^(1/2) C0^(-1/2)

    (arXiv 1803.00567, Remark 2.31.) With n rows in d dimensions, C0 is (n C + d V) / (n + d), where V is the
    mean variance of ``other`` times the identity: this regularises C0 for few rows in many dimensions.

    Args:
        z: [n, *shape], with mean m0 and covariance C.
        other: [m, *shape], with weighted mean m1 and covariance C1.
        weight: [m], >= 0, of any positive sum.
    """
    x, y, w = z.flatten(1).double(), other.flatten(1).double(), weight.double()
    n, d = x.shape
    m0, C = _moments(x, torch.ones_like(x[:, 0]))
    m1, C1 = _moments(y, w)
    V = C1.diagonal().mean() * torch.eye(d).to(C1)
    C0 = (n * C + d * V) / (n + d)
    root, inverse = _power(C0, 0.5), _power(C0, -0.5)
    A = inverse @ _power(root @ C1 @ root, 0.5) @ inverse
    return (m1 + (x - m0) @ A).to(z).reshape(z.shape)


def _moments(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    mean = weight @ x / weight.sum()
    return mean, ((x - mean).T * weight) @ (x - mean) / weight.sum()


def _power(C: Tensor, exponent: float) -> Tensor:
    values, vectors = torch.linalg.eigh(C)
    power: Tensor = (vectors * values.clamp(min=1e-10) ** exponent) @ vectors.T  # rounding: some may be < 0
    return power


class Coupled(NamedTuple):
    """The latents of a bank, each with its partner."""

    z: Tensor
    """z', [n, *prior_shape]."""
    moved: Tensor
    """Which latents were not kept, [n]."""
    arrived: Tensor
    """Which partners the target accepts, [n]; the others are still rejected."""
    matched: Tensor
    """Which moved latents were matched with the residual because too few had arrived, [n]."""


MIN_ARRIVED = 0.25
"""Smallest share of the moved latents that must arrive; below it, the moves do not suit the request.
Above it, the rejected latents are left out: their neighbours have partners, which matching would blur."""


def couple(law: LatentLaw, moves: Sequence[Move], generator: torch.Generator) -> Coupled:
    """Return the bank's latents with their partners: themselves if kept, else the results of the moves.

    If too few arrive, the rejected latents move by ``MatchMove``. An affine map, for example, is the identity
    if the forgotten and the retained latents have the same mean and covariance.
    """
    z, arrived = law.bank.z.clone(), law.keep(generator)
    moved, matched = ~arrived, torch.zeros_like(arrived)
    for move in moves:
        _carry(law, move, z, arrived, generator)
    if int((moved & arrived).sum()) < MIN_ARRIVED * int(moved.sum()):
        matched = ~arrived
        _carry(law, MatchMove(), z, arrived, generator)
    return Coupled(z, moved, arrived, matched)


def _carry(law: LatentLaw, move: Move, z: Tensor, arrived: Tensor, generator: torch.Generator) -> None:
    """Move the latents that have not arrived; change z and arrived in place."""
    rows = (~arrived).nonzero()[:, 0]
    if len(rows):
        z[rows], arrived[rows] = move(law, z[rows], generator)
