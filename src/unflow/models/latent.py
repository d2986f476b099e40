"""Latent: a generative model of an autoencoder's latents, followed by the decoder."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from unflow.ground.errors import InputError
from unflow.models.autoencoder import Autoencoder
from unflow.models.base import Askable, GenerativeModel


class Latent(GenerativeModel):
    """x = decode(inner(z)): unlearning changes ``inner`` but not the autoencoder.

    Args:
        inner: the generative model of latents: a flow, a flow map, a generator or a chain of them.
        autoencoder: a trained autoencoder.

    Raises:
        InputError: if the samples of ``inner`` are not latents of the autoencoder.
    """

    def __init__(self, inner: GenerativeModel, autoencoder: Autoencoder) -> None:
        if inner.sample_shape != autoencoder.latent_shape:
            raise InputError(
                f"got a model of samples {list(inner.sample_shape)} before a decoder of latents "
                f"{list(autoencoder.latent_shape)}; expected equal shapes"
            )
        super().__init__(inner.prior_shape, autoencoder.sample_shape)
        self.inner, self.autoencoder = inner, autoencoder
        self.family = inner.family

    def prior(self, n: int, generator: torch.Generator) -> Float[Tensor, " n *prior"]:
        """Draw from the inner model's prior."""
        return self.inner.prior(n, generator)

    def push(self, z: Float[Tensor, " batch *prior"]) -> Float[Tensor, " batch *shape"]:
        """Return decode(inner(z))."""
        return self.autoencoder.decode(self.inner.push(z))

    @property
    def conditional(self) -> Askable | None:
        """That of the inner model."""
        return self.inner.conditional

    def with_guidance(self, guidance: float) -> GenerativeModel:
        """Return the same model with the inner model at another guidance."""
        return Latent(self.inner.with_guidance(guidance), self.autoencoder)

    @property
    def num_evaluations(self) -> int:
        """That of the inner model; decoding is not counted."""
        return self.inner.num_evaluations

    @property
    def original_recoverable(self) -> bool:
        """That of the inner model."""
        return self.inner.original_recoverable

    def config(self) -> dict[str, Any]:
        """Return both architectures as plain data."""
        return {"model": "latent", "inner": self.inner.config(), **self.autoencoder.config()}


def inner_model(model: GenerativeModel) -> GenerativeModel:
    """Return the model that unlearning changes: ``inner`` of a ``Latent``, else the model itself."""
    return model.inner if isinstance(model, Latent) else model
