"""Couplings of the prior with the prior tilted by the target's density ratio."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from unflow.ground.batches import in_batches
from unflow.ground.progress import Progress
from unflow.mathematics.couplings import ExactOT, pair_blocks
from unflow.methods.latent_law import LatentLaw, draw_uniform
from unflow.methods.latent_maps import LatentMap, RotationMap, gaussian_map, replace_latent
from unflow.models import Flow, latent_norm
from unflow.nets.modes import evaluating
from unflow.target import Target
from unflow.training.method import draw_rows, draw_weighted


class Rest(ABC):
    """The mass that moves have left, as densities relative to p: rejected latents p a and residual p b."""

    @abstractmethod
    def rejected(self, x: Tensor) -> Tensor:
        """Return a of states x, [n], in double precision."""

    @abstractmethod
    def residual(self, y: Tensor) -> Tensor:
        """Return b of states y, [n], in double precision."""


class AllRest(Rest):
    """Before any move: a = (1 - r)+ and b = (r - 1)+."""

    def __init__(self, law: LatentLaw) -> None:
        self.law = law

    def rejected(self, x: Tensor) -> Tensor:
        """Return (1 - r)+."""
        return (1 - self.law.ratio_at(self.law.from_normal(x[:, 0]))).clamp(min=0)

    def residual(self, y: Tensor) -> Tensor:
        """Return (r - 1)+."""
        return (self.law.ratio_at(self.law.from_normal(y[:, 0])) - 1).clamp(min=0)


class RestOfMap(Rest):
    r"""After the maximal coupling of T#(p a) and p b by a map T.

        a'(x) = (a(x) - b(y) p(y) |det T| / p(x))+
        b'(y) = (b(y) - a(x) p(x) / (p(y) |det T|))+,    y = T(x)

    One evaluation needs up to two evaluations of the mass before.
    """

    def __init__(self, before: Rest, latent_map: LatentMap) -> None:
        self.before, self.map = before, latent_map

    def rejected(self, x: Tensor) -> Tensor:
        """Return a'."""
        a = self.before.rejected(x)
        positive = a > 0
        a[positive] -= self.outflow(x[positive])[1]
        return a.clamp(min=0)

    def residual(self, y: Tensor) -> Tensor:
        """Return b'."""
        b = self.before.residual(y)
        positive = b > 0
        b[positive] -= self.inflow(y[positive])
        return b.clamp(min=0)

    def outflow(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return T(x), and the density at x of the most that T#(p b) can take from there."""
        y = self.map.forward(x)
        return y, self.before.residual(y) * self.map.density_ratio(x, y)

    def inflow(self, y: Tensor) -> Tensor:
        """Return the density at y of T#(p a) relative to p."""
        x = self.map.inverse(y)
        return self.before.rejected(x) / self.map.density_ratio(x, y)


class RestOfFlow(Rest):
    """After a flow that carries p a to p b: the latents that end outside the residual, and as much of p b.

    Args:
        before: the mass before the flow.
        carry: the flow, of states.
        share: of the rejected mass that ends outside.
    """

    def __init__(self, before: Rest, carry: Callable[[Tensor], Tensor], share: float) -> None:
        self.before, self.carry, self.share = before, carry, share

    def rejected(self, x: Tensor) -> Tensor:
        """Return a(x) where the flow ends outside, and 0 elsewhere."""
        return self.before.rejected(x) * (self.before.residual(self.carry(x)) <= 0)

    def residual(self, y: Tensor) -> Tensor:
        """Return share b(y)."""
        return self.share * self.before.residual(y)


class Left(NamedTuple):
    """What the moves so far have left."""

    x: Tensor
    """Rejected latents as states, [m, channels, *prior_shape]; their law is p a."""
    a: Tensor
    """Their densities, [m]."""
    y: Tensor
    """Rows of the residual as states, [k, channels, *prior_shape]; their law is p b."""
    b: Tensor
    """Their densities, [k]."""
    rest: Rest


class Moved(NamedTuple):
    """The result of one move."""

    x: Tensor
    """Normal latents, [m, *prior_shape]: the new ones where they have arrived."""
    arrived: Tensor
    """Which latents have arrived, [m]."""
    left: Left


class Move(ABC):
    """One way to move rejected latents; those that do not arrive are left to the next move.

    The latents that arrive and the rows of the residual that a move takes have the same law. So the latents
    and rows that it leaves can be coupled by any further move.
    """

    needs_gradient: ClassVar[bool] = False
    """Whether the move follows the gradient of the energy."""
    needs_normal: ClassVar[bool] = False
    """Whether the move needs a normal prior."""
    needs_noise: ClassVar[bool] = False
    """Whether states have a channel of noise."""
    needs_residual: ClassVar[bool] = False
    """Whether the move needs rows of the residual to go to."""
    matches: ClassVar[bool] = False
    """Whether partners are rows of the residual, not images of a map."""

    @abstractmethod
    def __call__(self, law: LatentLaw, left: Left, generator: torch.Generator) -> Moved:
        """Move the rejected latents of ``left``."""


def carry_by_map(latent_map: LatentMap, left: Left, generator: torch.Generator) -> Moved:
    r"""Couple T#(p a) with p b maximally: y = T(x) arrives with probability min(1, p(y) b(y) / T#(p a)(y)).

    A row y of the residual is taken with probability min(1, T#(p a)(y) / (p(y) b(y))).
    """
    rest = RestOfMap(left.rest, latent_map)
    image, most = rest.outflow(left.x)
    arrived = draw_uniform(most, generator) * left.a < most
    supply = rest.inflow(left.y)
    taken = draw_uniform(supply, generator) * left.b < supply
    a, b = (left.a - most).clamp(min=0), (left.b - supply).clamp(min=0)
    return Moved(image[:, 0], arrived, Left(left.x[~arrived], a[~arrived], left.y[~taken], b[~taken], rest))


def pair_all(x: Tensor, left: Left) -> Moved:
    """Return latents x [m, *prior_shape] as the result of a move that leaves nothing."""
    end = Left(left.x[:0], left.a[:0], left.y[:0], left.b[:0], left.rest)
    return Moved(x, torch.ones(len(x), dtype=torch.bool, device=x.device), end)


def _fill(law: LatentLaw, left: Left, generator: torch.Generator) -> Tensor:
    """Return as many rows of the residual as there are rejected latents: [m, *prior_shape].

    Their numbers agree up to the sampling error; missing rows repeat others.
    """
    missing = len(left.x) - len(left.y)
    if missing <= 0:
        return left.y[: len(left.x), 0]
    if len(left.y) == 0:  # no more than the sampling error is left
        return law.to_normal(draw_weighted(law.bank.z, law.residual, missing, generator))
    return torch.cat([left.y[:, 0], left.y[draw_rows(len(left.y), missing, generator), 0]])


@dataclass(frozen=True)
class MaximalMove(Move):
    """z' drawn from the residual, independently of z. Law: exact. Distances: those of independent draws."""

    matches: ClassVar[bool] = True

    def __call__(self, law: LatentLaw, left: Left, generator: torch.Generator) -> Moved:
        """Return rows of the residual; all have arrived."""
        return pair_all(_fill(law, left, generator), left)


@dataclass(frozen=True)
class MatchMove(Move):
    """z' drawn from the residual, and paired at the least total squared distance (arXiv 2302.00482).

    Law: exact. In few dimensions the partners are near; in many, hardly nearer than other draws.

    Attributes:
        block_size: rows of one plan, whose time is cubic in them.
    """

    block_size: int = 512

    matches: ClassVar[bool] = True

    def __call__(self, law: LatentLaw, left: Left, generator: torch.Generator) -> Moved:
        """Return the partners; all have arrived."""
        drawn = _fill(law, left, generator)
        return pair_all(pair_blocks(ExactOT(), left.x[:, 0], drawn, self.block_size), left)


@dataclass(frozen=True)
class ShiftMove(Move):
    """T(z), T the optimal affine map between the Gaussians of z and of the residual (``gaussian_map``).

    Law: exact, because the density of T(z) is known (``carry_by_map``).

    Attributes:
        mirrored: reflect z in the direction of the shift first.
    """

    mirrored: bool = False

    needs_residual: ClassVar[bool] = True

    def __call__(self, law: LatentLaw, left: Left, generator: torch.Generator) -> Moved:
        """Return T(z), and which arrive."""
        shift = gaussian_map(left.x[:, 0], left.y[:, 0], mirrored=self.mirrored)
        return carry_by_map(shift, left, generator)


@dataclass(frozen=True)
class RedrawMove(Move):
    """z' = sqrt(1 - share) z +- sqrt(share) noise; the noise of z is the same in all moves of a chain.

    Law: exact, because (z, noise) -> (z', noise') is a rotation, which leaves the prior unchanged.

    Attributes:
        share: share of the variance that is renewed, in (0, 1].
        opposite: subtract the noise.
    """

    share: float
    opposite: bool = False

    needs_normal: ClassVar[bool] = True
    needs_noise: ClassVar[bool] = True

    def __call__(self, law: LatentLaw, left: Left, generator: torch.Generator) -> Moved:
        """Return the mixtures, and which arrive."""
        return carry_by_map(RotationMap(self.share, self.opposite), left, generator)


@dataclass(frozen=True)
class ProjectMove(Move):
    """Descend lam F(G0(z')) + tau/2 ||z' - z||^2 from z, with the norm of z restored in every step.

    The law of the ends is not known. So z' is a row of the residual, paired with the ends at the least total
    squared distance. Law: exact. In many dimensions a row is hardly nearer than other draws (``MatchMove``).

    Attributes:
        steps: of Adam.
        rate: of Adam.
        tau: >= 0, weight of the distance to z.
        block_size: rows of one plan.
    """

    steps: int = 60
    rate: float = 0.1
    tau: float = 0.05
    block_size: int = 512

    needs_gradient: ClassVar[bool] = True
    needs_normal: ClassVar[bool] = True
    matches: ClassVar[bool] = True

    def __call__(self, law: LatentLaw, left: Left, generator: torch.Generator) -> Moved:
        """Return the partners of the ends; all have arrived."""
        ends, drawn = self.project(law.target, left.x[:, 0]), _fill(law, left, generator)
        return pair_all(pair_blocks(ExactOT(), ends, drawn, self.block_size), left)

    def project(self, target: Target, z: Tensor) -> Tensor:
        """Return the end of each descent, [n, *prior_shape]."""
        with evaluating(target.model):
            chunks = in_batches(z, 4096)
            with Progress("move latents along the gradient", len(chunks) * self.steps) as progress:
                return torch.cat([self._descend(target, chunk, progress) for chunk in chunks])

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
    """S(T(z)), T the affine map of ``ShiftMove`` and S a flow that is trained from T(z) to the residual.

    Law: exact up to the training error of S. A latent arrives if the residual is positive at S(T(z)). In two
    dimensions the error was 0.006-0.03 in total variation (600-2,000 steps).

    Attributes:
        flow: S.
    """

    flow: Flow

    needs_residual: ClassVar[bool] = True

    def __call__(self, law: LatentLaw, left: Left, generator: torch.Generator) -> Moved:
        """Return S(T(z)), and which arrive."""
        shift = gaussian_map(left.x[:, 0], left.y[:, 0])

        def carry(x: Tensor) -> Tensor:
            return replace_latent(x, self.flow.push_batches(shift.forward(x)[:, 0]))

        image = carry(left.x)
        arrived = left.rest.residual(image) > 0
        kept = int((~arrived).sum())
        share = kept / len(arrived)
        rest = RestOfFlow(left.rest, carry, share)
        return Moved(
            image[:, 0],
            arrived,
            Left(left.x[~arrived], left.a[~arrived], left.y[:kept], share * left.b[:kept], rest),
        )


SHIFTS: tuple[Move, ...] = (ShiftMove(), ShiftMove(mirrored=True))
"""The second map moves latents that have not arrived after the first."""

REDRAWS: tuple[Move, ...] = tuple(
    RedrawMove(share, opposite) for share in (0.25, 1.0) for opposite in (False, True)
)
"""Moves of increasing distance: near z in both directions of its noise, then the noise itself."""


class Coupled(NamedTuple):
    """The latents of a bank, each with its partner."""

    z: Tensor
    """z', [n, *prior_shape]; their law is p r."""
    moved: Tensor
    """Which latents were not kept, [n]."""
    matched: Tensor
    """Which partners are rows of the residual; the other moved latents were carried by a map, [n]."""


def couple(law: LatentLaw, moves: Sequence[Move], generator: torch.Generator) -> Coupled:
    """Return the bank's latents with their partners: themselves if kept, else the results of the moves.

    Latents that no move carries are matched with the rest of the residual (``MatchMove``), so that the law
    of all partners is p r.
    """
    z, kept = law.bank.z.clone(), law.keep(generator)
    matched, rows = torch.zeros_like(kept), (~kept).nonzero()[:, 0]
    if len(rows) == 0:
        return Coupled(z, ~kept, matched)
    left = _start(law, rows, any(move.needs_noise for move in moves), generator)
    for move in [*moves, MatchMove()]:
        if len(left.x) == 0:
            break
        if move.needs_residual and len(left.y) == 0:
            continue
        result = move(law, left, generator)
        z[rows[result.arrived]] = law.from_normal(result.x[result.arrived])
        if move.matches:
            matched[rows[result.arrived]] = True
        rows, left = rows[~result.arrived], result.left
    return Coupled(z, ~kept, matched)


def _start(law: LatentLaw, rows: Tensor, noisy: bool, generator: torch.Generator) -> Left:
    """Return the rejected rows of the bank, and as many rows that are drawn from the residual."""
    drawn = draw_weighted(law.bank.z, law.residual, len(rows), generator)
    rest = AllRest(law)
    x, y = (law.to_normal(z)[:, None] for z in (law.bank.z[rows], drawn))
    if noisy:
        x, y = (torch.cat([s, torch.randn(s.shape, generator=generator).to(s)], 1) for s in (x, y))
    return Left(x, (1 - law.ratio[rows]).double().clamp(min=0), y, rest.residual(y), rest)
