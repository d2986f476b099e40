"""The base class of energies, how energies combine, and their values at many samples."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol, cast

import torch
import torch.nn.functional as nnf
from jaxtyping import Float
from torch import Tensor, nn

from unflow.ground.batches import in_batches
from unflow.ground.errors import InputError
from unflow.ground.progress import follow


class Energy(nn.Module, ABC):
    """F: [batch, *shape] -> [batch], in nats. It is a module, so ``to(device)`` moves it."""

    @property
    @abstractmethod
    def lower_bound(self) -> float:
        """The largest known lower bound of F; -inf if none is known."""

    @property
    def differentiable(self) -> bool:
        """Whether dF/dx is available. Methods that need it refuse other energies before training."""
        return True

    @abstractmethod
    def forward(self, x: Float[Tensor, " batch *shape"]) -> Float[Tensor, " batch"]:
        """Return F(x), shape [batch]."""

    def describe(self) -> str:
        """Return the request in words, for lineage and reports."""
        return type(self).__name__

    def __or__(self, other: Energy) -> Energy:
        return Sum([self, other])

    def __and__(self, other: Energy) -> Energy:
        return Minimum([self, other])

    def __neg__(self) -> Energy:
        return Negative(self)

    def __mul__(self, factor: float) -> Energy:
        return Scaled(self, factor)

    __rmul__ = __mul__


def frozen(module: nn.Module) -> nn.Module:
    """Return a copy of ``module`` in evaluation mode whose parameters take no gradient."""
    with torch.no_grad():  # else the copied weights of TorchScript are results, not parameters
        return copy.deepcopy(module).eval().requires_grad_(False)


# The algebra


class Softplus(Energy):
    """The bounded version of an energy: softplus(F + margin) >= 0."""

    def __init__(self, energy: Energy, margin: float = 0.0) -> None:
        super().__init__()
        check_margin(margin)
        self.energy, self.margin = energy, margin

    @property
    def lower_bound(self) -> float:
        """softplus(lower bound + margin)."""
        bound = self.energy.lower_bound + self.margin
        return float(nnf.softplus(torch.tensor(bound, dtype=torch.float64)))

    @property
    def differentiable(self) -> bool:
        """As the inner energy."""
        return self.energy.differentiable

    def forward(self, x: Float[Tensor, " batch *shape"]) -> Float[Tensor, " batch"]:
        """Return softplus(F(x) + margin)."""
        return nnf.softplus(self.energy(x) + self.margin)

    def describe(self) -> str:
        """Return the inner request and the margin."""
        return f"{self.energy.describe()} (softplus, margin {self.margin:g})"


def check_margin(margin: float) -> None:
    """Raise InputError for a margin that is negative or not finite."""
    if not 0 <= margin < math.inf:
        raise InputError(f"got margin={margin}; expected a finite number >= 0")


class Negative(Energy):
    """-F: forget everything but what F asks to forget. It has no lower bound; ``Softplus`` gives it one."""

    def __init__(self, energy: Energy) -> None:
        super().__init__()
        self.energy = energy

    @property
    def lower_bound(self) -> float:
        """-inf, because no upper bound of F is known."""
        return -math.inf

    @property
    def differentiable(self) -> bool:
        """As the inner energy."""
        return self.energy.differentiable

    def forward(self, x: Float[Tensor, " batch *shape"]) -> Float[Tensor, " batch"]:
        """Return -F(x)."""
        F: Tensor = self.energy(x)
        return -F

    def describe(self) -> str:
        """Return the inverted request."""
        return f"not ({self.energy.describe()})"


class Scaled(Energy):
    """factor * F, for a factor >= 0."""

    def __init__(self, energy: Energy, factor: float) -> None:
        super().__init__()
        if not factor >= 0:
            raise InputError(
                f"got the factor {factor} for an energy; expected a number >= 0 "
                "(write -energy to invert a request)"
            )
        self.energy, self.factor = energy, factor

    @property
    def lower_bound(self) -> float:
        """Factor times the inner bound."""
        return self.factor * self.energy.lower_bound if self.factor else 0.0

    @property
    def differentiable(self) -> bool:
        """As the inner energy."""
        return self.energy.differentiable

    def forward(self, x: Float[Tensor, " batch *shape"]) -> Float[Tensor, " batch"]:
        """Return factor * F(x)."""
        F: Tensor = self.energy(x)
        return self.factor * F

    def describe(self) -> str:
        """Return the factor and the inner request."""
        return f"{self.factor:g} x {self.energy.describe()}"


class _Combination(Energy):
    """Several energies of the same samples."""

    def __init__(self, energies: Sequence[Energy]) -> None:
        super().__init__()
        if len(energies) < 2:
            raise InputError(f"got {len(energies)} energies to combine; expected two or more")
        self.energies = nn.ModuleList(energies)

    @property
    def parts(self) -> list[Energy]:
        return [energy for energy in self.energies if isinstance(energy, Energy)]

    @property
    def differentiable(self) -> bool:
        return all(energy.differentiable for energy in self.parts)

    def values(self, x: Float[Tensor, " batch *shape"]) -> Float[Tensor, " parts batch"]:
        F = torch.stack([energy(x) for energy in self.parts])
        return F if self.differentiable else F.detach()  # the parts' gradients are not that of the whole


class Sum(_Combination):
    """Union of requests: F = F_1 + ... + F_k, so that the weights exp(-F_i) multiply.

    Raises:
        InputError: for energies without a lower bound, which would cancel in the sum.
    """

    def __init__(self, energies: Sequence[Energy]) -> None:
        super().__init__(energies)
        for energy in self.parts:
            require_bounded(energy, "a union of requests")

    @property
    def lower_bound(self) -> float:
        """The sum of the bounds."""
        return sum(energy.lower_bound for energy in self.parts)

    def forward(self, x: Float[Tensor, " batch *shape"]) -> Float[Tensor, " batch"]:
        """Return the sum, shape [batch]."""
        return self.values(x).sum(0)

    def describe(self) -> str:
        """Return the requests joined by 'or'."""
        return " or ".join(energy.describe() for energy in self.parts)


class Minimum(_Combination):
    """Intersection of requests: F = min(F_1, ..., F_k), which is large only where every part is large."""

    @property
    def lower_bound(self) -> float:
        """The least of the bounds."""
        return min(energy.lower_bound for energy in self.parts)

    def forward(self, x: Float[Tensor, " batch *shape"]) -> Float[Tensor, " batch"]:
        """Return the minimum, shape [batch]."""
        return self.values(x).amin(0)

    def describe(self) -> str:
        """Return the requests joined by 'and'."""
        return " and ".join(energy.describe() for energy in self.parts)


# Latents


class Decoder(Protocol):
    """A module that turns latents into samples, such as ``Autoencoder``."""

    def decode(self, latents: Float[Tensor, " batch *latent"]) -> Float[Tensor, " batch *shape"]:
        """Return the samples [batch, *shape] of latents [batch, *latent_shape]."""
        ...


class Decoded(Energy):
    """An energy of samples as an energy of latents z: F(decode(z)).

    Args:
        energy: F, of samples.
        autoencoder: a module with ``decode``; it is copied and frozen.
    """

    def __init__(self, energy: Energy, autoencoder: nn.Module) -> None:
        super().__init__()
        self.energy, self.autoencoder = energy, frozen(autoencoder)

    @property
    def lower_bound(self) -> float:
        """As the inner energy."""
        return self.energy.lower_bound

    @property
    def differentiable(self) -> bool:
        """As the inner energy."""
        return self.energy.differentiable

    def forward(self, x: Float[Tensor, " batch *shape"]) -> Float[Tensor, " batch"]:
        """Return F(decode(x)) for latents x."""
        F: Tensor = self.energy(cast(Decoder, self.autoencoder).decode(x))
        return F

    def describe(self) -> str:
        """Return the inner request."""
        return f"{self.energy.describe()}, decoded"


# Values


def require_bounded(energy: Energy, purpose: str) -> None:
    """Raise InputError if ``energy`` has no lower bound."""
    if energy.lower_bound == -math.inf:
        raise InputError(
            f"got an energy without a lower bound ({energy.describe()}) for {purpose}; expected one "
            "that is bounded below: give ClassLogOdds a margin, or wrap it in energies.Softplus"
        )


def require_finite(F: Float[Tensor, " n"]) -> None:
    """Raise InputError if any of the energies F [n] of samples is NaN or infinite."""
    if not torch.isfinite(F).all():
        raise InputError(
            f"the energy is NaN or infinite for {int((~torch.isfinite(F)).sum())} of {len(F)} "
            "samples; expected finite numbers: check the classifier or callable behind it"
        )


def evaluate(
    energy: Energy, x: Float[Tensor, " n *shape"], batch_size: int = 4096, *, varies: bool = True
) -> Float[Tensor, " n"]:
    """Return F at many samples, [n], without gradient, after checking that the values can be an energy.

    Raises:
        InputError: for values of the wrong shape, NaN or infinite values, the same value for all samples (if
            it ``varies``), or a value under the energy's lower bound.
    """
    with torch.no_grad():
        values = [energy(chunk) for chunk in follow(in_batches(x, batch_size), "score samples")]
    for chunk, value in zip(in_batches(x, batch_size), values, strict=True):
        if value.shape != (len(chunk),):
            raise InputError(
                f"the energy returned shape {list(value.shape)} for {len(chunk)} samples; "
                f"expected [{len(chunk)}], one number per sample"
            )
    F = torch.cat(values)
    require_finite(F)
    if varies and len(F) > 1 and float(F.max() - F.min()) == 0.0:
        raise InputError(
            f"the energy is the same number ({float(F[0]):.4g}) for all {len(F)} samples; expected it "
            "to differ between what to forget and what to keep"
        )
    bound = energy.lower_bound
    if len(F) and float(F.min()) < bound - 1e-4 * (1 + abs(bound)):
        raise InputError(
            f"the energy is {float(F.min()):.4g} for one of {len(F)} samples, under its stated "
            f"lower bound {bound:.4g}; expected a lower_bound that lies under every value"
        )
    return F
