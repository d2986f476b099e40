"""Couplings of the latents of a conditional one-step model with the latents of its target."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from unflow.mathematics.couplings import ExactOT
from unflow.methods.latent_law import draw_uniform
from unflow.models import Conditional
from unflow.target import Bank, Nearest, Noise, Target
from unflow.training.method import draw_rows, draw_weighted

PLAN_SIZE = 512
"""Rows of one transport plan."""


class GivenOutputs(NamedTuple):
    """The outputs on which a conditional model is regressed, one for each latent of a bank."""

    y: Tensor
    """Samples of q*(x | c), [n, *shape]."""
    z: Tensor
    """The latents that they come from, [n, *prior_shape]; of noise, the latent itself."""
    moved: Tensor
    """Which latents were not kept, [n]."""
    matched: Tensor
    """Which of them have a partner that only a plan, not a map, has found, [n]."""


class LabelMap:
    r"""T(noise) = (noise', c'): one direction of the noise chooses among the conditions that replace.

        s = <noise, d>,    c' = k where P_(k-1) < Phi(s) <= P_k,    Phi(s') = (Phi(s) - P_(k-1)) / p'_k
        noise' = noise + (s' - s) d

    It carries normal noise to normal noise and an independent c' of probabilities p', so one condition draws
    the mixture of others by a function of its noise, which a network can learn.

    Args:
        conditions: the conditions c' [m].
        shares: their probabilities p' [m], all > 0.
        dim: entries of the noise.
    """

    def __init__(self, conditions: Tensor, shares: Tensor, dim: int) -> None:
        self.conditions = conditions
        self.upper = (shares.double() / shares.double().sum()).cumsum(0)
        self.lower = torch.cat([self.upper.new_zeros(1), self.upper[:-1]])
        signs = torch.randint(2, (dim,), generator=torch.Generator().manual_seed(0)) * 2 - 1
        self.direction = signs.to(shares.device, torch.float64) / math.sqrt(dim)

    def forward(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return noise' [n, dim] and conditions c' [n] of noise [n, dim]."""
        s = noise.double() @ self.direction
        q = torch.special.ndtr(s)
        k = torch.bucketize(q, self.upper[:-1])
        inside = ((q - self.lower[k]) / (self.upper - self.lower)[k]).clamp(1e-7, 1 - 1e-7)
        return self._move(noise, s, torch.special.ndtri(inside)), self.conditions[k]

    def inverse(self, noise: Tensor, conditions: Tensor) -> Tensor:
        """Return the noise that the map carries to noise [n, dim] and conditions [n]."""
        s = noise.double() @ self.direction
        k = (conditions[:, None] == self.conditions).double().argmax(1)
        q = self.lower[k] + (self.upper - self.lower)[k] * torch.special.ndtr(s)
        return self._move(noise, s, torch.special.ndtri(q.clamp(1e-7, 1 - 1e-7)))

    def _move(self, noise: Tensor, s: Tensor, to: Tensor) -> Tensor:
        return (noise.double() + (to - s)[:, None] * self.direction).to(noise.dtype)


@dataclass(frozen=True)
class Masses:
    """The masses of one condition c, as densities relative to the prior.

        kept: min(1, own),    own = w (1 + b + ... + b^(tries-1)),    rejected: 1 - kept

    The rejected mass goes to where own > 1, and ``mass`` = b^tries of it to the replacement.

    Attributes:
        rows: latents of the bank that ask for c, [m].
        factor: 1 + b + ... + b^(tries-1).
        mass: b^tries.
        share: of the rejected mass that goes to the replacement.
    """

    rows: Tensor
    factor: float
    mass: float
    share: float

    @classmethod
    def of(cls, rows: Tensor, w: Tensor, tries: int) -> Masses:
        """Return the masses of a condition whose latents have acceptance w [m]."""
        b = float(1 - w.mean())
        factor = sum(b**k for k in range(tries))
        rejected = float((1 - factor * w).clamp(min=0).mean())
        return cls(rows, factor, b**tries, min(1.0, b**tries / max(rejected, 1e-12)))

    def reject(self, w: Tensor) -> Tensor:
        """Return the probability that a latent of acceptance w [n] is not kept, [n]."""
        return (1 - self.factor * w).clamp(min=0)

    def leave(self, w: Tensor) -> Tensor:
        """Return the density, of mean 1, of the latents that go to the replacement, [n]."""
        return self.reject(w) * self.share / max(self.mass, 1e-12)


