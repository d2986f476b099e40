"""Laws of the sets in the plane: points and classes agree with an exact geometry."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from scipy.stats import norm, rice
from torch import Tensor

from unflow.data import PLANAR_SETS, Checkerboard, Circles, Gaussians, GeometryJudge, Moons, PlanarSet
from unflow.ground.errors import InputError

N = 20_000


def without_noise(planar: Any) -> Any:
    return replace(planar, noise=0.0) if hasattr(planar, "noise") else planar


def error_rate(planar: PlanarSet, generator: torch.Generator, n: int = N) -> float:
    data = planar.sample(n, generator)
    return 1 - GeometryJudge(planar).accuracy(data.x, data.labels)


def standard_error(rate: float, n: int = N) -> float:
    return math.sqrt(rate * (1 - rate) / n)


def anywhere(n: int, generator: torch.Generator) -> Tensor:
    return 4 * torch.rand(n, 2, generator=generator) - 2


# Laws of every set


@pytest.mark.parametrize("name", PLANAR_SETS)
def test_a_planar_set_has_float_points_and_the_labels_it_says(name: str, generator: torch.Generator) -> None:
    planar = PLANAR_SETS[name]
    data = planar.sample(1000, generator)
    assert data.name == planar.name == name
    assert data.x.shape == (1000, 2)
    assert data.x.dtype == torch.float32
    assert data.labels.shape == (1000,)
    assert data.labels.dtype == torch.long
    assert data.class_names == planar.class_names
    assert len(set(data.class_names)) == len(data.class_names)


@pytest.mark.parametrize("name", PLANAR_SETS)
def test_forgotten_and_retained_classes_are_all_classes_and_neither_is_empty(name: str) -> None:
    planar = PLANAR_SETS[name]
    assert sorted(planar.forget + planar.retained) == list(range(len(planar.class_names)))
    assert planar.forget
    assert planar.retained


@pytest.mark.parametrize("name", PLANAR_SETS)
def test_points_are_a_function_of_the_generators_seed_and_of_nothing_else(name: str) -> None:
    first, same, other = (
        PLANAR_SETS[name].sample(50, torch.Generator().manual_seed(seed)).fingerprint for seed in (3, 3, 4)
    )
    assert first == same != other


@pytest.mark.parametrize("name", PLANAR_SETS)
def test_classes_are_equally_likely_in_every_part_of_a_sample(name: str, generator: torch.Generator) -> None:
    planar = PLANAR_SETS[name]
    share = 1 / len(planar.class_names)
    for half in planar.sample(2 * N, generator).labels.chunk(2):
        shares = half.bincount(minlength=len(planar.class_names)) / N
        assert (shares - share).abs().max() < 5 * standard_error(share)


@pytest.mark.parametrize("name", PLANAR_SETS)
def test_nearly_all_points_are_within_the_board_and_they_fill_it(
    name: str, generator: torch.Generator
) -> None:
    planar = PLANAR_SETS[name]
    x = planar.sample(N, generator).x
    assert (x.abs() <= 0.8 + 1e-6).all(1).float().mean() > 0.999
    assert 0.65 < x[:, 0].max() < 0.9
    assert -0.9 < x[:, 0].min() < -0.65
    assert x.mean(0).norm() < 5 / math.sqrt(N)
    assert without_noise(planar).sample(N, generator).x.abs().max() <= 0.8 + 1e-6


@pytest.mark.parametrize("name", PLANAR_SETS)
def test_points_without_noise_lie_on_their_component_and_are_classified_so(
    name: str, generator: torch.Generator
) -> None:
    planar = without_noise(PLANAR_SETS[name])
    data = planar.sample(N, generator)
    own = planar.distances(data.x).gather(1, data.labels[:, None])
    assert own.max() < 1e-6
    assert torch.equal(planar.classify(data.x), data.labels)


@pytest.mark.parametrize("name", PLANAR_SETS)
def test_a_distance_is_that_to_the_nearest_of_many_points_without_noise(
    name: str, generator: torch.Generator
) -> None:
    planar = without_noise(PLANAR_SETS[name])
    x = anywhere(300, generator)
    for label in range(len(planar.class_names)):
        component = planar.points(torch.full((10_000,), label), generator)
        nearest = torch.cdist(x, component).min(1).values
        excess = nearest - planar.distances(x)[:, label]
        assert excess.min() > -1e-5
        assert excess.max() < 0.02


@pytest.mark.parametrize("name", PLANAR_SETS)
def test_points_of_given_classes_are_of_these_classes(name: str, generator: torch.Generator) -> None:
    planar = PLANAR_SETS[name]
    labels = torch.tensor(planar.retained).repeat(200)
    assert (planar.classify(planar.points(labels, generator)) == labels).float().mean() > 0.99


@pytest.mark.parametrize("name", PLANAR_SETS)
def test_every_point_of_the_plane_has_a_class_in_either_precision(
    name: str, generator: torch.Generator
) -> None:
    planar = PLANAR_SETS[name]
    x = torch.cat([anywhere(1000, generator), 1e6 * anywhere(10, generator)])
    labels = planar.classify(x)
    assert labels.unique().tolist() == list(range(len(planar.class_names)))
    agree = planar.classify(x[:1000].double()) == labels[:1000]
    assert agree.float().mean() > 0.99
    assert planar.classify(torch.zeros(0, 2)).shape == (0,)


@pytest.mark.parametrize(("name", "gap"), [("circles", 0.35), ("moons", 0.24), ("gaussians", 0.6)])
def test_errors_are_no_more_than_noise_that_reaches_half_way_to_the_next_component(
    name: str, gap: float, generator: torch.Generator
) -> None:
    # The noise's length is Rayleigh distributed: P(length > gap / 2) = exp(-gap^2 / 8 noise^2).
    for noise in (0.03, gap / 5):
        bound = math.exp(-(gap**2) / (8 * noise**2))
        noisy: Any = PLANAR_SETS[name]
        planar = replace(noisy, noise=noise)
        assert error_rate(planar, generator) <= bound + 5 * standard_error(bound)
    data = without_noise(PLANAR_SETS[name]).sample(N, generator)
    distances = PLANAR_SETS[name].distances(data.x).sort(1).values
    assert distances[:, 1].min() == pytest.approx(gap, abs=1e-4)


@pytest.mark.parametrize("name", PLANAR_SETS)
@pytest.mark.parametrize("n", [0, -1])
def test_no_points_are_refused(name: str, n: int, generator: torch.Generator) -> None:
    with pytest.raises(InputError, match=f"got n={n}; expected 1 point or more"):
        PLANAR_SETS[name].sample(n, generator)


@pytest.mark.parametrize("name", PLANAR_SETS)
@pytest.mark.parametrize("shape", [(2,), (5, 3), (5, 1, 2)])
def test_what_is_no_point_of_the_plane_is_refused(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"expected \[n, 2\]"):
        PLANAR_SETS[name].classify(torch.zeros(shape))


@pytest.mark.parametrize("name", PLANAR_SETS)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nan_and_infinity_have_no_class(name: str, value: float) -> None:
    with pytest.raises(InputError, match="got 1 of 2 points with NaN or infinity"):
        PLANAR_SETS[name].classify(torch.tensor([[0.0, 0.0], [value, value]]))


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        (Circles, {"noise": -1.0}, r"got Circles\(noise=-1.0\); expected .* >= 0: write noise=0.03"),
        (Circles, {"inner": 0.7}, "expected inner < outer"),
        (Moons, {"radius": 0.0}, "> 0: write radius=0.48"),
        (Gaussians, {"noise": math.nan}, "finite number >= 0"),
        (Checkerboard, {"half_width": math.inf}, "finite number > 0"),
    ],
)
def test_impossible_sizes_are_refused(kind: type[PlanarSet], options: dict[str, float], words: str) -> None:
    with pytest.raises(InputError, match=words):
        kind(**options)


# Circles


def test_circles_forget_the_outer_ring_and_part_at_the_midpoint_of_the_radii() -> None:
    circles = Circles(outer=0.7, inner=0.35)
    assert [circles.class_names[k] for k in circles.forget] == ["outer"]
    radii = torch.tensor([0.0, 0.35, 0.524, 0.526, 0.7, 50.0])
    for angle in (0.0, 1.0, 4.0):
        x = radii[:, None] * torch.tensor([math.cos(angle), math.sin(angle)])
        assert circles.classify(x).tolist() == [1, 1, 1, 0, 0, 0]
    assert torch.allclose(circles.distances(torch.tensor([[0.3, 0.4]])), torch.tensor([[0.2, 0.15]]))


def test_the_error_on_circles_is_that_of_rice_distributed_radii(generator: torch.Generator) -> None:
    noise, middle = 0.15, (0.7 + 0.35) / 2
    outer = rice.cdf(middle, 0.7 / noise, scale=noise)
    inner = rice.sf(middle, 0.35 / noise, scale=noise)
    expected = float(outer + inner) / 2
    found = error_rate(Circles(noise=noise), generator)
    assert found == pytest.approx(expected, abs=5 * standard_error(expected))


# Moons


def test_moons_forget_the_upper_arc_and_have_known_nearest_points() -> None:
    moons = Moons(radius=0.4)  # centres (-0.2, -0.1) and (0.2, 0.1)
    assert [moons.class_names[k] for k in moons.forget] == ["upper"]
    cases = [
        ((-0.2, 0.3), 0, 0.0),  # top of the upper arc
        ((0.2, -0.3), 1, 0.0),  # bottom of the lower arc
        ((0.2, -0.1), 0, 0.0),  # right end of the upper arc, inside the lower one
        ((-0.2, 0.1), 1, 0.0),  # left end of the lower arc, inside the upper one
        ((-0.6, -0.1), 0, 0.0),  # the outer ends
        ((0.6, 0.1), 1, 0.0),
        ((0.2, -0.15), 0, 0.05),  # below an end: the end itself is nearest, not the other half of its circle
        ((-0.3, -0.1), 1, math.hypot(0.5, 0.2) - 0.4),  # between the ends of the upper arc
        ((-0.6, -0.9), 0, 0.8),  # straight below the left end
        ((-0.2, 5.0), 0, 4.7),
        ((0.2, -5.0), 1, 4.7),
        ((0.5, 0.5), 1, math.hypot(0.1, 0.4)),  # above the lower arc's right end
    ]
    x = torch.tensor([point for point, _, _ in cases])
    assert moons.classify(x).tolist() == [label for _, label, _ in cases]
    expected = torch.tensor([distance for _, _, distance in cases])
    assert torch.allclose(moons.distances(x).min(1).values, expected, atol=1e-6)


def test_moons_are_one_shape_turned_by_half_a_turn(generator: torch.Generator) -> None:
    x = anywhere(1000, generator)
    assert torch.equal(Moons().classify(-x), 1 - Moons().classify(x))


# Gaussians


def test_gaussians_forget_the_even_numbers_anticlockwise_from_the_right() -> None:
    gaussians = Gaussians(radius=0.6)
    assert [gaussians.class_names[k] for k in gaussians.forget] == ["2", "4", "6"]
    half, height = 0.3, 0.6 * math.sqrt(3) / 2
    means = [(0.6, 0.0), (half, height), (-half, height), (-0.6, 0.0), (-half, -height), (half, -height)]
    assert torch.allclose(gaussians.means, torch.tensor(means), atol=1e-6)
    assert gaussians.classify(3 * torch.tensor(means)).tolist() == list(range(6))
    assert gaussians.classify(torch.tensor([[5.0, 2.8], [5.0, 3.0]])).tolist() == [0, 1]  # tan 30 = 0.577


def test_the_error_on_gaussians_is_between_one_and_two_neighbours(generator: torch.Generator) -> None:
    one = float(norm.sf(0.6 / 2 / 0.15))
    found = error_rate(Gaussians(radius=0.6, noise=0.15), generator)
    assert one - 5 * standard_error(one) < found < 2 * one + 5 * standard_error(2 * one)


def test_gaussians_have_their_means_and_deviation(generator: torch.Generator) -> None:
    gaussians = Gaussians()
    for label in range(6):
        x = gaussians.points(torch.full((N,), label), generator)
        assert (x.mean(0) - gaussians.means[label]).abs().max() < 5 * 0.06 / math.sqrt(N)
        assert (x.std(0) - 0.06).abs().max() < 5 * 0.06 / math.sqrt(2 * N)


# Checkerboard


def test_a_checkerboard_has_eight_cells_and_no_two_share_an_edge() -> None:
    board = Checkerboard()
    assert len(board.class_names) == len(board.centres) == 8
    steps = (board.centres[:, None] - board.centres).abs().sum(2) + torch.eye(8)
    assert steps.min() == pytest.approx(0.8)


def test_a_checkerboard_is_uniform_on_half_of_the_square(generator: torch.Generator) -> None:
    board = Checkerboard()
    everywhere = 0.8 * (2 * torch.rand(N, 2, generator=generator) - 1)
    dark = float((board.distances(everywhere).min(1).values == 0).float().mean())
    assert dark == pytest.approx(0.5, abs=5 * standard_error(0.5))
    x = board.sample(N, generator).x
    within_a_cell = (x + 0.8) % 0.4 / 0.4
    assert (within_a_cell.mean(0) - 0.5).abs().max() < 5 / math.sqrt(12 * N)
    assert (within_a_cell.var(0) - 1 / 12).abs().max() < 5 * math.sqrt(1 / 180 / N)


def test_the_requests_on_a_checkerboard_share_the_corner_only() -> None:
    board = Checkerboard()
    names = board.class_names
    assert [names[k] for k in board.top_row] == ["row 1, column 2", "row 1, column 4"]
    assert [names[k] for k in board.last_column] == ["row 1, column 4", "row 3, column 4"]
    assert set(board.forget) == set(board.top_row) | set(board.last_column)
    assert len(board.forget) == 3
    both = set(board.top_row) & set(board.last_column)
    assert [names[k] for k in both] == ["row 1, column 4"]
    corner, top, side = (
        names.index(f"row {row}, column {column}") for row, column in ((1, 4), (1, 2), (3, 4))
    )
    x = torch.tensor([[0.6, 0.6], [-0.2, 0.6], [0.6, -0.2]])
    assert board.classify(x).tolist() == [corner, top, side]


def test_light_cells_and_the_outside_belong_to_the_nearest_dark_cell() -> None:
    board = Checkerboard()
    cases = [
        ((-0.75, 0.45), "row 2, column 1", 0.05),  # in the light corner, near the cell below
        ((-0.45, 0.75), "row 1, column 2", 0.05),  # and near the cell to its right
        ((0.38, 0.6), "row 1, column 4", 0.02),
        ((1.1, 1.2), "row 1, column 4", 0.5),
        ((3.0, -0.2), "row 3, column 4", 2.2),
        ((-0.6, -2.0), "row 4, column 1", 1.2),
    ]
    x = torch.tensor([point for point, _, _ in cases])
    assert [board.class_names[k] for k in board.classify(x)] == [name for _, name, _ in cases]
    expected = torch.tensor([distance for _, _, distance in cases])
    assert torch.allclose(board.distances(x).min(1).values, expected, atol=1e-6)


# The judge


@pytest.mark.parametrize("name", PLANAR_SETS)
def test_a_geometry_judge_is_certain_of_the_nearest_component(name: str, generator: torch.Generator) -> None:
    planar = PLANAR_SETS[name]
    judge = GeometryJudge(planar)
    data = planar.sample(1000, generator)
    p = judge.probabilities(data.x)
    assert p.shape == (1000, judge.num_classes)
    assert p.dtype == torch.float32
    assert p.unique().tolist() == [0, 1]
    assert torch.equal(p.sum(1), torch.ones(1000))
    assert torch.equal(p.argmax(1), planar.classify(data.x))
    assert judge.class_names == planar.class_names
    assert torch.equal(judge.features(data.x), data.x)
    assert judge.accuracy(data.x, data.labels) > 0.99
    assert judge.accuracy(data.x, planar.classify(data.x)) == 1


def test_a_geometry_judge_says_how_many_classes_there_are_even_if_none_is_seen() -> None:
    assert GeometryJudge(Checkerboard()).probabilities(torch.tensor([[0.6, 0.6]])).shape == (1, 8)


def test_the_accuracy_on_no_points_is_refused() -> None:
    with pytest.raises(InputError, match="got no points"):
        GeometryJudge(Moons()).accuracy(torch.zeros(0, 2), torch.zeros(0, dtype=torch.long))
