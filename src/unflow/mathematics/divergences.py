r"""f-divergences by their convex conjugates: they penalise the distance of the target from the original law.

For an energy F, a strength lam and a divergence D_phi the target of an unlearning request is

    q* = argmin_q  lam E_q[F] + D_phi(q || q0) = q0(x) tilt(kappa - lam F(x)),    tilt = (phi*)',

where the scalar kappa (the multiplier of the constraint that q* has mass 1) factors out for KL only.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as nnf
from jaxtyping import Float
from torch import Tensor

from unflow.ground.errors import InputError
from unflow.ground.faces import renamed


class Divergence(ABC):
    """D_phi(q || q0) = E_q0[phi(dq/dq0)], given by phi, its conjugate phi* and tilt = (phi*)'."""

    @property
    def name(self) -> str:
        """Its name in lineage.json."""
        return type(self).__name__.lower()

    @abstractmethod
    def phi(self, ratio: Float[Tensor, " *shape"]) -> Float[Tensor, " *shape"]:
        """Return phi(r) for density ratios r >= 0; +inf outside its domain."""

    @abstractmethod
    def conjugate(self, s: Float[Tensor, " *shape"]) -> Float[Tensor, " *shape"]:
        """Return phi*(s) = sup_r (r s - phi(r)), elementwise."""

    @abstractmethod
    def tilt(self, s: Float[Tensor, " *shape"]) -> Float[Tensor, " *shape"]:
        """Return the density ratio (phi*)'(s) >= 0, elementwise."""

    @abstractmethod
    def inverse_tilt(self, ratio: float) -> float:
        """Return the smallest s with tilt(s) = ratio, for a ratio in the range of tilt."""

    @property
    @abstractmethod
    def max_ratio(self) -> float:
        """The supremum of q*/q0; at least a share 1/max_ratio of the original mass is kept."""

    def conjugate_up_to(self, s: Float[Tensor, " *shape"], ratio: float) -> Float[Tensor, " *shape"]:
        """Return sup_{0 <= r <= R} (r s - phi(r)): phi*(s) while tilt(s) <= R, then a tangent of it.

        It is the conjugate of the same divergence with density ratios over R forbidden. The optimum is the
        same if no ratio exceeds R, but the function grows no faster than R s.

        Args:
            s: of any shape; elementwise.
            ratio: R > 1.
        """
        if ratio >= self.max_ratio:
            return self.conjugate(s)
        top = self.inverse_tilt(ratio)
        return self.conjugate(s.clamp(max=top)) + ratio * (s - top).clamp(min=0)

    def acceptance(
        self, energy: Float[Tensor, " n"], lower_bound: float, strength: float, kappa: float
    ) -> Float[Tensor, " n"]:
        """Return (q*/q0) / sup(q*/q0) = tilt(kappa - lam F) / tilt(kappa - lam inf F) in [0, 1], [n].

        Args:
            energy: F of samples of q0, [n].
            lower_bound: a lower bound of F.
            strength: lam >= 0.
            kappa: the multiplier.
        """
        tilted = self.tilt(kappa - strength * energy)
        return tilted / self.tilt(tilted.new_tensor(kappa - strength * lower_bound))

    def multiplier(
        self, cost: Float[Tensor, " n"], probabilities: Float[Tensor, " n"] | None = None
    ) -> float:
        """Return kappa with sum_i p_i tilt(kappa - cost_i) = 1, by a bracketed root search.

        Args:
            cost: lam F at the atoms (or samples) of q0, [n].
            probabilities: their masses p_i, [n]; None: uniform.

        Raises:
            InputError: for a cost that is NaN or infinite.
        """
        cost = cost.detach().double().flatten()
        if not torch.isfinite(cost).all():
            raise InputError(
                "the energy of the samples has NaN or infinite values; "
                "expected finite numbers: check the classifier or callable behind it"
            )
        p = torch.full_like(cost, 1 / len(cost)) if probabilities is None else probabilities.double()

        def excess(kappa: float) -> float:
            return float((p * self.tilt(kappa - cost)).sum()) - 1.0

        # tilt is increasing, and tilt(inverse_tilt(1)) = 1: the root lies between the extreme costs.
        one = self.inverse_tilt(1.0)
        low, high = one + float(cost.min()), one + float(cost.max())
        # If the masses add up to 1 only up to rounding, it may lie at one of them or just outside.
        if excess(low) >= 0:
            return low
        if excess(high) <= 0:
            return high
        from scipy.optimize import brentq  # its import takes a second

        return float(brentq(excess, low, high, xtol=1e-13, rtol=1e-14))


