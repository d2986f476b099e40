"""The acceptance of a request at the states of a flow: h(x, t; c) = E[w(x1) | x_t = x, c]."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from unflow.mathematics.paths import Path, expand
from unflow.mathematics.sharpness import as_image_shape
from unflow.nets import MLP, initial_weights
from unflow.nets.mlp import TimeEmbedding
from unflow.training.critics import LAST_SIDE, is_image

GROUPS = 4
"""Groups of the normalised channels."""
EARLIEST = 1e-3
"""The earliest time whose factor of the score is used; it is infinite at 0, where h does not depend on x."""


class ConvAcceptance(nn.Module):
    """The log-odds of h at noisy images, by strided convolutions that the time and the condition modulate.

    Args:
        shape: of one image (``as_image_shape``).
        num_conditions: conditions of the flow; the number itself means none. 0: a flow without conditions.
        width: channels of the first layer; doubled at the first two further halvings.
    """

    def __init__(self, shape: Sequence[int], num_conditions: int = 0, width: int = 16) -> None:
        super().__init__()
        self.shape, self.num_conditions = as_image_shape(shape), num_conditions
        channels, *sides = self.shape
        self.time = TimeEmbedding()
        if num_conditions:
            self.condition = nn.Embedding(num_conditions + 1, self.time.width)
        self.layers, self.norms, self.scales = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        out = width
        while max(sides) > LAST_SIDE:
            down, across = (2 if side > LAST_SIDE else 1 for side in sides)
            self.layers.append(nn.Conv2d(channels, out, 3, (down, across), padding=1))
            self.norms.append(nn.GroupNorm(GROUPS, out))
            self.scales.append(nn.Linear(self.time.width, 2 * out))
            channels, out = out, min(2 * out, 4 * width)
            sides = [-(-side // by) for side, by in zip(sides, (down, across), strict=True)]
        self.hidden = nn.Linear(channels * math.prod(sides), 8 * width)
        self.bias = nn.Linear(self.time.width, 8 * width)
        self.last = nn.Linear(8 * width, 1)

    def forward(self, x: Tensor, t: Tensor, *label: Tensor) -> Tensor:
        """Return the log-odds [batch, 1] at x [batch, *shape], times t and conditions, if any, [batch]."""
        given = self.time(t)
        if label:
            given = given + self.condition(label[0])
        h = x.reshape(len(x), *self.shape)
        for layer, norm, scale in zip(self.layers, self.norms, self.scales, strict=True):
            factor, shift = scale(given)[:, :, None, None].chunk(2, dim=1)
            h = nnf.silu(norm(layer(h)) * (1 + factor) + shift)
        value: Tensor = self.last(nnf.silu(self.hidden(h.flatten(1)) + self.bias(given)))
        return value


class Acceptance(nn.Module):
    r"""h(x, t; c) = E[w(x1) | x_t = x, c], the probability that the request keeps what x becomes.

    The network reads t x, so that h does not depend on x at t=0, where x is noise.

    Attributes:
        scale: multiplies grad log h where it guides a flow; 0 until ``GuidedLoss`` measures it.

    Args:
        shape: of x.
        num_conditions: conditions of the flow; the number itself means none. 0: a flow without conditions.
        seed: of the weights.
    """

    scale: Tensor

    def __init__(self, shape: Sequence[int], num_conditions: int, seed: int) -> None:
        super().__init__()
        self.num_conditions = num_conditions
        self.register_buffer("scale", torch.zeros(()))
        with initial_weights(seed):
            self.net = (
                ConvAcceptance(shape, num_conditions)
                if is_image(shape)
                else MLP(shape, outputs=1, width=256, depth=3, num_classes=num_conditions)
            )

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """Return the log-odds of h, [batch]; x [batch, *shape], t and label [batch] (or None)."""
        given = [] if label is None or self.num_conditions == 0 else [label]
        logit: Tensor = self.net(expand(t, x) * x, t, *given)
        return logit[:, 0]

    def guide(self, x: Tensor, t: Tensor, path: Path, label: Tensor | None = None) -> Tensor:
        """Return g(t) grad_x log h(x, t; c), [batch, *shape], with g of the path (``Path.score_factor``)."""
        t = t.clamp(min=EARLIEST)
        with torch.enable_grad():
            x = x.detach().requires_grad_(True)
            (slope,) = torch.autograd.grad(nnf.logsigmoid(self(x, t, label)).sum(), x)
        return expand(path.score_factor(t), x) * slope
