"""Invertible maps of latents whose densities are known."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor


class LatentMap(ABC):
    """An invertible map T of states x [n, channels, *prior_shape], with a constant Jacobian determinant.

    Channel 0 of a state is the latent as a standard normal. A move may add a second channel of independent
    normal noise. p denotes the density of the state.
    """

    log_det: float = 0.0
    """log |det dT/dx|."""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Return T(x)."""

    @abstractmethod
    def inverse(self, y: Tensor) -> Tensor:
        """Return T^-1(y)."""

    def density_ratio(self, x: Tensor, y: Tensor) -> Tensor:
        """Return p(y) |det dT/dx| / p(x) for y = T(x), [n]."""
        return torch.exp(_log_density(y) - _log_density(x) + self.log_det)


def _log_density(x: Tensor) -> Tensor:
    return -x.double().square().flatten(1).sum(1) / 2


class AffineMap(LatentMap):
    """T(x) = m1 + (x - m0) A on the latent; the noise stays.

    Args:
        m0, m1: [d], in double precision.
        A: invertible, [d, d], in double precision.
    """

    def __init__(self, m0: Tensor, A: Tensor, m1: Tensor) -> None:
        self.m0, self.A, self.m1 = m0, A, m1
        self.A_inverse = torch.linalg.inv(A)
        self.log_det = float(torch.linalg.slogdet(A).logabsdet)

    def forward(self, x: Tensor) -> Tensor:
        """Return T(x)."""
        return replace_latent(x, self.m1 + (x[:, 0].flatten(1).double() - self.m0) @ self.A)

    def inverse(self, y: Tensor) -> Tensor:
        """Return m0 + (y - m1) A^-1."""
        return replace_latent(y, self.m0 + (y[:, 0].flatten(1).double() - self.m1) @ self.A_inverse)


def replace_latent(x: Tensor, latent: Tensor) -> Tensor:
    """Return the states x with another latent; the noise stays."""
    return torch.cat([latent.to(x).reshape(x[:, :1].shape), x[:, 1:]], 1)


class RotationMap(LatentMap):
    """T(z, e) = (cos z + sin e, cos e - sin z): a rotation of latent and noise, which leaves p unchanged.

    Args:
        share: sin^2, in (0, 1].
        opposite: whether the sine is negative.
    """

    def __init__(self, share: float, opposite: bool = False) -> None:
        self.cos, self.sin = (1 - share) ** 0.5, (-1 if opposite else 1) * share**0.5

    def forward(self, x: Tensor) -> Tensor:
        """Return T(x)."""
        z, noise = x.unbind(1)
        return torch.stack([self.cos * z + self.sin * noise, self.cos * noise - self.sin * z], 1)

    def inverse(self, y: Tensor) -> Tensor:
        """Return the rotation by the negative angle."""
        z, noise = y.unbind(1)
        return torch.stack([self.cos * z - self.sin * noise, self.cos * noise + self.sin * z], 1)


def gaussian_map(z: Tensor, other: Tensor, weight: Tensor | None = None, mirrored: bool = False) -> AffineMap:
    r"""Return T, the optimal map from the Gaussian of z to that of weighted rows.

        T(z) = m1 + A (z - m0),    A = C0^(-1/2) (C0^(1/2) C1 C0^(1/2))^(1/2) C0^(-1/2)

    (arXiv 1803.00567, Remark 2.31.) With n rows in d dimensions, C0 is (n C + d V) / (n + d), where V is the
    mean variance of ``other`` times the identity: this regularises C0 for few rows in many dimensions.

    Args:
        z: [n, *shape], with mean m0 and covariance C.
        other: [m, *shape], with weighted mean m1 and covariance C1.
        weight: [m], >= 0, of any positive sum; None: equal.
        mirrored: reflect z - m0 in the direction of m1 - m0 first. The skewness of a rejected half then
            agrees with that of the retained half. If the means are less than half a standard deviation apart,
            nothing is reflected: the direction would be noise, and the move far.
    """
    x, y = z.flatten(1).double(), other.flatten(1).double()
    n, d = x.shape
    m0, C = _moments(x, torch.ones_like(x[:, 0]))
    m1, C1 = _moments(y, torch.ones_like(y[:, 0]) if weight is None else weight.double())
    V = C1.diagonal().mean() * torch.eye(d).to(C1)
    C0 = (n * C + d * V) / (n + d)
    root, inverse = _power(C0, 0.5), _power(C0, -0.5)
    A = inverse @ _power(root @ C1 @ root, 0.5) @ inverse
    if mirrored and (m1 - m0).norm() > 0.5 * C1.diagonal().mean() ** 0.5:
        u = torch.nn.functional.normalize(m1 - m0, dim=0)
        A = A - 2 * torch.outer(u, u @ A)
    return AffineMap(m0, A, m1)


def _moments(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    mean = weight @ x / weight.sum()
    return mean, ((x - mean).T * weight) @ (x - mean) / weight.sum()


def _power(C: Tensor, exponent: float) -> Tensor:
    values, vectors = torch.linalg.eigh(C)
    power: Tensor = (vectors * values.clamp(min=1e-10) ** exponent) @ vectors.T  # rounding: some may be < 0
    return power
