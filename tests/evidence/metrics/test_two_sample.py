"""The two-sample test by features and pixels."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from unflow.evidence import metrics
from unflow.ground.streams import stream

SHAPE = (1, 12, 12)


def images(seed: int, n: int = 400, noise: float = 0.0) -> Tensor:
    """Return images in a plane of three directions, with noise outside it."""
    directions = torch.randn(3, *SHAPE, generator=stream(7))
    x = torch.einsum("nk,kcij->ncij", torch.randn(n, 3, generator=stream(seed)), directions)
    return x + noise * torch.randn(n, *SHAPE, generator=stream(seed, 1))


def mean_pixel(x: Tensor) -> Tensor:
    """Return a feature that knows nothing of the noise."""
    return x.flatten(1).mean(1, keepdim=True)


def appearance(x: Tensor, y: Tensor) -> metrics.C2ST:
    return metrics.appearance_c2st(generated=(mean_pixel(x), x), reference=(mean_pixel(y), y))


def test_one_law_cannot_be_told_apart() -> None:
    test = appearance(images(1, noise=0.05), images(2, noise=0.05))
    assert abs(test.auc - 0.5) < 3 * test.standard_error


def test_noise_that_the_features_do_not_see_is_seen_in_the_pixels() -> None:
    x, y = images(1, noise=0.05), images(2, noise=0.12)
    assert metrics.c2st_auc(generated=mean_pixel(x), reference=mean_pixel(y)) < 0.55
    assert appearance(x, y).auc > 0.95


def test_a_difference_of_shape_is_seen_where_the_means_agree() -> None:
    """A ring against a Gaussian of the same mean and covariance: a linear test sees nothing."""
    angle = 2 * torch.pi * torch.rand(1000, generator=stream(3))
    ring, blob = (
        torch.stack([angle.cos(), angle.sin()], 1),
        torch.randn(1000, 2, generator=stream(4)) / 2**0.5,
    )
    assert metrics.c2st_auc(generated=ring, reference=blob) < 0.56
    assert metrics.appearance_c2st(generated=(ring, ring), reference=(blob, blob)).auc > 0.6


def test_the_same_seed_gives_the_same_number() -> None:
    x, y = images(1, 100), images(2, 100, noise=0.1)
    assert appearance(x, y) == appearance(x, y)


def test_few_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 4"):
        appearance(images(1, 3), images(2, 3))
