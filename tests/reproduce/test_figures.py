"""A figure is a PNG of what came in, the same bytes each time; or one sentence, and no file."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unflow.errors import InputError
from unflow.reproduce import figures
from unflow.reproduce.figures.images import _fit
from unflow.reproduce.figures.plane import _cloud_words

RNG = np.random.default_rng(0)
POINTS = RNG.uniform(-1, 1, (60, 2))
PATHS = RNG.normal(size=(5, 20, 2)).cumsum(0) / 3
ENERGY = np.add.outer(np.arange(8.0), np.arange(8.0))
BOX = (-2.0, 2.0, -2.0, 2.0)
LARGE = RNG.uniform(-1, 1, (16, 1, 300, 200))
GREY, COLOUR = RNG.uniform(-1, 1, (9, 1, 8, 8)), RNG.uniform(-1, 1, (9, 3, 8, 8))
STRENGTHS = [1.0, -1.0, 0.0]
NAN = float("nan")

DRAWN = {
    "scatter": lambda path: figures.scatter_panels(
        path, [("a", POINTS), ("b", POINTS * 2), ("$c", POINTS)], ncols=2, marks=POINTS[:2],
        forgotten=[POINTS[:, 0] > 0] * 3,
    ),
    "scatter, unjudged": lambda path: figures.scatter_panels(path, [("a", POINTS)]),
    "trajectories": lambda path: figures.trajectories(path, PATHS, PATHS / 2, ENERGY, BOX),
    "columns": lambda path: figures.image_columns(path, [("all", COLOUR), ("one", COLOUR[:2])]),
    "rows": lambda path: figures.image_rows(path, [("original", GREY), ("a long name " * 3, GREY[:4])]),
    "large images": lambda path: figures.image_rows(path, [("a", LARGE)]),
    "sweep": lambda path: figures.strength_sweep(
        path, STRENGTHS, {"share": [0.1, 0.5, 0.3], "distance": [1, NAN, 2]}, {"share": [0.1, 0.6, 0.3]},
        [COLOUR] * 3,
    ),
    "sweep without images": lambda path: figures.strength_sweep(path, STRENGTHS, {"share": [1, 2, 3]}, {}),
    "bars": lambda path: figures.bars(
        path, ["a", "b"], {"x": [1, NAN], "y": [-1, 2]}, ylabel="share", errors={"x": [0.1, NAN]}
    ),
}  # fmt: skip

REFUSED = {
    "no panels": lambda path: figures.scatter_panels(path, []),
    "points in 3-D": lambda path: figures.scatter_panels(path, [("a", np.zeros((4, 3)))]),
    "no points": lambda path: figures.scatter_panels(path, [("a", np.zeros((0, 2)))]),
    "judgements of one panel": lambda path: figures.scatter_panels(
        path, [("a", POINTS), ("b", POINTS)], forgotten=[POINTS[:, 0] > 0]
    ),
    "judgements of fewer points": lambda path: figures.scatter_panels(
        path, [("a", POINTS)], forgotten=[np.zeros(3, bool)]
    ),
    "no panel in a row": lambda path: figures.scatter_panels(path, [("a", POINTS)], ncols=0),
    "paths without time": lambda path: figures.trajectories(path, POINTS, PATHS, ENERGY, BOX),
    "energy in 1-D": lambda path: figures.trajectories(path, PATHS, PATHS, ENERGY[0], BOX),
    "infinite energy": lambda path: figures.trajectories(path, PATHS, PATHS, ENERGY / 0.0, BOX),
    "an empty box": lambda path: figures.trajectories(path, PATHS, PATHS, ENERGY, (1, 1, 0, 1)),
    "no columns": lambda path: figures.image_columns(path, []),
    "two channels": lambda path: figures.image_columns(path, [("a", COLOUR[:, :2])]),
    "images of two shapes": lambda path: figures.image_rows(path, [("a", COLOUR), ("b", GREY)]),
    "one image without its batch": lambda path: figures.image_rows(path, [("a", GREY[0])]),
    "no image in a strip": lambda path: figures.image_rows(path, [("a", GREY)], n=0),
    "words for numbers": lambda path: figures.image_rows(path, [("a", "picture")]),
    "a curve too short": lambda path: figures.strength_sweep(path, STRENGTHS, {"share": [1, 2]}, {}),
    "a target without its model": lambda path: figures.strength_sweep(
        path, STRENGTHS, {"share": [1, 2, 3]}, {"tv": [1, 2, 3]}
    ),
    "no curves": lambda path: figures.strength_sweep(path, STRENGTHS, {}, {}),
    "a strength of NaN": lambda path: figures.strength_sweep(path, [NAN], {"share": [1]}, {}),
    "samples of one strength": lambda path: figures.strength_sweep(
        path, STRENGTHS, {"share": [1, 2, 3]}, {}, [COLOUR]
    ),
    "a series too long": lambda path: figures.bars(path, ["a"], {"x": [1, 2]}, ylabel="share"),
    "no series": lambda path: figures.bars(path, ["a"], {}, ylabel="share"),
    "nine series": lambda path: figures.bars(path, ["a"], {str(i): [1] for i in range(9)}, ylabel="share"),
    "errors of nobody": lambda path: figures.bars(path, ["a"], {"x": [1]}, ylabel="y", errors={"z": [1]}),
    "a negative error": lambda path: figures.bars(path, ["a"], {"x": [1]}, ylabel="y", errors={"x": [-1]}),
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
    path = figures.bars(tmp_path / "a.png", ["a"], {"x": [1]}, ylabel="share")
    before = path.read_bytes()
    with pytest.raises(InputError):
        figures.bars(path, ["a"], {"x": [1, 2]}, ylabel="share")
    assert path.read_bytes() == before


def colour(name: str) -> np.ndarray:
    return np.array([int(name[i : i + 2], 16) for i in (1, 3, 5)])


def area(found: np.ndarray, name: str) -> int:
    return int((np.abs(found.astype(int) - colour(name)).max(2) < 12).sum())


def test_the_warning_colour_is_on_forgotten_points_alone(tmp_path):
    points = np.repeat(POINTS, 20, 0)  # one on the other: opaque
    none, half = (np.zeros(len(points), bool), points[:, 0] > 0)
    clean, mixed = (
        pixels(figures.scatter_panels(tmp_path / "a.png", [("a", points)], forgotten=[mask]))
        for mask in (none, half)
    )
    legend = area(clean, figures.FORGET)
    assert area(mixed, figures.FORGET) > 3 * legend > 0
    assert area(mixed, figures.KEEP) < area(clean, figures.KEEP)


def test_a_share_is_stated_only_where_there_is_a_judge():
    mask = np.arange(len(POINTS)) < 15
    assert _cloud_words(POINTS, mask, True) == "25.0 % forgotten"
    assert _cloud_words(POINTS, ~mask & mask, False) == "60 points"


def test_points_beyond_the_window_are_counted():
    points = np.array([[0.0, 0.0], [0.0, 1.2], [NAN, 0.0], [-1.1, 1.1]])
    assert _cloud_words(points, np.zeros(4, bool), True) == "0.0 % forgotten, 2 outside"


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("zoom", [1, 2, 5])
def test_every_pixel_of_an_image_becomes_a_square_of_one_size(channels, zoom):
    images = np.linspace(-1, 1, 2 * channels * 12).reshape(2, channels, 4, 3)
    found = _fit(images, 4 * zoom + zoom // 2)
    assert found.shape == (2, 4 * zoom, 3 * zoom, 3)
    bytes_ = np.rint((images + 1) * 127.5)
    for dy in range(zoom):
        np.testing.assert_array_equal(
            np.moveaxis(found, 3, 1)[:, :channels, dy::zoom, zoom - 1 :: zoom], bytes_
        )


def test_large_images_are_averaged_and_nan_is_black():
    images = np.full((1, 1, 6, 6), 1.0)
    images[0, 0, ::2] = -1
    assert (_fit(images, 3) == 128).all()
    assert (_fit(np.full((1, 1, 2, 2), NAN), 2) == 0).all()


def test_images_are_drawn_as_they_are(tmp_path):
    images = np.full((1, 3, 4, 4), -1.0)
    images[0, :, :2, :2] = np.array([1.0, -0.2, 0.2])[:, None, None]
    found = pixels(figures.image_rows(tmp_path / "a.png", [("", images)]))
    exact = np.rint((np.array([1.0, -0.2, 0.2]) + 1) * 127.5)
    assert (found == exact).all(2).sum() == 4 * 32**2
    assert (found == 0).all(2).sum() == 12 * 32**2


def test_strengths_are_drawn_from_the_smallest_to_the_largest(tmp_path):
    dark, grey, light = (np.full((4, 1, 8, 8), value) for value in (-1.0, -0.5, 0.3))
    given = figures.strength_sweep(
        tmp_path / "a.png", [1, -1, 0], {"share": [3, 1, 2]}, {}, [light, dark, grey]
    )
    in_order = figures.strength_sweep(
        tmp_path / "b.png", [-1, 0, 1], {"share": [1, 2, 3]}, {}, [dark, grey, light]
    )
    assert given.read_bytes() == in_order.read_bytes()


def test_drawing_leaves_the_settings_of_matplotlib_alone(tmp_path):
    import matplotlib

    before = dict(matplotlib.rcParams)
    figures.bars(tmp_path / "a.png", ["a"], {"x": [1]}, ylabel="share")
    assert dict(matplotlib.rcParams) == before