@dataclass(frozen=True)
class KL(Divergence):
    """Kullback-Leibler: phi(r) = r log r - r + 1, phi*(s) = e^s - 1, tilt(s) = e^s.

    The target is q* ∝ q0 exp(-lam F); with F = softplus(G) this is ContinualFlow's reweighting
    sigmoid(-G) (arXiv 2506.18747, Theorem 4.1), because sigmoid(-s) = exp(-softplus(s)).
    """

    def phi(self, ratio: Float[Tensor, " *shape"]) -> Float[Tensor, " *shape"]:
        """Return r log r - r + 1."""
        return torch.where(ratio < 0, math.inf, torch.xlogy(ratio, ratio) - ratio + 1)

    def conjugate(self, s: Float[Tensor, " *shape"]) -> Float[Tensor, " *shape"]:
        """Return e^s - 1."""
        return torch.expm1(s)

    def tilt(self, s: Float[Tensor, " *shape"]) -> Float[Tensor, " *shape"]:
        """Return e^s."""
        return torch.exp(s)

    def inverse_tilt(self, ratio: float) -> float:
        """Return log r."""
        return math.log(ratio)

    @property
    def max_ratio(self) -> float:
        """Unbounded."""
        return math.inf

    def acceptance(
        self, energy: Float[Tensor, " n"], lower_bound: float, strength: float, kappa: float
    ) -> Float[Tensor, " n"]:
        """Return exp(-lam (F - inf F)), which does not depend on kappa."""
        return torch.exp(strength * (lower_bound - energy))

    def multiplier(
        self, cost: Float[Tensor, " n"], probabilities: Float[Tensor, " n"] | None = None
    ) -> float:
        """Return kappa = -log E[exp(-cost)], in closed form."""
        if not torch.isfinite(cost).all():
            return super().multiplier(cost, probabilities)
        log_p = (
            torch.full_like(cost, -math.log(cost.numel()), dtype=torch.float64)
            if probabilities is None
            else probabilities.double().log()
        )
        return -float(torch.logsumexp(log_p.flatten() - cost.detach().double().flatten(), 0))


@dataclass(frozen=True)
class SoftplusDivergence(Divergence):
    """Softplus: phi*(s) = 2 (softplus(s) - log 2), tilt(s) = 2 sigmoid(s), bounded by 2 (arXiv 2305.14777).

    phi(r) = r log r + (2 - r) log(2 - r) on [0, 2]: the target never exceeds twice the original law,
    so it cannot remove more than half the mass.
    """

    name = "softplus"

    def phi(self, ratio: Float[Tensor, " *shape"]) -> Float[Tensor, " *shape"]:
        """Return r log r + (2 - r) log(2 - r) on [0, 2]."""
        value = torch.xlogy(ratio, ratio) + torch.xlogy(2 - ratio, 2 - ratio)
        return torch.where((ratio < 0) | (ratio > 2), math.inf, value)

    def conjugate(self, s: Float[Tensor, " *shape"]) -> Float[Tensor, " *shape"]:
        """Return 2 (softplus(s) - log 2)."""
        return 2 * (nnf.softplus(s) - math.log(2))

    def tilt(self, s: Float[Tensor, " *shape"]) -> Float[Tensor, " *shape"]:
        """Return 2 sigmoid(s)."""
        return 2 * torch.sigmoid(s)

    def inverse_tilt(self, ratio: float) -> float:
        """Return logit(r / 2)."""
        return math.log(ratio / (2 - ratio))

    @property
    def max_ratio(self) -> float:
        """2: at most half the mass can be removed."""
        return 2.0


@dataclass(frozen=True)
class Chi2(Divergence):
    """Pearson chi-square: phi(r) = (r - 1)^2, phi*(s) = s + s^2/4 for s >= -2, tilt(s) = max(0, 1 + s/2)."""

    def phi(self, ratio: Float[Tensor, " *shape"]) -> Float[Tensor, " *shape"]:
        """Return (r - 1)^2 for r >= 0."""
        return torch.where(ratio < 0, math.inf, (ratio - 1) ** 2)

    def conjugate(self, s: Float[Tensor, " *shape"]) -> Float[Tensor, " *shape"]:
        """Return s + s^2/4 where s >= -2, and -1 below."""
        return torch.where(s >= -2, s + s**2 / 4, -torch.ones_like(s))

    def tilt(self, s: Float[Tensor, " *shape"]) -> Float[Tensor, " *shape"]:
        """Return max(0, 1 + s/2)."""
        return torch.clamp(1 + s / 2, min=0)

    def inverse_tilt(self, ratio: float) -> float:
        """Return 2 (r - 1)."""
        return 2 * (ratio - 1)

    @property
    def max_ratio(self) -> float:
        """Unbounded."""
        return math.inf


DIVERGENCES: dict[str, type[Divergence]] = {"kl": KL, "softplus": SoftplusDivergence, "chi2": Chi2}

__getattr__ = renamed(__name__, {"Softplus": "SoftplusDivergence"})
