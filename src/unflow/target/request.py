"""The target law of a request: its weights and its exact samples."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from unflow.energies import ConditionEnergy, Energy, evaluate, require_bounded
from unflow.ground.errors import InputError
from unflow.ground.streams import Stream, stream
from unflow.mathematics.divergences import KL, Divergence
from unflow.models.base import GenerativeModel
from unflow.target.bank import NO_ORIGIN, Bank, Drawn, Replaced
from unflow.target.replacement import RETAINED, Noise, Replacement, parse_replacement

REPLACING = 500
"""Samples of what replaces, from which the share that the request accepts is estimated."""
KAPPA_SAMPLES = 16384
"""Samples of the original model from which ``Target.kappa`` is computed."""


@dataclass(frozen=True)
class Target:
    r"""The solution of an unlearning request.

        q* = argmin_q  lam E_q[F] + D_phi(q || q0) = q0(x) tilt(kappa - lam F(x))

    Args:
        model: the original model, whose law is q0.
        energy: what to forget, F: [batch, *shape] -> [batch].
        strength: lam >= 0; 0 leaves the law unchanged.
        divergence: D_phi, which keeps q* near q0.
        replace: what a conditional model draws in place of a rejected sample, r(x | c): "retained", accepted
            samples of all conditions; "nearest", those that a transport plan finds near; "label:5",
            "prompt:a truck" or "null", accepted samples of one condition; "noise".

    Raises:
        InputError: for a strength that is negative or not finite, an unknown replacement, and one that the
            model cannot draw.
    """

    model: GenerativeModel
    energy: Energy
    strength: float = 1.0
    divergence: Divergence = field(default_factory=KL)
    replace: str = RETAINED.name

    def __post_init__(self) -> None:
        check_strength(self.strength)
        self.replacement.check_model(self.model)
        if isinstance(self.energy, ConditionEnergy):
            self.energy.check_model(self.model)

    @property
    def replacement(self) -> Replacement:
        """The replacement that ``replace`` names."""
        return parse_replacement(self.replace, self.model)

    def bank(self, n: int, generator: torch.Generator) -> Bank:
        """Draw n samples of the original model and compute their energies."""
        return self.score(self.model.prior(n, generator))

    def score(self, z: Float[Tensor, " n *prior_shape"], *, varies: bool = True) -> Bank:
        """Return latents with their samples and energies.

        Args:
            z: latents.
            varies: whether one energy for all samples is an error; it is none for samples of one condition.
        """
        x = self.model.push_batches(z)
        if isinstance(self.energy, ConditionEnergy):
            return Bank(z, x, self.energy.at(self.model.require_conditional().conditions(z)).to(x))
        return Bank(z, x, evaluate(self.energy, x, varies=varies))

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

    def sample(self, n: int, generator: torch.Generator, label: int | str | None = None) -> Bank:
        r"""Return n exact samples of q*, with their latents, by rejection sampling from the original model.

        A conditional model is asked for a condition c by each latent, and its samples have the law

            q*(x | c) = q0(x | c) w(x) (1 + b) + b^2 r(x | c),    b = E_{q0(.|c)}[1 - w]

        A sample that is rejected is drawn again, and replaced by one of r (``replace``) if it is rejected
        again; its row of ``z`` is the latent that asked. Without conditions, r is the law of accepted
        samples, and the law of all is q0 w / E[w] = q*.

        Args:
            n: samples.
            generator: of the random numbers.
            label: the condition that all samples are asked for, its name, or "null"; None: conditions at
                random.

        Raises:
            InputError: if n is under 1, no sample of a bank of max(n, 1000) is accepted, or for a label of a
                model without conditions.
        """
        if n < 1:
            raise InputError(f"got {n} samples to draw; expected 1 or more")
        if self.model.conditional is None and label is None:
            return self._accepted(n, generator)
        z = self.model.prior(n, generator)
        if label is not None:
            z = self.model.require_conditional().ask(z, label)
        bank = self.score(z, varies=label is None)
        return bank._replace(x=self.replaced(bank, generator).x)

    def check_replacement(self, seed: int = 0) -> None:
        """Raise InputError if the request itself rejects most of the condition that replaces (``replace``).

        Every draw of replacements checks this too. Here it comes before any training.

        Args:
            seed: of ``REPLACING`` samples of that condition.
        """
        r = self.replacement
        if r.is_marginal or isinstance(r, Noise) or self.energy.lower_bound == -math.inf:
            return
        z = self.model.prior(REPLACING, stream(seed, Stream.REPLACEMENT))
        bank = self.score(r.ask(self.model.require_conditional(), z), varies=False)
        r.check(float(self._request_acceptance(bank.energy).double().mean()))

    def replaced(
        self, bank: Bank, generator: torch.Generator, kappa: float | None = None, *, share: bool = False
    ) -> Replaced:
        """Return a bank of a conditional model with its rejected samples replaced: samples of q*(x | c).

        Args:
            bank: samples of the model.
            generator: of the random numbers.
            kappa: as ``accept``.
            share: whether ``retained`` replaces by accepted samples of the bank itself, which costs nothing;
                they are then no independent draws.
        """
        kept = self.accept(bank, generator, kappa)
        x, origin = bank.x.clone(), self._origins(bank)
        rows = (~kept).nonzero()[:, 0]
        if len(rows):
            found = self._draw_replacements(bank, kept if share else None, rows, generator, kappa)
            x[rows], origin[rows] = found.x, found.origin
        return Replaced(x, kept, origin)

    def _origins(self, bank: Bank) -> Tensor:
        """Return the condition of each row, [n]; 0 of a model without conditions."""
        model = self.model.conditional
        n = len(bank.x)
        return (
            torch.zeros(n, dtype=torch.long, device=bank.x.device)
            if model is None
            else model.conditions(bank.z)
        )

    def replacements(self, bank: Bank, generator: torch.Generator, kappa: float | None = None) -> Tensor:
        """Return a sample of r(x | c) for every row of a bank, [n, *sample_shape]."""
        kept, rows = self.accept(bank, generator, kappa), torch.arange(len(bank.x), device=bank.x.device)
        return self._draw_replacements(bank, kept, rows, generator, kappa).x

    def _draw_replacements(
        self, bank: Bank, kept: Tensor | None, rows: Tensor, generator: torch.Generator, kappa: float | None
    ) -> Drawn:
        """Return what replaces rows of a bank, whose accepted rows are ``kept`` if they may be used."""
        if self.replacement.tries > 1 and self.model.conditional is not None:
            return self._try_again(bank, kept, rows, generator, kappa)
        return self._draw_from_replacement(bank, kept, rows, generator, kappa)

    def _try_again(
        self, bank: Bank, kept: Tensor | None, rows: Tensor, generator: torch.Generator, kappa: float | None
    ) -> Drawn:
        """Return samples for rows of a bank: the first accepted of further tries, or one of r."""
        model = self.model.require_conditional()
        x, origin = bank.x[rows].clone(), model.conditions(bank.z[rows])
        left = torch.arange(len(rows), device=x.device)
        for _ in range(self.replacement.tries - 1):
            again = self.score(model.ask(self.model.prior(len(left), generator), origin[left]), varies=False)
            accepted = self.accept(again, generator, kappa)
            x[left[accepted]] = again.x[accepted]
            left = left[~accepted]
            if len(left) == 0:
                return Drawn(x, origin)
        found = self._draw_from_replacement(bank, kept, rows[left], generator, kappa)
        x[left], origin[left] = found.x, found.origin
        return Drawn(x, origin)

    def _draw_from_replacement(
        self, bank: Bank, kept: Tensor | None, rows: Tensor, generator: torch.Generator, kappa: float | None
    ) -> Drawn:
        """Return samples of r for rows of a bank, whose accepted rows are ``kept`` if they may be used."""
        r, rejected = self.replacement, bank.x[rows]
        if isinstance(r, Noise):
            noise = torch.randn(rejected.shape, generator=generator).to(rejected)
            return Drawn(noise, torch.full_like(rows, NO_ORIGIN))
        if kept is not None and r.is_marginal and bool(kept.any()):
            pool = Bank(*(part[kept] for part in bank))
            order = torch.randperm(len(pool.x), generator=generator).to(rejected.device)
            order = order.repeat(-(-len(rows) // len(order)))[: len(rows)]
        else:
            pool = self._accepted(len(rows), generator, r, kappa)
            order = torch.arange(len(rows), device=rejected.device)
        order = order[r.pair(rejected, pool.x[order])]
        return Drawn(pool.x[order], self._origins(pool)[order])

    def _accepted(
        self,
        n: int,
        generator: torch.Generator,
        replacement: Replacement = RETAINED,
        kappa: float | None = None,
    ) -> Bank:
        """Return n accepted samples of the model, of the condition that a replacement asks for."""
        parts: list[Bank] = []
        found = 0
        while found < n:
            z = self.model.prior(max(n, 1000), generator)
            if not replacement.is_marginal:
                z = replacement.ask(self.model.require_conditional(), z)
            bank = self.score(z, varies=replacement.is_marginal)
            accepted = self.accept(bank, generator, kappa)
            if not replacement.is_marginal:
                replacement.check(float(accepted.double().mean()))
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
