"""Properties of the page's parts: ribbons, the trade-off plot, galleries, differences."""

from __future__ import annotations

import base64
import io
import itertools
import re
from dataclasses import replace
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from test_report import Page, make_run

from unflow.evidence.report.figures import draw_class_shares, draw_energies
from unflow.evidence.report.gallery import build_galleries
from unflow.evidence.report.pictures import build_album
from unflow.evidence.report.read import read_run
from unflow.evidence.report.ribbons import BARS, draw_ribbons
from unflow.evidence.report.scales import find_limit
from unflow.evidence.report.summary import write_sentences
from unflow.evidence.report.tables import build_difference_table, draw_transitions
from unflow.evidence.report.trade_off import draw_trade_off, make_spot, place_spots, spread
from unflow.evidence.row import AuditRow, row_from_dict


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("pieces") / "run")


# Ribbons


COUNTS = np.array([[40.0, 5, 0], [0, 30, 5], [10, 8, 2]])
NAMES = ["zero", "one", "<three>"]


def paths(svg: str) -> list[tuple[str, float, float, float, str]]:
    """Kind, start, end, thickness and title of every ribbon."""
    shape = r'd="M\d+ ([\d.]+)C\S+ \S+ \S+ \S+ \S+ ([\d.]+)v([\d.]+)C[^"]*"'
    found = re.findall(rf'<path class="(\w+)" {shape}><title>([^<]*)</title>', svg)
    return [(kind, float(start), float(end), float(thick), title) for kind, start, end, thick, title in found]


def test_every_move_is_a_ribbon_as_thick_as_its_share() -> None:
    found = paths(draw_ribbons(COUNTS, NAMES, [2], "words"))
    assert len(found) == np.count_nonzero(COUNTS)
    assert sum(thick for _, _, _, thick, _ in found) == pytest.approx(BARS, abs=0.1)
    by_title = {title: thick for _, _, _, thick, title in found}
    assert by_title["zero to one: 5"] == pytest.approx(5 * BARS / COUNTS.sum(), abs=0.01)


def test_ribbons_lie_side_by_side_within_the_bars() -> None:
    svg = draw_ribbons(COUNTS, NAMES, [2], "words")
    bars = [
        (float(y), float(h)) for y, h in re.findall(r'<rect [^>]*y="([\d.]+)" [^>]*height="([\d.]+)"', svg)
    ]
    for ends, side in ((1, bars[:3]), (2, bars[3:])):
        for k, (top, height) in enumerate(side):
            titles = [f"{NAMES[k]} to", f" to {NAMES[k]}:"]
            own = sorted(
                (path[ends], path[3])
                for path in paths(svg)
                if titles[ends - 1].replace("<", "&lt;").replace(">", "&gt;") in path[4]
            )
            at = top
            for start, thick in own:
                assert start == pytest.approx(at, abs=0.15)
                at += thick
            assert at == pytest.approx(top + height, abs=0.15)


def test_forgotten_ribbons_are_drawn_last_and_stand_out() -> None:
    kinds = [path[0] for path in paths(draw_ribbons(COUNTS, NAMES, [2], "words"))]
    assert kinds == sorted(kinds, key=["stays", "moves", "forgotten"].index)
    assert kinds.count("forgotten") == 4  # what left the class, what stayed in it, and what came into it


def test_names_and_description_are_escaped() -> None:
    svg = draw_ribbons(COUNTS, NAMES, [2], 'words "in" <it>')
    assert "<three>" not in svg
    assert 'aria-label="words &quot;in&quot; &lt;it&gt;"' in svg
    Page(svg)


def test_of_many_classes_the_forgotten_ones_and_where_they_went_are_drawn(run: Path) -> None:
    content = read_run(run)
    matrix = np.eye(40, dtype=int) * 10
    matrix[2, 30:] = np.arange(1, 11)
    row = replace(content.rows[3], transition=matrix.tolist())
    titles = [path[4] for path in paths(draw_transitions(content, row))]
    assert sum(" to 39: 10" in title for title in titles) == 2
    assert len({title.split(" to ")[0] for title in titles}) == 20


# Names beside a plot


@pytest.mark.parametrize("seed", range(5))
def test_spread_heights_keep_their_order_and_their_gap(seed: int) -> None:
    heights = np.sort(np.random.default_rng(seed).random(12)).tolist()
    found = spread(heights, 0.06)
    assert len(found) == 12
    assert all(b - a > 0.06 - 1e-9 for a, b in itertools.pairwise(found))
    assert np.mean(found) == pytest.approx(np.mean(heights))


