"""Energies from functions: the indicator of a region, and any function of a batch."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unflow.energies.base import Energy, frozen
from unflow.ground.errors import InputError


class Region(Energy):
    """A constant ``height`` inside a region and 0 outside: F(x) = height * 1[contains(x)].

    Args:
        contains: maps [batch, *shape] to booleans [batch].
        height: > 0 and finite, in nats; at strength 1 the density inside is multiplied by exp(-height).
    """

    def __init__(self, contains: Callable[[Tensor], Tensor], height: float = 20.0) -> None:
        super().__init__()
        if not (height > 0 and math.isfinite(height)):
            raise InputError(f"got height={height} for a region; expected a finite number > 0")
        self.contains, self.height = contains, height

    @property
    def lower_bound(self) -> float:
        """0, the value outside."""
        return 0.0

    @property
    def differentiable(self) -> bool:
        """False: the gradient of an indicator is 0 almost everywhere."""
        return False

    def forward(self, x: Float[Tensor, " batch *shape"]) -> Float[Tensor, " batch"]:
        """Return height or 0, shape [batch]."""
        return self.height * self.contains(x).to(x.dtype)

    def describe(self) -> str:
        """Return the region's height."""
        return f"a region (height {self.height:g})"


class CallableEnergy(Energy):
    """Any function of a batch, with the properties that its author states.

    Args:
        function: maps [batch, *shape] to [batch]; a module is copied and frozen.
        lower_bound: a lower bound of all values; -inf if there is none.
        differentiable: False for a black box, whose output is then computed without gradient.
    """

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        lower_bound: float = -math.inf,
        differentiable: bool = True,
    ) -> None:
        super().__init__()
        self.function = frozen(function) if isinstance(function, nn.Module) else function
        self._lower_bound, self._differentiable = lower_bound, differentiable

    @property
    def lower_bound(self) -> float:
        """As stated by the author."""
        return self._lower_bound

    @property
    def differentiable(self) -> bool:
        """As stated by the author."""
        return self._differentiable

    def forward(self, x: Float[Tensor, " batch *shape"]) -> Tensor:
        """Return function(x), shape [batch]."""
        if self._differentiable:
            return self.function(x)
        with torch.no_grad():
            return self.function(x)

    def describe(self) -> str:
        """Return the name of the function."""
        return f"callable {getattr(self.function, '__name__', type(self.function).__name__)}"
