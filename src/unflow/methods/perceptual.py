"""The perceptual distance: how far apart a critic's maps of two images are."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from unflow.classifiers import Classifier
from unflow.errors import InputError
from unflow.nets import ResNet


class PerceptualDistance(nn.Module):
    """d(x, y) = sum_l E ||u(m_l(x)) - u(m_l(y))||^2, m_l the critic's maps, u(m) = m/|m| over channels.

    The mean is over places and samples; no layer is weighted (arXiv 1801.03924, Eq. 1 without w).

    Args:
        critic: a classifier of images whose network is a ``nets.ResNet``; copied, frozen.

    Raises:
        InputError: for another network.
    """

    def __init__(self, critic: Classifier) -> None:
        super().__init__()
        net = critic.net
        if not isinstance(net, ResNet):
            raise InputError(f"got a {type(net).__name__} as critic; expected a classifier of net: resnet")
        self.net = copy.deepcopy(net).eval().requires_grad_(False)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the distance between images x and y, [batch, *shape] each; gradients pass."""
        pairs = zip(self.net.maps(x), self.net.maps(y), strict=True)
        return torch.stack([(unit(a) - unit(b)).square().sum(1).mean() for a, b in pairs]).sum()


def unit(maps: Tensor) -> Tensor:
    """Return maps [batch, channels, h, w] with channel vectors of length 1 (0 where they are 0)."""
    return maps * (maps.square().sum(1, keepdim=True) + 1e-3).rsqrt()
