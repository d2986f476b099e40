"""The energy itself: one number per sample."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod

from torch import Tensor, nn


class Energy(nn.Module, ABC):
    """F: [batch, *shape] -> [batch], in nats; a module, so that it moves between devices with the rest."""

    @property
    @abstractmethod
    def lower_bound(self) -> float:
        """The largest number known to lie under every F(x); -inf when there is none."""

    @property
    def differentiable(self) -> bool:
        """Whether dF/dx is available (methods that need it say so before training)."""
        return True

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Return F(x), shape [batch]."""

    def describe(self) -> str:
        """Return the request in words, for lineage and reports."""
        return type(self).__name__

    def __or__(self, other: Energy) -> Energy:
        from unflow.energies.algebra import Sum

        return Sum([self, other])

    def __and__(self, other: Energy) -> Energy:
        from unflow.energies.algebra import Minimum

        return Minimum([self, other])

    def __neg__(self) -> Energy:
        from unflow.energies.algebra import Negative

        return Negative(self)

    def __mul__(self, factor: float) -> Energy:
        from unflow.energies.algebra import Scaled

        return Scaled(self, factor)

    __rmul__ = __mul__


def frozen(module: nn.Module) -> nn.Module:
    """Return a copy of ``module`` in evaluation mode whose parameters take no gradient."""
    return copy.deepcopy(module).eval().requires_grad_(False)
