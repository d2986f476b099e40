"""Probability paths (x0, x1, t) -> (x_t, dx_t/dt); everywhere in unflow, t=0 is source and t=1 is data."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from unflow.ground.errors import choose


class PathSample(NamedTuple):
    """A point of the path and the velocity of its conditional flow, both [batch, *shape]."""

    x_t: Float[Tensor, " batch *shape"]
    dx_t: Float[Tensor, " batch *shape"]


def expand(t: Float[Tensor, " batch"], x: Float[Tensor, " batch *shape"]) -> Float[Tensor, " batch *ones"]:
    """Reshape times [batch] to [batch, 1, ..., 1], to broadcast against samples [batch, *shape]."""
    return t.reshape(-1, *[1] * (x.ndim - 1))


class Path(ABC):
    """An interpolation with x_t = x0 at t=0 and x1 at t=1."""

    @abstractmethod
    def sample(
        self,
        x0: Float[Tensor, " batch *shape"],
        x1: Float[Tensor, " batch *shape"],
        t: Float[Tensor, " batch"],
    ) -> PathSample:
        """Return x_t and dx_t/dt for x0, x1 of shape [batch, *shape] and t of shape [batch] in [0, 1]."""

    @abstractmethod
    def score_factor(self, t: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """Return g(t) of v(x, t) = (a'/a) x + g grad log q_t(x), for noise x0 ~ N(0, I) independent of x1.

        x_t = b x0 + a x1 gives g = b (a' b - a b') / a (arXiv 2303.08797). t [batch] in (0, 1].
        """


@dataclass(frozen=True)
class LinearPath(Path):
    """x_t = (1 - t) x0 + t x1, dx_t = x1 - x0 (arXiv 2302.00482; arXiv 2506.18747, Eq. 4)."""

    def sample(
        self,
        x0: Float[Tensor, " batch *shape"],
        x1: Float[Tensor, " batch *shape"],
        t: Float[Tensor, " batch"],
    ) -> PathSample:
        """Return a point of the straight line and its constant velocity."""
        dx_t = x1 - x0
        return PathSample(torch.addcmul(x0, dx_t, expand(t, x0)), dx_t)

    def score_factor(self, t: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """Return (1 - t) / t."""
        return (1 - t) / t


@dataclass(frozen=True)
class TrigonometricPath(Path):
    """x_t = cos(pi t/2) x0 + sin(pi t/2) x1; unit variance if x0, x1 are independent and have it."""

    def sample(
        self,
        x0: Float[Tensor, " batch *shape"],
        x1: Float[Tensor, " batch *shape"],
        t: Float[Tensor, " batch"],
    ) -> PathSample:
        """Return a point of the quarter circle and its velocity."""
        angle = expand(t, x0) * (math.pi / 2)
        cos, sin = torch.cos(angle), torch.sin(angle)
        return PathSample(cos * x0 + sin * x1, (math.pi / 2) * (cos * x1 - sin * x0))

    def score_factor(self, t: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """Return (pi/2) cot(pi t/2)."""
        return (math.pi / 2) / torch.tan(math.pi / 2 * t)


PATHS: dict[str, type[Path]] = {"linear": LinearPath, "trigonometric": TrigonometricPath}


def new_path(name: str) -> Path:
    """Return a path by name.

    Raises:
        InputError: for an unknown name.
    """
    return choose(PATHS, name, "path")()
