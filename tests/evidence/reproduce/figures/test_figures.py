"""A figure is a PNG of what came in, the same bytes each time; or one sentence, and no file."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from unflow.evidence.reproduce import figures
from unflow.evidence.reproduce.figures import Curve
from unflow.evidence.reproduce.figures.curves import find_frontier
from unflow.evidence.reproduce.figures.images import _break_line, _scale
from unflow.evidence.reproduce.figures.labels import label_points
from unflow.evidence.reproduce.figures.matrices import _describe_moves
from unflow.evidence.reproduce.figures.plane import _describe_cloud
from unflow.evidence.reproduce.figures.windows import choose_windows
from unflow.ground.errors import InputError

RNG = np.random.default_rng(0)
POINTS = RNG.uniform(-1, 1, (60, 2))
PATHS = RNG.normal(size=(5, 20, 2)).cumsum(0) / 3
ENERGY = np.add.outer(np.arange(8.0), np.arange(8.0))
BOX = (-2.0, 2.0, -2.0, 2.0)
LARGE = RNG.uniform(-1, 1, (16, 1, 300, 200))
GREY, COLOUR = RNG.uniform(-1, 1, (9, 1, 8, 8)), RNG.uniform(-1, 1, (9, 3, 8, 8))
STRENGTHS = [1.0, -1.0, 0.0]
NAN = float("nan")
CURVE = Curve(strengths=[2, 1, 4], x=[9.0, 7.0, 30.0], y=[96.0, 85.0, NAN], default=1)
GONE = Curve(strengths=[1, 2], x=[100.0, 300.0], y=[-40.0, 99.0], default=2)
MOVES = RNG.integers(0, 9, (4, 4)) + 90 * np.eye(4, dtype=int)


def trade_off(path, curves, references=None):
    return figures.draw_trade_off(path, curves, references or {}, xlabel="u-FID", ylabel="PUL, %")


def redistribution(path, matrix, forget=(3,), **how):
    return figures.draw_redistribution(path, {"a": matrix}, list("abcd"), forget, **how)


def curve(**other):
    options: dict[str, Any] = {"strengths": [1, 2], "x": [1, 2], "y": [90, 95], "default": 1}
    return {"a": Curve(**options | other)}


DRAWN = {
    "scatter": lambda path: figures.draw_scatter_panels(
        path,
        [("a", POINTS), ("b", POINTS * 2), ("$c", POINTS)],
        ncols=2,
        marks=POINTS[:2],
        forgotten=[POINTS[:, 0] > 0] * 3,
    ),
    "scatter, unjudged": lambda path: figures.draw_scatter_panels(path, [("a", POINTS)]),
    "trajectories": lambda path: figures.draw_trajectories(path, PATHS, PATHS / 2, ENERGY, BOX),
    "columns": lambda path: figures.draw_image_columns(path, [("all", COLOUR), ("one", COLOUR[:2])]),
    "rows": lambda path: figures.draw_image_rows(path, [("original", GREY), ("a long name " * 3, GREY[:4])]),
    "large images": lambda path: figures.draw_image_rows(path, [("a", LARGE)]),
    "sweep": lambda path: figures.draw_strength_sweep(
        path,
        STRENGTHS,
        {"share": [0.1, 0.5, 0.3], "distance": [1, NAN, 2]},
        {"share": [0.1, 0.6, 0.3]},
        [COLOUR] * 3,
    ),
    "sweep without images": lambda path: figures.draw_strength_sweep(
        path, STRENGTHS, {"share": [1, 2, 3]}, {}
    ),
    "bars": lambda path: figures.draw_bars(
        path, ["a", "b"], {"x": [1, NAN], "y": [-1, 2]}, ylabel="share", errors={"x": [0.1, NAN]}
    ),
    "trade-off": lambda path: trade_off(
        path, {"a": CURVE, "b": GONE, "c": CURVE}, {"original": (6, 0), "exact target": (5, 99)}
    ),
    "trade-off near the top": lambda path: trade_off(
        path, {"a": Curve(strengths=[1], x=[0], y=[100], default=1)}
    ),
    "redistribution": lambda path: figures.draw_redistribution(
        path,
        {"a": MOVES, "b": MOVES * [[1], [0], [1], [1]]},
        ["zero", "one", "two", "three"],
        [1, 3],
        target_shares=[5, 1, 5, 0],
    ),
    "redistribution without a target": lambda path: redistribution(path, MOVES),
}

REFUSED = {
    "no panels": lambda path: figures.draw_scatter_panels(path, []),
    "points in 3-D": lambda path: figures.draw_scatter_panels(path, [("a", np.zeros((4, 3)))]),
    "no points": lambda path: figures.draw_scatter_panels(path, [("a", np.zeros((0, 2)))]),
    "judgements of one panel": lambda path: figures.draw_scatter_panels(
        path, [("a", POINTS), ("b", POINTS)], forgotten=[POINTS[:, 0] > 0]
    ),
    "judgements of fewer points": lambda path: figures.draw_scatter_panels(
        path, [("a", POINTS)], forgotten=[np.zeros(3, bool)]
    ),
    "no panel in a row": lambda path: figures.draw_scatter_panels(path, [("a", POINTS)], ncols=0),
    "paths without time": lambda path: figures.draw_trajectories(path, POINTS, PATHS, ENERGY, BOX),
    "energy in 1-D": lambda path: figures.draw_trajectories(path, PATHS, PATHS, ENERGY[0], BOX),
    "infinite energy": lambda path: figures.draw_trajectories(path, PATHS, PATHS, ENERGY / 0.0, BOX),
    "an empty box": lambda path: figures.draw_trajectories(path, PATHS, PATHS, ENERGY, (1, 1, 0, 1)),
    "no columns": lambda path: figures.draw_image_columns(path, []),
    "two channels": lambda path: figures.draw_image_columns(path, [("a", COLOUR[:, :2])]),
    "images of two shapes": lambda path: figures.draw_image_rows(path, [("a", COLOUR), ("b", GREY)]),
    "one image without its batch": lambda path: figures.draw_image_rows(path, [("a", GREY[0])]),
    "no image in a strip": lambda path: figures.draw_image_rows(path, [("a", GREY)], n=0),
    "words for numbers": lambda path: figures.draw_image_rows(
        path,
        [("a", "picture")],  # type: ignore[list-item]  # refused
    ),
    "a curve too short": lambda path: figures.draw_strength_sweep(path, STRENGTHS, {"share": [1, 2]}, {}),
    "a target without its model": lambda path: figures.draw_strength_sweep(
        path, STRENGTHS, {"share": [1, 2, 3]}, {"tv": [1, 2, 3]}
    ),
    "no curves": lambda path: figures.draw_strength_sweep(path, STRENGTHS, {}, {}),
    "a strength of NaN": lambda path: figures.draw_strength_sweep(path, [NAN], {"share": [1]}, {}),
    "samples of one strength": lambda path: figures.draw_strength_sweep(
        path, STRENGTHS, {"share": [1, 2, 3]}, {}, [COLOUR]
    ),
    "a series too long": lambda path: figures.draw_bars(path, ["a"], {"x": [1, 2]}, ylabel="share"),
    "no series": lambda path: figures.draw_bars(path, ["a"], {}, ylabel="share"),
    "nine series": lambda path: figures.draw_bars(
        path, ["a"], {str(i): [1] for i in range(9)}, ylabel="share"
    ),
    "errors of nobody": lambda path: figures.draw_bars(
        path, ["a"], {"x": [1]}, ylabel="y", errors={"z": [1]}
    ),
    "no method": lambda path: trade_off(path, {}),
    "fifteen methods": lambda path: trade_off(path, {str(i): CURVE for i in range(15)}),
    "nine references": lambda path: trade_off(path, curve(), {str(i): (1, 1) for i in range(9)}),
    "a curve without its strength": lambda path: trade_off(path, curve(strengths=[1])),
    "a strength that is infinite": lambda path: trade_off(path, curve(strengths=[1, float("inf")])),
    "a default that was not run": lambda path: trade_off(path, curve(default=3)),
    "more than all": lambda path: trade_off(path, curve(y=[90, 101])),
    "an infinite price": lambda path: trade_off(path, curve(x=[1, float("inf")])),
    "a method never measured": lambda path: trade_off(path, curve(x=[NAN, 1], y=[1, NAN])),
    "a reference never measured": lambda path: trade_off(path, curve(), {"original": (NAN, 0)}),
    "a reference of one number": lambda path: trade_off(path, curve(), {"original": (1,)}),
    "no matrix": lambda path: figures.draw_redistribution(path, {}, ["a", "b"], [0]),
    "a matrix of other classes": lambda path: redistribution(path, MOVES[:3]),
    "a share of NaN": lambda path: redistribution(path, MOVES * NAN),
    "a negative count": lambda path: redistribution(path, -MOVES),
    "nothing to forget": lambda path: redistribution(path, MOVES, []),
    "an unknown class": lambda path: redistribution(path, MOVES, [4]),
    "shares of three classes": lambda path: redistribution(path, MOVES, target_shares=[1, 1, 1]),
    "too many classes": lambda path: figures.draw_redistribution(path, {"a": np.eye(31)}, ["a"] * 31, [0]),
    "a negative error": lambda path: figures.draw_bars(
        path, ["a"], {"x": [1]}, ylabel="y", errors={"x": [-1]}
    ),
}


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        image.load()
        return np.asarray(image)


@pytest.mark.parametrize("name", DRAWN)
def test_a_figure_is_a_png_with_something_on_white(tmp_path, name):
    path = tmp_path / "figures" / "a.png"
    assert DRAWN[name](path) == path
    found = pixels(path)
    assert found.dtype == np.uint8
    height, width, channels = found.shape
    assert channels == 3
    assert 60 < height < 2500
    assert 300 < width <= 1400
    edge = np.concatenate([found[0], found[-1], found[:, 0], found[:, -1]])
    assert (edge == 255).all()
    assert 0.003 < (found < 250).any(2).mean() < 0.95
    assert [file.name for file in path.parent.iterdir()] == ["a.png"]


@pytest.mark.parametrize("name", DRAWN)
def test_the_same_arrays_give_the_same_bytes_without_a_date(tmp_path, name):
    files = [DRAWN[name](tmp_path / f"{i}.png") for i in range(2)]
    first, second = (file.read_bytes() for file in files)
    assert first == second
    with Image.open(files[0]) as image:
        assert set(image.info) == {"dpi"}


@pytest.mark.filterwarnings("ignore:divide by zero|invalid value")
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_drawn_is_refused_in_a_sentence_and_nothing_is_written(tmp_path, name):
    with pytest.raises(InputError, match=r"got .*; expected ") as caught:
        REFUSED[name](tmp_path / "figures" / "a.png")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_refused_figure_leaves_the_old_file(tmp_path):
    path = figures.draw_bars(tmp_path / "a.png", ["a"], {"x": [1]}, ylabel="share")
    before = path.read_bytes()
    with pytest.raises(InputError):
        figures.draw_bars(path, ["a"], {"x": [1, 2]}, ylabel="share")
    assert path.read_bytes() == before


def colour(name: str) -> np.ndarray:
    return np.array([int(name[i : i + 2], 16) for i in (1, 3, 5)])


def area(found: np.ndarray, name: str) -> int:
    return int((np.abs(found.astype(int) - colour(name)).max(2) < 12).sum())


def test_the_warning_colour_is_on_forgotten_points_alone(tmp_path):
    points = np.repeat(POINTS, 20, 0)  # one on the other: opaque
    none, half = (np.zeros(len(points), bool), points[:, 0] > 0)
    clean, mixed = (
        pixels(figures.draw_scatter_panels(tmp_path / "a.png", [("a", points)], forgotten=[mask]))
        for mask in (none, half)
    )
    legend = area(clean, figures.FORGET)
    assert area(mixed, figures.FORGET) > 3 * legend > 0
    assert area(mixed, figures.KEEP) < area(clean, figures.KEEP)


def test_a_share_is_stated_only_where_there_is_a_judge():
    mask = np.arange(len(POINTS)) < 15
    assert _describe_cloud(POINTS, mask, True) == "25.0 % forgotten"
    assert _describe_cloud(POINTS, ~mask & mask, False) == "60 points"


def test_points_beyond_the_window_are_counted():
    points = np.array([[0.0, 0.0], [0.0, 1.2], [NAN, 0.0], [-1.1, 1.1]])
    assert _describe_cloud(points, np.zeros(4, bool), True) == "0.0 % forgotten, 2 outside"


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("zoom", [1, 2, 5])
def test_every_pixel_of_an_image_becomes_a_square_of_one_size(channels, zoom):
    images = np.linspace(-1, 1, 2 * channels * 12).reshape(2, channels, 4, 3)
    found = _scale(images, 4 * zoom + zoom // 2)
    assert found.shape == (2, 4 * zoom, 3 * zoom, 3)
    bytes_ = np.rint((images + 1) * 127.5)
    for dy in range(zoom):
        np.testing.assert_array_equal(
            np.moveaxis(found, 3, 1)[:, :channels, dy::zoom, zoom - 1 :: zoom], bytes_
        )


def test_large_images_are_averaged_and_nan_is_black():
    images = np.full((1, 1, 6, 6), 1.0)
    images[0, 0, ::2] = -1
    assert (_scale(images, 3) == 128).all()
    assert (_scale(np.full((1, 1, 2, 2), NAN), 2) == 0).all()


def test_images_are_drawn_as_they_are(tmp_path):
    images = np.full((1, 3, 4, 4), -1.0)
    images[0, :, :2, :2] = np.array([1.0, -0.2, 0.2])[:, None, None]
    found = pixels(figures.draw_image_rows(tmp_path / "a.png", [("", images)]))
    exact = np.rint((np.array([1.0, -0.2, 0.2]) + 1) * 127.5)
    assert (found == exact).all(2).sum() == 4 * 32**2
    assert (found == 0).all(2).sum() == 12 * 32**2


def test_strengths_are_drawn_from_the_smallest_to_the_largest(tmp_path):
    dark, grey, light = (np.full((4, 1, 8, 8), value) for value in (-1.0, -0.5, 0.3))
    given = figures.draw_strength_sweep(
        tmp_path / "a.png", [1, -1, 0], {"share": [3, 1, 2]}, {}, [light, dark, grey]
    )
    in_order = figures.draw_strength_sweep(
        tmp_path / "b.png", [-1, 0, 1], {"share": [1, 2, 3]}, {}, [dark, grey, light]
    )
    assert given.read_bytes() == in_order.read_bytes()


def test_curves_are_joined_from_the_smallest_strength_to_the_largest(tmp_path):
    given = curve(strengths=[4, 1, 2], x=[3, 1, 2], y=[99, 85, 95], default=2)
    in_order = curve(strengths=[1, 2, 4], x=[1, 2, 3], y=[85, 95, 99], default=2)
    first, second = (trade_off(tmp_path / f"{i}.png", each) for i, each in enumerate((given, in_order)))
    assert first.read_bytes() == second.read_bytes()


def test_the_frontier_is_what_no_other_point_beats():
    points = np.array([[1, 10], [2, 50], [2, 40], [3, 50], [4, 90], [1, 10], [0, NAN], [5, -20]])
    assert find_frontier(points).tolist() == [True, True, False, False, True, True, False, False]


@pytest.mark.parametrize("seed", range(5))
def test_every_point_is_on_the_frontier_or_beaten_by_one_that_is(seed):
    points = np.random.default_rng(seed).integers(0, 8, (30, 2)).astype(float)
    front = points[find_frontier(points)]
    assert (
        ((front[None, :, 0] <= points[:, None, 0]) & (front[None, :, 1] >= points[:, None, 1])).any(1).all()
    )
    assert (np.diff(front[np.argsort(front[:, 0])], axis=0) >= 0).all()


def test_a_second_panel_looks_closer_where_a_third_of_the_points_are_near_the_top():
    high, low = np.array([[1.0, 85], [2.0, 99]]), np.array([[1.0, -30], [2.0, 40], [40.0, 50]])
    (whole,) = choose_windows(low)
    assert whole.shows(low).all()
    assert whole.is_log
    (near,) = choose_windows(high)
    assert (near.title, near.is_log) == ("80 % and more", False)
    whole, near = choose_windows(np.concatenate([low, high]))
    assert whole.shows(high).all()
    assert near.shows(high).all()
    assert not near.shows(low).any()
    assert len(choose_windows(np.concatenate([low, low, high]))) == 1
    assert choose_windows(np.array([[1.0, 96], [2.0, 100]]))[0].title == "95 % and more"


def test_labels_lie_on_no_mark_and_on_no_other_label():
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure((5, 5), dpi=figures.DPI)
    renderer = FigureCanvasAgg(figure).get_renderer()
    axes = figure.add_axes((0.1, 0.1, 0.8, 0.8))
    axes.set(xlim=(0, 1), ylim=(0, 1))
    points = [(0.5 + 0.03 * i, 0.5) for i in range(6)] + [(0.99, 0.99)]
    marks = np.concatenate([axes.transData.transform(points) + shift for shift in (-5, 5)], 1)
    label_points(axes, [(f"name {i}", point) for i, point in enumerate(points)], marks)
    boxes = [text.get_window_extent(renderer) for text in axes.texts]
    assert len(boxes) == 7
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:i])
        assert not any(box.x0 < m[2] and m[0] < box.x1 and box.y0 < m[3] and m[1] < box.y1 for m in marks)
        assert axes.bbox.x0 <= box.x0
        assert box.x1 <= axes.bbox.x1


def test_rows_of_a_matrix_are_read_in_percent(tmp_path):
    first, second = (
        redistribution(tmp_path / f"{scale}.png", MOVES * scale, target_shares=MOVES[0] * scale)
        for scale in (1, 4)
    )
    assert first.read_bytes() == second.read_bytes()


def test_what_is_left_and_what_stays_is_counted_over_latents():
    moves = np.array([[6, 2, 2], [0, 30, 0], [10, 10, 40]])
    assert _describe_moves(moves, [0]) == "forgotten 60.0 % left, others 77.8 % stay"
    assert _describe_moves(moves * [[0], [1], [1]], [0]) == "forgotten – left, others 77.8 % stay"


def test_a_frame_is_drawn_around_each_forgotten_class(tmp_path):
    one, two = (
        area(pixels(redistribution(tmp_path / "a.png", MOVES, forget)), figures.FORGET)
        for forget in ([0], [0, 2])
    )
    assert two > 1.5 * one > 0


def test_drawing_leaves_the_settings_of_matplotlib_alone(tmp_path):
    import matplotlib

    before = dict(matplotlib.rcParams)
    figures.draw_bars(tmp_path / "a.png", ["a"], {"x": [1]}, ylabel="share")
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize(
    ("line", "broken"),
    [
        ("latent_transport_chain", "latent_transport_\nchain"),
        ("latent_transport_uot", "latent_transport_uot"),
        ("a line of many short words", "a line of many short\nwords"),
    ],
)
def test_long_labels_break_where_words_end(line: str, broken: str) -> None:
    assert _break_line(line, 20) == broken
