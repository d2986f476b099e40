"""Low-rank adapters: train a product of two small matrices instead of a weight (arXiv 2106.09685)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from unflow.ground.errors import InputError

LAYERS = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)
"""Layers whose weights can have an adapter."""


@dataclass(frozen=True)
class LowRank:
    """Train W + (alpha / rank) B A with W [m, n] fixed: rank (m + n) numbers instead of m n.

    B starts at 0, so that training starts at the given model, and A at N(0, 1/n) (arXiv 2106.09685,
    Section 4.1). The weight of a convolution is flattened from its second axis on. After training, the sum
    replaces W.

    Attributes:
        rank: >= 1; with rank >= min(m, n), B A can be any matrix.
        alpha: > 0, a scale of the product that acts like a learning rate; None: the rank, for a factor of 1.

    Raises:
        InputError: for a rank that is not a whole number >= 1, or an alpha that is not a finite number > 0.
    """

    rank: int
    alpha: float | None = None

    def __post_init__(self) -> None:
        if type(self.rank) is not int or self.rank < 1:
            raise InputError(f"got rank={self.rank!r}; expected 1 or more, a whole number")
        if self.alpha is not None and not (_is_number(self.alpha) and 0 < self.alpha < math.inf):
            raise InputError(f"got alpha={self.alpha!r}; expected a finite number > 0")

    @property
    def scale(self) -> float:
        """The factor of the product, alpha / rank."""
        return 1.0 if self.alpha is None else self.alpha / self.rank

    def parameters(self, m: int, n: int) -> int:
        """Return how many numbers are trained for one weight [m, n]."""
        return self.rank * (m + n)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


class LowRankSum(nn.Module):
    """W -> W + (alpha / rank) B A, as a parametrization of one weight.

    Args:
        weight: W, of the shape [m, ...].
        adapters: rank and alpha.
        generator: of A.
    """

    def __init__(self, weight: Tensor, adapters: LowRank, generator: torch.Generator) -> None:
        super().__init__()
        m, n = weight.flatten(1).shape
        self.A = nn.Parameter((torch.randn(adapters.rank, n, generator=generator) / math.sqrt(n)).to(weight))
        self.B = nn.Parameter(weight.new_zeros(m, adapters.rank))
        self.scale = adapters.scale

    def forward(self, weight: Tensor) -> Tensor:
        """Return the sum for W."""
        return weight + self.scale * (self.B @ self.A).view_as(weight)


def find_adaptable_layers(net: nn.Module) -> dict[str, nn.Module]:
    """Return name of a weight -> its layer, for the weights that can have an adapter.

    Weights that several layers share, and weights with a parametrization, cannot have one.

    Raises:
        InputError: if no weight can have an adapter.
    """
    owners: dict[int, int] = {}
    for _, weight in net.named_parameters(remove_duplicate=False):
        owners[id(weight)] = owners.get(id(weight), 0) + 1
    own = {name for name, weight in net.named_parameters() if owners[id(weight)] == 1}
    layers: dict[str, nn.Module] = {
        f"{name}.weight".removeprefix("."): module
        for name, module in net.named_modules()
        if isinstance(module, LAYERS)
    }
    found = {name: layer for name, layer in layers.items() if name in own}
    if not found:
        raise InputError(
            "got low-rank adapters for a network without weights of linear or convolution layers; expected "
            "some: name the weights to train by train_only, and leave the rank out"
        )
    return found


def merge_layer(layer: nn.Module) -> None:
    """Replace the weight by the sum, as the first of the layer's parameters, as in its class."""
    total = layer.weight
    assert isinstance(total, Tensor)
    parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
    layer.weight = nn.Parameter(total)  # not in place: the network in training shares W
    for name, parameter in list(layer.named_parameters(recurse=False)):
        if name != "weight":
            delattr(layer, name)
            layer.register_parameter(name, parameter)
