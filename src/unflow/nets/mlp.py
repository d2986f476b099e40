"""A residual multilayer perceptron for points, latents and small images."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from unflow.nets.limits import check_options


class TimeEmbedding(nn.Module):
    """cos(2^k t) and sin(2^k t) of times t, k = 0, 1, ...: [batch] -> [batch, 2 * num_frequencies]."""

    frequencies: Tensor

    def __init__(self, num_frequencies: int = 8) -> None:
        super().__init__()
        self.width = 2 * num_frequencies
        self.register_buffer("frequencies", 2.0 ** torch.arange(num_frequencies), persistent=False)

    def forward(self, t: Tensor) -> Tensor:
        """Return the features of t."""
        angle = t[:, None] * self.frequencies
        return torch.cat([angle.cos(), angle.sin()], dim=1)


def split_label(
    x: Tensor, conditions: tuple[Tensor, ...], num_times: int, num_classes: int
) -> tuple[tuple[Tensor, ...], Tensor]:
    """Return the times among the conditions of a network and the label [batch], which may be left out.

    The label of no class is num_classes; a network without classes takes all conditions as times.
    """
    none = torch.full((len(x),), num_classes, device=x.device)
    if num_classes == 0:
        return conditions, none
    times, rest = conditions[:num_times], conditions[num_times:]
    return times, rest[0] if rest else none


class OneHot(nn.Module):
    """The one-hot vector of a label, zeros for the label num_classes: [batch] -> [batch, num_classes]."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes

    def forward(self, label: Tensor) -> Tensor:
        """Return whole numbers, one row for each label."""
        return nnf.one_hot(label, self.num_classes + 1)[:, :-1]


class MLP(nn.Module):
    """h <- h + W silu(LayerNorm(h)), ``depth`` times, on the flattened input and its times.

    The last layer starts at zero, so an untrained velocity is 0 and an untrained chain link the identity.

    Args:
        shape: of one input.
        width: hidden features.
        depth: residual layers.
        num_times: number of time arguments after x (0: a potential or classifier; 1: a velocity;
            2: an average velocity).
        outputs: features of the output [batch, outputs]; None for the input's shape.
        frequencies: number of sines and cosines of 2^k pi x, k = 0, 1, ..., appended for each entry of x;
            points in the plane need some, because thin rings and sharp edges have high frequencies.
        num_classes: classes of a label after the times, appended as a one-hot vector; 0: none. The label
            num_classes, which is also used where no label is given, means no class.
    """

    angles: Tensor

    def __init__(
        self,
        shape: Sequence[int],
        width: int = 256,
        depth: int = 4,
        num_times: int = 1,
        outputs: int | None = None,
        frequencies: int = 0,
        num_classes: int = 0,
    ) -> None:
        super().__init__()
        self.config = {
            "net": "mlp",
            "shape": list(shape),
            "width": width,
            "depth": depth,
            "num_times": num_times,
            "outputs": outputs,
            "frequencies": frequencies,
            **({"num_classes": num_classes} if num_classes else {}),
        }
        check_options(self.config)
        self.shape, self.outputs, self.num_times = tuple(shape), outputs, num_times
        self.num_classes, self.classes = num_classes, OneHot(num_classes) if num_classes else None
        dim = math.prod(shape)
        self.register_buffer("angles", math.pi * 2.0 ** torch.arange(frequencies), persistent=False)
        self.embed = TimeEmbedding()
        inputs = dim * (1 + 2 * frequencies) + num_times * self.embed.width + num_classes
        self.first = nn.Linear(inputs, width)
        linears = [nn.Linear(width, width) for _ in range(depth)]
        self.layers = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.SiLU(), linear) for linear in linears
        )
        self.last = nn.Linear(width, dim if outputs is None else outputs)
        for linear in [*linears, self.last]:
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)

    def features(self, x: Tensor, *conditions: Tensor) -> Tensor:
        """Return the input of the last layer, [batch, width]."""
        times, label = split_label(x, conditions, self.num_times, self.num_classes)
        parts = [*self._expand_entries(x.flatten(1)), *map(self.embed, times)]
        if self.classes is not None:
            parts.append(self.classes(label).to(x))
        h = self.first(torch.cat(parts, dim=1))
        for layer in self.layers:
            h = h + layer(h)
        return nnf.silu(h)

    def _expand_entries(self, x: Tensor) -> list[Tensor]:
        if len(self.angles) == 0:
            return [x]
        angle = (x[:, :, None] * self.angles).flatten(1)
        return [x, angle.sin(), angle.cos()]

    def forward(self, x: Tensor, *conditions: Tensor) -> Tensor:
        """Return [batch, *shape], or [batch, outputs]; x [batch, *shape], each time and the label [batch]."""
        out: Tensor = self.last(self.features(x, *conditions))
        return out.reshape(len(x), *self.shape) if self.outputs is None else out
