"""Samples of a model with their latents and energies, or with their replacements."""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Bool, Float, Int
from torch import Tensor

NO_ORIGIN = -1
"""The origin of a sample that the model has not drawn."""


class Bank(NamedTuple):
    """Samples of the original model with their latents and energies."""

    z: Float[Tensor, " n *prior_shape"]
    """Latents, [n, *prior_shape]."""
    x: Float[Tensor, " n *sample_shape"]
    """Samples x = G0(z), [n, *sample_shape]."""
    energy: Float[Tensor, " n"]
    """F(x), [n]."""


class Drawn(NamedTuple):
    """Samples that replace rejected ones."""

    x: Float[Tensor, " n *sample_shape"]
    """Samples, [n, *sample_shape]."""
    origin: Int[Tensor, " n"]
    """The condition from which the model drew each sample, [n]; ``NO_ORIGIN`` for noise."""


class Replaced(NamedTuple):
    """Samples of q*(x | c), one for each row of a bank of a conditional model."""

    x: Float[Tensor, " n *sample_shape"]
    """The row's own sample where it was accepted, else one of the replacement, [n, *sample_shape]."""
    kept: Bool[Tensor, " n"]
    """Which rows were accepted, [n]."""
    origin: Int[Tensor, " n"]
    """The condition from which the model drew each sample, [n]; ``NO_ORIGIN`` for noise."""
