"""An energy of samples as an energy of latents."""

from __future__ import annotations

from typing import Protocol, cast

from torch import Tensor, nn

from unflow.energies.base import Energy, frozen


class Decoder(Protocol):
    """What turns latents into samples, as ``Autoencoder`` does."""

    def decode(self, latents: Tensor) -> Tensor:
        """Return samples [batch, *shape] of latents [batch, *latent_shape]."""
        ...


class Decoded(Energy):
    """An energy of samples as an energy of latents: F(decode(z)).

    Args:
        energy: F of samples.
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

    def forward(self, x: Tensor) -> Tensor:
        """Return F(decode(x)) for latents x."""
        return self.energy(cast(Decoder, self.autoencoder).decode(x))

    def describe(self) -> str:
        """Return the inner request."""
        return f"{self.energy.describe()}, decoded"