def test_heights_that_are_apart_stay() -> None:
    assert spread([0.1, 0.3, 0.9], 0.1) == pytest.approx([0.1, 0.3, 0.9])
    assert spread([0.5, 0.5], 0.2) == pytest.approx([0.4, 0.6])
    assert spread([], 0.1) == []


def row(method: str, rate: float | None, distance: float | None, **more: object) -> AuditRow:
    return row_from_dict(
        {"family": "flow", "method": method, "n": 100, "forget_rate": rate, "fid_retain": distance, **more}
    )


def test_every_measured_row_is_in_the_plot_and_in_its_words() -> None:
    rows = [
        row("original", 0.1, 4.0),
        row("uot", 0.01, 5.0),
        row("mystery", None, 2.0),
        row("zero", 0.1, 0.0),
    ]
    found = draw_trade_off([(r.method, r, 0) for r in rows], "t")
    assert found is not None
    caption, svg = found
    assert "FD to real retained" in caption
    label = re.search(r'aria-label="([^"]*)"', svg)
    assert label is not None
    assert label[1] == "Forget rate against distance: original 10.00 % at 4.00; uot 1.00 % at 5.00"
    assert "mystery" not in svg


def test_without_real_data_the_target_is_the_measure_and_without_that_there_is_no_plot() -> None:
    rows = [row("original", 0.1, None, fid_target=3.0), row("uot", 0.01, None, fid_target=1.0)]
    found = draw_trade_off([(r.method, r, 0) for r in rows], "t")
    assert found is not None
    assert "FD to target" in found[0]
    assert draw_trade_off([("a", row("a", 0.1, 1.0), 0), ("b", row("b", 0.1, None), 0)], "t") is None


# Galleries


def test_a_gallery_shows_the_first_samples_of_each_class_the_forgotten_first(run: Path) -> None:
    content = read_run(run)
    found = dict(build_galleries(content, "flow_map"))
    shelves = found["original"]
    assert [shelf.forgotten for shelf in shelves] == [True, False, False]
    assert [shelf.count for shelf in shelves] == ["13 of 40", "14 of 40", "13 of 40"]
    samples = content.samples["flow_map-original"]
    assert shelves[1].src is not None
    png = base64.b64decode(shelves[1].src.removeprefix("data:image/png;base64,"))
    pixels = matplotlib.image.imread(io.BytesIO(png))
    first = samples.x[np.flatnonzero(samples.label == 0)[0], 0]
    assert pixels[:, :8] == pytest.approx((first + 1) / 2, abs=0.01)
    assert pixels[:, 8] == pytest.approx(0.5, abs=0.01)
    assert pixels.shape == (8, 10 * 9 - 1)


def test_a_class_that_a_row_does_not_draw_has_no_picture(run: Path) -> None:
    left = dict(build_galleries(read_run(run), "flow_map"))["UOT"][0]
    assert left.forgotten
    assert (left.src, left.count) == (None, "none")


@pytest.mark.parametrize("channels", [2, 4])
def test_the_channels_of_other_images_stand_side_by_side(run: Path, channels: int) -> None:
    content = read_run(run)
    samples = {
        key: replace(each, x=np.concatenate([each.x] * (channels - 1) + [-each.x], axis=1))
        for key, each in content.samples.items()
    }
    many = replace(content, samples=samples)
    src = dict(build_galleries(many, "flow_map"))["original"][1].src
    assert src is not None
    pixels = matplotlib.image.imread(io.BytesIO(base64.b64decode(src.removeprefix("data:image/png;base64,"))))
    x = samples["flow_map-original"].x[np.flatnonzero(samples["flow_map-original"].label == 0)[0]]
    assert pixels[:, : 8 * channels] == pytest.approx((np.concatenate(list(x), axis=1) + 1) / 2, abs=0.01)
    assert len(build_album(many, "flow_map").paired) == len(build_album(content, "flow_map").paired)


def test_points_have_no_gallery(run: Path) -> None:
    content = read_run(run)
    flat = {
        key: replace(samples, x=samples.x.reshape(len(samples.x), -1))
        for key, samples in content.samples.items()
    }
    assert build_galleries(replace(content, samples=flat), "flow_map") == []


# What is resolved


def test_noise_is_not_ranked(run: Path) -> None:
    record = {"family": "flow_map", "method": "uot", "reference": "retrained", "interval": [-0.012, 0.004]}
    shares = record | {"measure": "forget_rate", "difference": -0.004, "resolved": False}
    distance = record | {"measure": "fid_retain", "difference": 1.5, "interval": [1.0, 2.0], "resolved": True}
    content = read_run(run)
    content = replace(content, audit={**content.audit, "differences": [shares, distance]})
    table = build_difference_table(content, "flow_map")
    assert table is not None
    assert table.headings == ["points left - retrained", "FD to real retained - retrained"]
    by_name = {line.name: line.cells for line in table.lines}
    assert by_name["UOT"] == ["not resolved", "1.50 [1.00, 2.00]"]
    assert by_name["UOT (tilted pool)"] == ["–", "–"]
    assert build_difference_table(read_run(run), "flow_map") is None


