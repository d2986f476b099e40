"""Critics: networks that tell samples of two laws apart, and the losses of a critic and its adversary."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from unflow.mathematics.sharpness import as_image_shape, has_edges
from unflow.nets import MLP, initial_weights

SMALLEST_IMAGE = 8
"""Height and width from which an image is read by convolutions."""
LAST_SIDE = 4
"""The strided convolutions halve an image until its longer side is this or less; a shorter side stays."""
PENALISED = 4
"""One in this many rows of y enters the gradient penalty, whose second derivative is the dearest part of a
step."""


class ConvCritic(nn.Module):
    """D(x) by strided convolutions and one hidden layer: images [batch, *shape] -> [batch, outputs].

    There is no normalisation: a critic must see the contrast of an image.

    Args:
        shape: of one image: [c, h, w], [h, w], or a vector of the pixels of a square.
        width: channels of the first layer; doubled at the first two further halvings.
        outputs: numbers for each image.
    """

    def __init__(self, shape: Sequence[int], width: int = 16, outputs: int = 1) -> None:
        super().__init__()
        self.shape = as_image_shape(shape)
        channels, *sides = self.shape
        layers: list[nn.Module] = []
        out = width
        while max(sides) > LAST_SIDE:
            down, across = (2 if side > LAST_SIDE else 1 for side in sides)
            stride, kernel = (down, across), (2 + down, 2 + across)
            layers += [nn.Conv2d(channels, out, kernel, stride, padding=1), nn.LeakyReLU(0.2)]
            channels, out = out, min(2 * out, 4 * width)
            sides = [side // by for side, by in zip(sides, stride, strict=True)]
        size = channels * math.prod(sides)
        head = nn.Linear(size, 8 * width), nn.LeakyReLU(0.2), nn.Linear(8 * width, outputs)
        self.body = nn.Sequential(*layers, nn.Flatten(), *head)

    def silence(self) -> None:
        """Set the last layer to 0."""
        last = self.body[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return D(x), [batch, outputs]."""
        value: Tensor = self.body(x.reshape(len(x), *self.shape))
        return value


def is_image(shape: Sequence[int]) -> bool:
    """Return whether samples of this shape are images to a critic, rather than points or small latents."""
    return has_edges(shape) and min(as_image_shape(shape)[1:]) >= SMALLEST_IMAGE


def make_critic(
    shape: Sequence[int], seed: int, width: int = 16, *, silent: bool = False, outputs: int = 1
) -> nn.Module:
    """Return a critic with fresh weights: convolutional for images, an MLP for points and small latents.

    Args:
        shape: of one sample.
        seed: of the weights.
        width: channels of the first convolution; an MLP is 16 times as wide.
        silent: whether D(x) = 0 at the start, as it always is of an MLP.
        outputs: numbers for each sample.
    """
    with initial_weights(seed):
        if is_image(shape):
            critic = ConvCritic(shape, width, outputs)
            if silent:
                critic.silence()
            return critic
        return MLP(shape, outputs=outputs, width=16 * width, depth=2, num_times=0)


class ClassCritic(nn.Module):
    """D(x) = log sum_k exp l_k(x), from a logit l_k for each class (arXiv 1606.03498, Section 5): [batch, 1].

    Args:
        logits: l, [batch, *shape] -> [batch, classes].
    """

    def __init__(self, logits: nn.Module) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, x: Tensor) -> Tensor:
        """Return D(x), [batch, 1]."""
        value: Tensor = self.logits(x).logsumexp(1, keepdim=True)
        return value


class CriticLoss(nn.Module):
    """E[softplus(-D(y))] + E[softplus(D(x))] + r1/2 E||grad D(y)||^2 (arXiv 1801.04406, Eq. 1 and 9)."""

    def __init__(self, critic: nn.Module) -> None:
        super().__init__()
        self.critic = critic

    def forward(self, x: Tensor, y: Tensor, penalised: Tensor, r1: float) -> Tensor:
        """Return the loss for outputs x of a generator and samples y of the law to match, [batch, *shape].

        ``penalised`` are booleans [batch], true for one in ``PENALISED`` rows of y (``mark_penalised``).
        """
        value: Tensor = nnf.softplus(-self.critic(y)).mean() + nnf.softplus(self.critic(x)).mean()
        return value + r1 / 2 * measure_slope(self.critic, y, penalised) if r1 > 0 else value


class PairLoss(nn.Module):
    """E[softplus(D(x) - D(y))] + r1/2 (E||grad D(x)||^2 + E||grad D(y)||^2) (arXiv 2501.05441, Section 2)."""

    def __init__(self, critic: nn.Module) -> None:
        super().__init__()
        self.critic = critic

    def forward(self, x: Tensor, y: Tensor, penalised: Tensor, r1: float) -> Tensor:
        """Return the loss; arguments as for ``CriticLoss``, but the same rows of x and y are penalised."""
        value: Tensor = nnf.softplus(self.critic(x) - self.critic(y)).mean()
        if r1 > 0:
            value = value + r1 / 2 * sum(measure_slope(self.critic, each, penalised) for each in (x, y))
        return value


def measure_slope(critic: nn.Module, y: Tensor, penalised: Tensor) -> Tensor:
    """Return E||grad D(y)||^2, estimated on the rows that ``mark_penalised`` marks; 0 without such rows."""
    if not bool(penalised.any()):
        return torch.zeros((), dtype=y.dtype, device=y.device)
    rows = y[penalised].detach().requires_grad_(True)
    (slope,) = torch.autograd.grad(critic(rows).sum(), rows, create_graph=True)
    return PENALISED * slope.square().sum() / len(y)


def mark_penalised(batch_size: int) -> Tensor:
    """Return which rows of a batch enter the gradient penalty, booleans [batch_size]."""
    return torch.arange(batch_size) % PENALISED == 0


def deceive(critic: nn.Module, x: Tensor, y: Tensor | None = None) -> Tensor:
    """Return a generator's loss, E[softplus(-D(x))] or E[softplus(D(y) - D(x))], without gradients of D.

    Args:
        critic: D.
        x: outputs of the generator.
        y: samples of the law to match, for the relativistic loss of a pair.
    """
    critic.requires_grad_(False)
    loss = nnf.softplus((0 if y is None else critic(y)) - critic(x)).mean()
    critic.requires_grad_(True)
    return loss
