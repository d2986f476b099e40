"""Chain: the samples of one model are the latents of the next."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from unflow.ground.errors import InputError
from unflow.models.base import Askable, GenerativeModel


class Chain(GenerativeModel):
    """x = after(base(z)): both models are unchanged, so the change can be undone.

    One of the two is the original and the other is a flow. The family is that of the one-step model, if there
    is one.

    Args:
        base: the first model: the original, or a flow of its latents.
        after: a model whose latents have the shape of the base's samples.

    Raises:
        InputError: if these shapes differ.
    """

    def __init__(self, base: GenerativeModel, after: GenerativeModel) -> None:
        if base.sample_shape != after.prior_shape:
            raise InputError(
                f"got a chain of samples {list(base.sample_shape)} into latents "
                f"{list(after.prior_shape)}; expected equal shapes"
            )
        super().__init__(base.prior_shape, after.sample_shape)
        self.base, self.after = base, after
        self.family = after.family if base.family == "flow" else base.family

    def prior(self, n: int, generator: torch.Generator) -> Float[Tensor, " n *prior"]:
        """Draw from the base's prior."""
        return self.base.prior(n, generator)

    def push(self, z: Float[Tensor, " batch *prior"]) -> Float[Tensor, " batch *shape"]:
        """Return after(base(z))."""
        return self.after.push(self.base.push(z))

    @property
    def conditional(self) -> Askable | None:
        """That of the first model; that of the second behind a flow of its latents."""
        return self.base.conditional or self.after.conditional

    def with_guidance(self, guidance: float) -> GenerativeModel:
        """Return the same model with the conditional one at another guidance."""
        if self.base.conditional is None:
            return Chain(self.base, self.after.with_guidance(guidance))
        return Chain(self.base.with_guidance(guidance), self.after)

    @property
    def num_evaluations(self) -> int:
        """The sum over both models."""
        return self.base.num_evaluations + self.after.num_evaluations

    @property
    def original_recoverable(self) -> bool:
        """True: the original model is inside."""
        return True

    def config(self) -> dict[str, Any]:
        """Return both architectures as plain data."""
        return {"model": "chain", "base": self.base.config(), "after": self.after.config()}