def test_the_closest_row_is_said_with_those_that_may_be_as_close(run: Path) -> None:
    content = read_run(run)

    def explain(half: float) -> str:
        distances = {"uot": 2.0, "uot_tilted": 2.5}
        rows = [
            replace(
                r, measures={**r.measures, "fid_target": d}, intervals={"fid_target": [d - half, d + half]}
            )
            for r in content.rows
            if (d := distances.get(r.method))
        ]
        return write_sentences(replace(content, rows=rows), "flow_map")[-1]

    assert "Closest to the exact target is UOT, at" in explain(0.1)
    assert "may be as close" not in explain(0.1)
    assert explain(0.5).endswith("; UOT (tilted pool) may be as close.")


# Axes that a collapsed row must not set


@pytest.mark.parametrize(
    ("values", "limit"),
    [
        ([5.7, 2.4, 2.0, 1.7, 1.7, 1.4, 96.9], 5.7),
        ([5.7, 2.4, 2.0, 1.7, 1.7, 90.0, 200.0], 5.7),
        ([1.0, 2.0, 4.0, 8.0, 16.0], 16.0),
        ([1.0, 100.0], 100.0),
        ([1.0, 50.0, 60.0, 70.0], 70.0),
    ],
)
def test_an_axis_ends_before_the_few_values_that_are_apart(values: list[float], limit: float) -> None:
    assert find_limit([(value, False) for value in values]) == limit
    assert find_limit([(value, True) for value in values]) == max(values)


def test_a_collapsed_row_stands_at_the_end_of_the_axis_with_its_value() -> None:
    rows = [
        row("original", 0.11, 6.0),
        row("target", 0.01, 1.6),
        row("uot", 0.01, 2.0),
        row("uot_tilted", 0.012, 1.9),
        row("gradient_ascent", 0.0, 97.0),
        row("random_labels", 0.95, 5.0),
    ]
    spots = place_spots([spot for r in rows if (spot := make_spot(r.method, r, 0, "fid_retain"))])
    at = {spot.name: spot.at for spot in spots}
    assert max(y for _, y in at.values()) < 10
    assert max(x for x, _ in at.values()) < 25
    assert at["uot"] == (1.0, 2.0)
    assert {spot.name: (spot.marker, spot.words) for spot in spots if spot.marker != "o"} == {
        "gradient_ascent": ("^", "gradient_ascent 97.0 ↑"),
        "random_labels": (">", "random_labels 95 % →"),
    }
    found = draw_trade_off([(r.method, r, 0) for r in rows], "t")
    assert found is not None
    assert all(words in found[1] for words in ("97.0 ↑", "95 % →", "gradient_ascent 0.00 % at 97.00"))


def test_a_collapsed_rows_share_and_energies_are_written_at_the_ends_of_their_axes(run: Path) -> None:
    content = read_run(run)
    rows = [
        replace(r, class_counts=(11, 10, 10, 9)) for r in content.rows if r.class_counts or r.method == "uot"
    ]
    collapsed = replace(rows[-1], method="gradient_ascent", class_counts=(0, 40, 0, 0))
    energies = {key: replace(s, energy=np.linspace(0, 10, 40)) for key, s in content.samples.items()}
    energies["flow_map-gradient_ascent"] = replace(energies["flow_map-uot"], energy=np.linspace(0, 4000, 40))
    whole = replace(content, rows=[*rows, collapsed], samples=energies)
    assert "100 ↑" in draw_class_shares(whole, collapsed, "a")
    assert "↑" not in draw_class_shares(whole, rows[0], "b")
    assert "up to 4,000 →" in draw_energies(whole, collapsed, "c")
    assert "→" not in draw_energies(whole, rows[0], "d")


def test_long_names_are_whole() -> None:
    names = ["golden retriever", "Cardigan Welsh corgi"]
    svg = draw_ribbons(np.array([[3.0, 1.0], [0.0, 2.0]]), names, [1], "d")
    words = re.findall(r"<tspan[^>]*>([^<]*)</tspan>", svg)
    assert words == ["golden", "retriever", "Cardigan", "Welsh corgi"] * 2
    rows = [row("original", 0.1, 4.0), row("uot", 0.01, 5.0)]
    long = "a method whose name is longer than one line beside the plot"
    found = draw_trade_off([(long, r, 0) for r in rows], "t")
    assert found is not None
    assert "".join(re.findall(r">([^<>]+)</text>", found[1])).count("longer") == 2