class ConditionalLatents:
    r"""Outputs y of the law q*(x | c) for the latents of a bank, condition by condition.

        q*(x | c) = q0(x | c) w(x) (1 + b + ... + b^(tries-1)) + b^tries r(x | c)

    A latent is kept with the least probability that moves mass. Those that leave their condition are carried
    by ``LabelMap``; its image and r are coupled maximally, and what the map leaves is matched by a plan, like
    the few latents that move within their condition. So the law is exact for each condition.

    Args:
        target: of the request.
        model: the conditional model of the target.
        n: latents of the bank.
        generator: of the random numbers.
    """

    def __init__(self, target: Target, model: Conditional, n: int, generator: torch.Generator) -> None:
        self.target, self.model, self.generator = target, model, generator
        self.bank = target.bank(n, generator)
        target.effective_sample_size(self.bank.energy)
        self.kappa = target.multiplier(self.bank.energy)
        self.label, self.w = model.conditions(self.bank.z), self._accept(self.bank)
        none = torch.zeros_like(self.label, dtype=torch.bool)
        self.found = GivenOutputs(self.bank.x.clone(), self.bank.z.clone(), none, none.clone())

    def couple(self) -> GivenOutputs:
        """Return the outputs, one for each latent of the bank."""
        for c in sorted(set(self.label.tolist())):
            rows = (self.label == c).nonzero()[:, 0]
            self._couple_condition(c, Masses.of(rows, self.w[rows], self.target.replacement.tries))
        return self.found

    @cached_property
    def _source(self) -> tuple[Bank, Tensor]:
        """Samples of which those accepted have the law r, and their acceptance."""
        replacement = self.target.replacement
        if replacement.is_marginal:
            return self.bank, self.w
        asked = replacement.ask(self.model, self.bank.z[: max(1000, len(self.w) // 8)])
        bank = self.target.score(asked, varies=False)
        w = self._accept(bank)
        replacement.check(float(w.mean()))
        return bank, w

    def _accept(self, bank: Bank) -> Tensor:
        return self.target.acceptance(bank.energy, self.kappa).double()

    def _couple_condition(self, c: int, masses: Masses) -> None:
        rejected = masses.reject(self.w[masses.rows])
        rows = masses.rows[draw_uniform(rejected, self.generator) < rejected]
        if len(rows) == 0:
            return
        self.found.moved[rows] = True
        leaves = draw_uniform(self.w[rows], self.generator) < masses.share
        excess = (masses.factor * self.w[masses.rows] - 1).clamp(min=0)
        if bool((~leaves).any()):
            drawn = draw_weighted(masses.rows, excess, int((~leaves).sum()), self.generator)
            self._match(rows[~leaves], self.bank.z[drawn], self.bank.x[drawn])
        if bool(leaves.any()):
            self._replace(c, rows[leaves], masses)

    def _replace(self, c: int, rows: Tensor, masses: Masses) -> None:
        """Give latents of condition c outputs of the law r."""
        replacement = self.target.replacement
        if isinstance(replacement, Noise):
            self.found.y[rows] = self._take_noise(rows)
        elif isinstance(replacement, Nearest):
            bank, w = self._source
            drawn = draw_weighted(torch.arange(len(w), device=w.device), w, len(rows), self.generator)
            order = drawn[pair_rows(self.bank.x[rows], bank.x[drawn])]
            self.found.y[rows], self.found.z[rows] = bank.x[order], bank.z[order]
            self.found.matched[rows] = True
        else:
            self._carry(c, rows, masses)

    def _take_noise(self, rows: Tensor) -> Tensor:
        """Return the noise of latents as samples, if it has as many entries; else new noise."""
        y, noise = self.found.y[rows], self.bank.z[rows, :-1]
        if noise.numel() == y.numel():
            return noise.reshape(y.shape)
        return torch.randn(y.shape, generator=self.generator).to(y)

    def _carry(self, c: int, rows: Tensor, masses: Masses) -> None:
        """Carry latents by ``LabelMap`` where r has mass at the image, and match the others."""
        bank, w = self._source
        label = self.model.conditions(bank.z)
        totals = torch.bincount(label, w, minlength=int(label.max()) + 1)
        counts = torch.bincount(label, minlength=len(totals)).clamp(min=1)
        known = (totals > 0).nonzero()[:, 0]
        through = LabelMap(known, totals[known], bank.z.shape[1] - 1)
        mean = totals / counts
        noise, to = through.forward(self.bank.z[rows, :-1])
        image = self._score(noise, self.bank.z[rows, -1:], to)
        density, wanted = masses.leave(self.w[rows]), self._accept(image) / mean[to]
        arrived = draw_uniform(density, self.generator) * density < wanted
        there = rows[arrived]
        self.found.y[there], self.found.z[there] = image.x[arrived], image.z[arrived]
        left = rows[~arrived]
        if len(left):
            drawn = draw_weighted(torch.arange(len(w), device=w.device), w, len(rows), self.generator)
            back = through.inverse(bank.z[drawn, :-1], label[drawn])
            before = self._score(back, bank.z[drawn, -1:], torch.full_like(drawn, c))
            taken = masses.leave(self._accept(before)) / (w[drawn] / mean[label[drawn]])
            free = drawn[draw_uniform(taken, self.generator) >= taken]
            free = free if len(free) else drawn
            chosen = free[torch.arange(len(left), device=free.device) % len(free)]
            self._match(left, bank.z[chosen], bank.x[chosen])

    def _score(self, noise: Tensor, u: Tensor, label: Tensor) -> Bank:
        """Return the samples of noise that asks for labels."""
        return self.target.score(self.model.ask(torch.cat([noise, u], 1), label), varies=False)

    def _match(self, rows: Tensor, z: Tensor, x: Tensor) -> None:
        order = pair_rows(self.bank.z[rows], z)
        self.found.y[rows], self.found.z[rows] = x[order], z[order]
        self.found.matched[rows] = True


def pair_rows(x0: Tensor, x1: Tensor) -> Tensor:
    """Return the rows of x1 in the order of their partners in x0 [n, ...], planned block by block."""
    blocks = torch.split(torch.arange(len(x0), device=x0.device), PLAN_SIZE)
    return torch.cat([rows[ExactOT().pair(x0[rows], x1[rows])] for rows in blocks])


def choose_given(found: GivenOutputs, label: Tensor, least: float, generator: torch.Generator) -> Tensor:
    """Return the rows of the pairs that a regression uses, [n]: a map's pairs instead of matched ones.

    As ``latent_transport.choose_pairs``, within each condition, so that each keeps its number of rows.
    """
    rows = torch.arange(len(label), device=label.device)
    for c in sorted(set(label.tolist())):
        here = label == c
        carried, matched = rows[here & found.moved & ~found.matched], here & found.matched
        if len(carried) and len(carried) >= least * int((here & found.moved).sum()):
            chosen = draw_rows(len(carried), int(matched.sum()), generator).to(rows.device)
            rows[matched] = carried[chosen]
    return rows
