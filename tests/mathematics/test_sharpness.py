"""Sharpness: exact values of edges, and what tells blur, ghosts and noise from another class mix."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as nnf
from torch import Tensor

from unflow.data import load_data
from unflow.evidence import metrics
from unflow.ground.errors import InputError
from unflow.ground.streams import stream
from unflow.mathematics.sharpness import Neighbourhood, edge_contrast, flatten_small, has_edges


def step_image(*heights: float) -> Tensor:
    """Columns 0, h1, h1 + h2, ...: vertical edges of these heights, and columns without any."""
    levels = torch.tensor([0.0, *heights]).cumsum(0)
    return levels.repeat_interleave(2)[None, None, None, :].expand(1, 1, 8, -1)


def test_the_contrast_of_one_edge_is_its_height_and_of_several_their_weighted_mean() -> None:
    assert float(edge_contrast(step_image(0.7))) == pytest.approx(0.7)
    assert float(edge_contrast(step_image(0.5, -0.5, 0.5))) == pytest.approx(0.5)
    assert float(edge_contrast(step_image(1.0, 3.0))) == pytest.approx((1 + 9) / (1 + 3))
    assert float(edge_contrast(torch.full((1, 1, 8, 8), 0.3))) == 0.0


def test_an_average_of_two_images_with_edges_in_other_places_has_half_the_contrast() -> None:
    x, y = torch.zeros(1, 1, 8, 12), torch.zeros(1, 1, 8, 12)
    x[..., 2:], y[..., 8:] = 1.0, 1.0
    assert float(edge_contrast((x + y) / 2)) == pytest.approx(0.5)


def test_a_vector_of_a_square_number_of_pixels_is_the_image() -> None:
    x = torch.rand(5, 1, 8, 8, generator=stream(0))
    torch.testing.assert_close(edge_contrast(x), edge_contrast(x.flatten(1)))
    assert has_edges((64,))
    assert has_edges((3 * 64,))
    assert has_edges((1, 28, 28))
    assert not has_edges((2,))
    assert not has_edges((60,))
    assert not has_edges((16,))


def blur(x: Tensor, sigma: float) -> Tensor:
    weights = torch.exp(-(torch.arange(-2.0, 3.0) ** 2) / (2 * sigma**2))
    weights = weights / weights.sum()
    padded = nnf.pad(x, (2, 2, 2, 2), value=-1.0)
    return nnf.conv2d(nnf.conv2d(padded, weights[None, None, :, None]), weights[None, None, None, :])


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor]:
    data = load_data("digits")
    order = torch.randperm(len(data), generator=stream(3))
    return data.x[order], data.labels[order]


def test_blur_ghosts_and_noise_lower_the_ratio_and_another_class_mix_does_not(
    digits: tuple[Tensor, Tensor],
) -> None:
    x, labels = digits
    one, other = x[:800], x[800:1600]

    def ratio(generated: Tensor) -> float:
        found = metrics.sharpness_ratio(generated=generated, reference=one)
        assert found is not None
        return found

    ghosts = (other[:400] + other[400:]) / 2
    assert ratio(other) == pytest.approx(1, abs=0.015)
    few = other[torch.isin(labels[800:1600], torch.tensor([0, 2, 4, 7]))]
    assert ratio(few) == pytest.approx(1, abs=0.03)
    assert ratio(blur(other, 0.5)) < 0.75
    assert ratio(ghosts) < 0.8
    assert ratio(torch.cat([other[:700], ghosts[:100]])) < 0.985
    assert ratio(other + 0.2 * torch.randn(other.shape, generator=stream(1))) < 0.96


def test_points_have_no_edges_and_no_samples_are_refused() -> None:
    points = torch.randn(20, 2, generator=stream(0))
    assert metrics.sharpness_ratio(generated=points, reference=points) is None
    flat = torch.zeros(5, 1, 8, 8)
    assert metrics.sharpness_ratio(generated=flat, reference=flat) is None
    with pytest.raises(InputError, match="got 0 samples and a reference of 20"):
        metrics.sharpness_ratio(generated=points[:0], reference=points)


def ring(n: int, seed: int, spread: float = 0.05) -> Tensor:
    generator = stream(seed)
    angle = torch.randint(8, (n,), generator=generator) * (2 * math.pi / 8)
    centre = torch.stack([angle.cos(), angle.sin()], 1)
    return centre + spread * torch.randn(n, 2, generator=generator)


def test_midpoints_and_noise_lie_far_and_samples_of_the_law_do_not() -> None:
    around = Neighbourhood.around(ring(1000, 0))
    base = float(around.log_distances(ring(1000, 1)).mean())

    def distance(x: Tensor) -> float:
        return math.exp(float(around.log_distances(x).mean()) - base)

    x, y = ring(1000, 2), ring(1000, 3)
    assert distance(x) == pytest.approx(1, abs=0.05)
    assert distance((x + y) / 2) > 2
    assert distance(ring(1000, 4, spread=0.08)) > 1.2


def test_gaps_are_near_zero_for_repeated_samples_and_reach_is_large_for_missed_ones() -> None:
    around = Neighbourhood.around(ring(1000, 0))
    fresh = ring(1000, 1)
    gap, reach = float(around.log_gaps(fresh).mean()), float(around.log_reach(fresh).mean())
    assert float(around.log_gaps(fresh[:1].expand(1000, 2)).mean()) - gap < -4
    assert float(around.log_gaps(fresh[:50].repeat(20, 1)).mean()) - gap < -4
    half = fresh[fresh[:, 0] > 0]
    assert float(around.log_reach(half).mean()) - reach > 0.5
    assert float(around.log_reach(ring(1000, 5)).mean()) == pytest.approx(reach, abs=0.05)


def test_large_images_are_averaged_before_distances() -> None:
    x = torch.rand(3, 1, 56, 56, generator=stream(0))
    assert flatten_small(x).shape == (3, 28 * 28)
    torch.testing.assert_close(flatten_small(x)[0, 0], x[0, 0, :2, :2].mean())
    assert torch.equal(flatten_small(x[:, :, :8, :8]), x[:, :, :8, :8].flatten(1))
