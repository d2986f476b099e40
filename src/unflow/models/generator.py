"""Generator: a third-party network z -> x."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unflow.ground.batches import check_memory
from unflow.ground.errors import InputError, convert_errors
from unflow.models.base import GenerativeModel
from unflow.nets import net_config
from unflow.nets.adapters import check_tensor
from unflow.nets.dtypes import check_weights
from unflow.nets.modes import evaluating


class Generator(GenerativeModel):
    """A module z -> x (a GAN, a consistency model, a decoder) with a stated prior.

    Args:
        net: maps [batch, *prior_shape] to [batch, *sample_shape].
        prior_shape: shape of one latent.
        prior: "normal" for N(0, 1), "uniform" for U[-1, 1], in every entry.

    Raises:
        InputError: if the net does not run on a batch of two latents of that shape.
    """

    family = "generator"

    def __init__(
        self, net: nn.Module, prior_shape: Sequence[int], prior: Literal["normal", "uniform"] = "normal"
    ) -> None:
        if prior not in ("normal", "uniform"):
            raise InputError(f"got prior={prior!r}; expected 'normal' or 'uniform'")
        check_weights(net, "the network")
        first = next(net.parameters(), torch.zeros(()))
        what = f"the network does not run on latents of shape {list(prior_shape)}"
        expected = "prior_shape to be the shape of one latent"
        with convert_errors(what, expected), torch.no_grad(), evaluating(net):
            x = net(torch.zeros(2, *prior_shape).to(first))
        check_tensor(x)
        super().__init__(prior_shape, x.shape[1:])
        self.net, self.prior_name = net, prior

    def prior(self, n: int, generator: torch.Generator) -> Float[Tensor, " n *prior"]:
        """Draw n latents from the stated prior."""
        if self.prior_name == "normal":
            return super().prior(n, generator)
        check_memory(n * math.prod(self.prior_shape), f"{n} latents")
        uniform = torch.rand(n, *self.prior_shape, generator=generator)
        return (2 * uniform - 1).to(self.device, self.dtype)

    def push(self, z: Float[Tensor, " batch *prior"]) -> Float[Tensor, " batch *shape"]:
        """Return net(z)."""
        x: Tensor = self.net(z)
        return x

    def with_network(self, net: nn.Module) -> Generator:
        """Return a generator of the same prior with another network of the same shapes."""
        other = copy.copy(self)
        other._modules = {**self._modules, "net": net}
        return other

    @property
    def num_evaluations(self) -> int:
        """One."""
        return 1

    def config(self) -> dict[str, Any]:
        """Return the architecture as plain data."""
        return {
            "model": "generator",
            "prior_shape": list(self.prior_shape),
            "prior": self.prior_name,
            "net": net_config(self.net),
        }
