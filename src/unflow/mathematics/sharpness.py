"""How sharp images are, and how samples lie among other samples: distances relative to a local radius."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as nnf
from jaxtyping import Float
from torch import Tensor

NEIGHBOURS = 5
"""Index of the neighbour whose distance is a local radius."""
REPEATED = 0.25
"""Gap between nearest samples, relative to that of a reference, below which samples repeat each other."""
LEAST_SIDE = 4
"""Pixels, at least, of each side of an image with edges."""
LEAST_FLAT_SIDE = 8
"""The same for a vector that is read as the pixels of a square image with one or three channels."""
POOLED_SIDE = 28
"""Images with longer sides are averaged over blocks before distances are measured."""


def has_edges(shape: Sequence[int]) -> bool:
    """Return whether samples of a shape are images: [c, h, w], [h, w], or the pixels of a square."""
    height, width = as_image_shape(shape)[1:]
    return min(height, width) >= LEAST_SIDE


def as_image_shape(shape: Sequence[int]) -> tuple[int, int, int]:
    """Return (channels, height, width) of a sample; (n, 1, 1) for one that is no image."""
    entries = math.prod(shape)
    if len(shape) >= 2:
        return math.prod(shape[:-2]), shape[-2], shape[-1]
    for channels in (1, 3):
        side = math.isqrt(entries // channels)
        if channels * side**2 == entries and side >= LEAST_FLAT_SIDE:
            return channels, side, side
    return entries, 1, 1


def edge_contrast(x: Float[Tensor, " n *shape"]) -> Float[Tensor, " n"]:
    r"""Return the edge contrast of images, [n], in the unit of their pixels; 0 for a constant image.

        c(x) = sum |d x|^2 / sum |d x|

    over the differences d x of horizontal and vertical neighbours: the mean height of an edge, weighted by
    the heights. Blur splits an edge into several lower ones, the average of two images halves edges, and
    noise adds many low ones: each lowers c. More or fewer edges of one height do not change it.

    Args:
        x: images [n, c, h, w] or [n, h, w]; vectors [n, c * s * s] are read as images of side s.
    """
    images = x.reshape(len(x), *as_image_shape(x.shape[1:])).double()
    down, across = images.diff(dim=2).flatten(1), images.diff(dim=3).flatten(1)
    squares = down.square().sum(1) + across.square().sum(1)
    heights = down.abs().sum(1) + across.abs().sum(1)
    return torch.where(heights > 0, squares / heights.clamp(min=1e-300), torch.zeros_like(squares))


def flatten_small(x: Float[Tensor, " n *shape"]) -> Float[Tensor, "n d"]:
    """Return samples as vectors [n, d]; images with sides above ``POOLED_SIDE`` are averaged over blocks."""
    if has_edges(x.shape[1:]):
        channels, height, width = as_image_shape(x.shape[1:])
        block = math.ceil(max(height, width) / POOLED_SIDE)
        if block > 1:
            images = x.reshape(len(x), channels, height, width).float()
            x = nnf.avg_pool2d(images, block, ceil_mode=True)
    return x.flatten(1).float()


@dataclass(frozen=True, eq=False)
class Neighbourhood:
    """Reference samples with the distance of each to its k-th nearest other one, k = ``NEIGHBOURS``.

    Attributes:
        points: [m, d], m > k.
        radii: [m], > 0 unless k + 1 points coincide.
    """

    points: Float[Tensor, "m d"]
    radii: Float[Tensor, " m"]

    @classmethod
    def around(cls, points: Float[Tensor, "m d"]) -> Neighbourhood:
        """Return the neighbourhood of points [m, d]."""
        return cls(points, measure_gaps(points, NEIGHBOURS))

    def log_distances(self, x: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        r"""Return log(distance of x to its k-th nearest point / mean radius of these k points), [n].

        Samples of the points' own law have a mean near 0 wherever the points are dense or sparse. Samples
        between clusters, and noisy ones, have a larger mean.
        """
        near = _distances(x, self.points).topk(NEIGHBOURS, largest=False)
        return _log_ratio(near.values[:, -1], self.radii[near.indices].mean(1))

    def log_reach(self, x: Float[Tensor, "n d"]) -> Float[Tensor, " m"]:
        """Return log(distance of each point to its k-th nearest x / its radius), [m]; n >= k.

        Samples that miss a part of the points have a larger mean.
        """
        return _log_ratio(
            _distances(self.points, x).topk(NEIGHBOURS, largest=False).values[:, -1], self.radii
        )

    def log_gaps(self, x: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """Return log(distance of x to the nearest other x / radius of the nearest point), [n].

        Samples that repeat each other have a very small mean.
        """
        nearest = _distances(x, self.points).argmin(1)
        return _log_ratio(measure_gaps(x, 1), self.radii[nearest])


def measure_gaps(x: Float[Tensor, "n d"], k: int) -> Float[Tensor, " n"]:
    """Return the distance of each sample to its k-th nearest other sample, [n]; n > k."""
    distances = _distances(x, x).fill_diagonal_(math.inf)
    return distances.topk(k, largest=False).values[:, -1]


def _distances(x: Tensor, y: Tensor) -> Tensor:
    """Return the distances [n, m]; exact to rounding in few dimensions, where close points matter."""
    few = x.shape[1] < 64
    mode = "donot_use_mm_for_euclid_dist" if few else "use_mm_for_euclid_dist"
    return torch.cdist(x, y, compute_mode=mode)


def _log_ratio(distance: Tensor, radius: Tensor) -> Tensor:
    """Return log(distance / radius), at least log 1e-3, so that equal samples give a finite mean."""
    ratio = distance.double() / radius.double().clamp(min=1e-12)
    return ratio.clamp(min=1e-3).log()
