"""GenerativeModel: a network that maps latents of a known prior to samples."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from unflow.ground.batches import check_memory, in_batches
from unflow.ground.errors import InputError
from unflow.ground.progress import follow
from unflow.nets.limits import check_shape
from unflow.nets.modes import evaluating


class GenerativeModel(nn.Module, ABC):
    """G: z -> x with z from a known prior; unlearning changes the law of x.

    Args:
        prior_shape: shape of one latent z.
        sample_shape: shape of one sample x.
    """

    family: str
    """The row name in audits: flow, flow_map or generator."""

    def __init__(self, prior_shape: Sequence[int], sample_shape: Sequence[int]) -> None:
        super().__init__()
        check_shape(tuple(prior_shape), "prior_shape")
        check_shape(tuple(sample_shape))
        self.prior_shape, self.sample_shape = tuple(prior_shape), tuple(sample_shape)

    @abstractmethod
    def push(self, z: Float[Tensor, " batch *prior"]) -> Float[Tensor, " batch *shape"]:
        """Return x = G(z), shape [batch, *sample_shape], for z of shape [batch, *prior_shape]."""

    @property
    @abstractmethod
    def num_evaluations(self) -> int:
        """Network evaluations per sample (NFE)."""

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """Return the architecture as plain data, from which ``models.from_config`` rebuilds it."""

    @property
    def original_recoverable(self) -> bool:
        """Whether the original model is still inside (suppression, not removal)."""
        return False

    def prior(self, n: int, generator: torch.Generator) -> Float[Tensor, " n *prior"]:
        """Draw n latents with the dtype and device of the weights; neither changes the random stream."""
        check_memory(n * math.prod(self.prior_shape), f"{n} latents")
        return torch.randn(n, *self.prior_shape, generator=generator).to(self.device, self.dtype)

    def forward(self, z: Float[Tensor, " batch *prior"]) -> Float[Tensor, " batch *shape"]:
        """Return push(z)."""
        return self.push(z)

    @torch.no_grad()
    def push_batches(
        self, z: Float[Tensor, " batch *prior"], batch_size: int = 2048
    ) -> Float[Tensor, " batch *shape"]:
        """Return push(z) for many latents, without gradient and in evaluation mode."""
        with evaluating(self):
            chunks = follow(in_batches(z, batch_size), "draw samples")
            return torch.cat([self.push(chunk) for chunk in chunks])

    def sample(
        self,
        n: int,
        generator: torch.Generator,
        label: int | str | Tensor | None = None,
        guidance: float | None = None,
    ) -> Float[Tensor, " n *shape"]:
        """Return n samples, shape [n, *sample_shape].

        Args:
            n: number of samples.
            generator: of the latents.
            label: the condition that all samples are asked for, or its name, "null" for none, or one per
                sample [n]; None: conditions at random, by their probabilities.
            guidance: the guidance scale; None: the model's.

        Raises:
            InputError: if n is under 1; for a label or guidance that the model does not have.
        """
        if n < 1:
            raise InputError(f"got {n} samples to draw; expected 1 or more")
        model, z = self, self.prior(n, generator)
        if label is not None:
            z = self.require_conditional().ask(z, label)
        if guidance is not None:
            model = self.with_guidance(guidance)
        return model.push_batches(z)

    @property
    def conditional(self) -> Askable | None:
        """The conditional model inside that has the same latents; None for a model without conditions."""
        return None

    def require_conditional(self) -> Askable:
        """Return the conditional model inside.

        Raises:
            InputError: for a model without conditions.
        """
        found = self.conditional
        if found is None:
            raise InputError(
                "got a label or guidance for a model without conditions; expected a conditional model: leave "
                "it out, or declare label=random:10 in the specification of the model"
            )
        return found

    def with_guidance(self, guidance: float) -> GenerativeModel:
        """Return the same model, with shared weights, at another guidance.

        Raises:
            InputError: for guidance that the model cannot have.
        """
        raise InputError(
            f"got guidance={guidance:g} for a {self.family} without conditions; expected a conditional "
            "model: leave it out"
        )

    @property
    def device(self) -> torch.device:
        """The device of the weights (the CPU for a model without weights)."""
        first = next(self.parameters(), None)
        return torch.device("cpu") if first is None else first.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights (float32 for a model without weights)."""
        first = next(self.parameters(), None)
        return torch.float32 if first is None else first.dtype

    @property
    def dim(self) -> int:
        """The number of entries of one sample."""
        return math.prod(self.sample_shape)


class Askable(GenerativeModel):
    """A conditional model: each of its latents contains a condition, such as a class or a prompt."""

    null: int | None
    """The condition that means none; None where the model has no such condition."""

    @property
    @abstractmethod
    def num_conditions(self) -> int:
        """Conditions that have a probability."""

    @property
    @abstractmethod
    def drawn(self) -> list[int]:
        """Conditions whose probability is not 0, ascending."""

    @property
    @abstractmethod
    def num_classes(self) -> int:
        """Classes of a network (``num_classes`` of an ``MLP``) that tells all conditions and null apart."""

    @abstractmethod
    def conditions(self, z: Float[Tensor, " batch prior"]) -> Int[Tensor, " batch"]:
        """Return the condition that each latent asks for: 0 <= k < num_conditions, or ``null``."""

    @abstractmethod
    def find(self, name: str) -> int:
        """Return the number of the condition with a name; "null" names the null condition."""

    @abstractmethod
    def ask(
        self, z: Float[Tensor, " batch prior"], label: int | str | Int[Tensor, " batch"]
    ) -> Float[Tensor, " batch prior"]:
        """Return latents with the same noise that ask for another condition."""


def latent_norm(z: Float[Tensor, " batch *prior"]) -> Float[Tensor, " batch *ones"]:
    """Return ||z|| of each latent, [batch, 1, ...] with as many axes as z."""
    norm: Tensor = z.flatten(1).norm(dim=1)
    return norm.reshape(-1, *[1] * (z.ndim - 1))
