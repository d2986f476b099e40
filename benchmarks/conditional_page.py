"""Write the tables of docs/results/conditional.md, and the pictures of docs/conditional.md.

    python benchmarks/conditional_page.py runs/conditional
    python benchmarks/conditional_page.py

The first command copies the results of ``conditional_table.py`` to docs/results/conditional/table.json and
draws the pictures. The second one makes the page's tables again from the copy.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from conditional_measures import forgets_too_much, list_misses
from conditional_table import BASES, ROWS, cell_file
from conditional_tuning import GRIDS, choose_cell, excess, over_floor
from PIL import Image, ImageDraw
from safetensors.numpy import load_file
from strangers_tables import percent, spread

DOCS = Path(__file__).parent.parent / "docs"
RESULTS = DOCS / "results" / "conditional"
PAGE = DOCS / "results" / "conditional.md"
MARKS = "<!-- measured: {} -->", "<!-- end -->"
"""Lines of the page around a table."""
DRAWN = {
    "flow": ("original", "erfm_resample", "erfm_resample_prior", "energy_guidance"),
    "one-step": ("original", "latent_transport", "uot_tilted"),
}
"""Model -> rows of its picture, from the left."""
SCALE, GAP, LEFT, TOP = 3, 14, 30, 16
"""Pixels: of a sample's pixel, between blocks, beside and above all."""

Cell = dict[str, Any]
Seeds = dict[int, Cell]


def group(cells: Iterable[Cell], model: str) -> dict[str, Seeds]:
    """Return row -> seed -> cell of one model, in the order of ``ROWS``."""
    order = ["original", "target", *ROWS[model]]
    own = [cell for cell in cells if cell["model"] == model]
    return {
        row: {cell["seed"]: cell for cell in own if cell["method"] == row}
        for row in order
        if any(cell["method"] == row for cell in own)
    }


def name_row(row: str) -> str:
    """Return the name of a row in a table."""
    name, _, tuned = row.partition(", ")
    if row in ("original", "target"):
        return "original" if row == "original" else "exact target"
    return f"`{name}`" + (f", {tuned}" if tuned else "")


def count_seeds(names: Iterable[Sequence[str]], seeds: int) -> str:
    """Return names with the number of seeds in which each occurs, where that is not all of them."""
    counts = Counter(name for each in names for name in each)
    return ", ".join(name if n == seeds else f"{name} ({n} of {seeds})" for name, n in counts.items())


def own_change(cell: Cell, original: Cell) -> float:
    """Return the change of the own class at the label that loses most, in percentage points."""
    pairs = zip(cell["labels"], original["labels"], strict=True)
    return min(100 * (a["own"]["share"] - b["own"]["share"]) for a, b in pairs)


def format_rows(rows: dict[str, Seeds]) -> list[str]:
    """Return the table of one model: mean ± standard deviation over the seeds."""
    scales = list(next(iter(rows["original"].values()))["asked"])
    at = [f"3s at guidance {g}, %" for g in scales] if len(scales) > 1 else ["3s, asked for 3, %"]
    head = ["", *at, "3s at null, %", "own class, %", "worst label, points", "FD / floor", "worst label"]
    head += ["FD to real", "CPU s", "/ training", "misses", "under the target"]
    lines = [f"| {' | '.join(head)} |", "|---|" + "---:|" * (len(head) - 3) + "---|---|"]
    for row, cells in rows.items():
        done = list(cells.values())
        before = [rows["original"][seed] for seed in cells]
        exact = [rows["target"][seed] for seed in cells]
        over = [[each["distance"] / each["floor"] for each in cell["labels"]] for cell in done]
        words = [
            name_row(row),
            *(spread([100 * cell["asked"][g]["share"] for cell in done], 2) for g in scales),
            spread([100 * cell["null"]["share"] for cell in done], 2),
            spread([100 * cell["ra"] for cell in done], 2),
            ""
            if row == "original"
            else spread([own_change(*pair) for pair in zip(done, before, strict=True)], 1),
            spread([fmean(each) for each in over], 2),
            spread([max(each) for each in over], 2),
            spread([fmean(label["real"] for label in cell["labels"]) for cell in done], 1),
        ]
        if row == "target":
            words += [""] * 4
        else:
            words.append(spread([cell["cpu_seconds"] for cell in done], 0))
            words.append(
                "1" if row == "original" else spread([cell["share_of_training"] for cell in done], 2)
            )
            triples = list(zip(done, before, exact, strict=True))
            misses = [] if row == "original" else [list_misses(*each) for each in triples]
            words.append(count_seeds(misses, len(done)))
            words.append(count_seeds([forgets_too_much(cell, goal) for cell, _, goal in triples], len(done)))
        lines.append(f"| {' | '.join(words)} |")
    return lines


def format_seeds(rows: dict[str, Seeds]) -> list[str]:
    """Return the shares of the forgotten class of each seed, with their 95 % intervals."""
    scales = list(next(iter(rows["original"].values()))["asked"])
    at = [f"guidance {g}" for g in scales] if len(scales) > 1 else ["asked for 3"]
    lines = [f"| | seed | {' | '.join([*at, 'null'])} |", "|---|---:|" + "---:|" * (len(at) + 1)]
    for row, cells in rows.items():
        for seed, cell in cells.items():
            shares = [percent(each) for each in (*(cell["asked"][g] for g in scales), cell["null"])]
            lines.append(f"| {name_row(row)} | {seed} | {' | '.join(shares)} |")
    return lines


def format_labels(rows: dict[str, Seeds], value: Callable[[Cell], float], digits: int) -> list[str]:
    """Return one number of every retained label, the mean over the seeds."""
    labels = [each["label"] for each in next(iter(rows["original"].values()))["labels"]]
    lines = [f"| | {' | '.join(map(str, labels))} |", "|---|" + "---:|" * len(labels)]
    for row, cells in rows.items():
        means = [
            fmean(value(cell["labels"][number]) for cell in cells.values()) for number in range(len(labels))
        ]
        lines.append(f"| {name_row(row)} | {' | '.join(f'{mean:.{digits}f}' for mean in means)} |")
    return lines


def format_drawn(rows: dict[str, Seeds]) -> list[str]:
    """Return the classes that the judge finds where 3 is asked for, the mean over the seeds."""
    classes = len(next(iter(rows["original"].values()))["drawn"])
    lines = [f"| | {' | '.join(map(str, range(classes)))} |", "|---|" + "---:|" * classes]
    for row, cells in rows.items():
        means = [100 * fmean(cell["drawn"][k] for cell in cells.values()) for k in range(classes)]
        lines.append(f"| {name_row(row)} | {' | '.join(f'{mean:.0f}' for mean in means)} |")
    return lines


def format_tuning(cells: Sequence[Cell]) -> list[str]:
    """Return the grid of every baseline; the chosen setting in bold."""
    lines = [
        "| model | method | settings | 3s over the target, points | FD / floor | own class, % | CPU s |",
        "|---|---|---|---:|---:|---:|---:|",
    ]
    for model, name in GRIDS:
        (target,) = [each for each in cells if (each["model"], each["method"]) == (model, "target")]
        own = [each for each in cells if (each["model"], each["method"]) == (model, name)]
        chosen = choose_cell(own, target)
        for cell in own:
            words = ", ".join(f"{key} {value:g}" for key, value in cell["varied"].items())
            numbers = f"{100 * excess(cell, target):.1f} | {over_floor(cell):.2f} | {100 * cell['ra']:.1f}"
            words = f"**{words}**" if cell is chosen else words
            lines.append(f"| {model} | `{name}` | {words} | {numbers} | {cell['cpu_seconds']:.0f} |")
    return lines


def make_tables(results: dict[str, Any], tuning: dict[str, Any]) -> dict[str, list[str]]:
    """Return mark -> table of the page."""
    found = {}
    for model in BASES:
        rows = group(results["cells"], model)
        found |= {
            model: format_rows(rows),
            f"{model}, seeds": format_seeds(rows),
            f"{model}, own class": format_labels(rows, lambda each: 100 * each["own"]["share"], 1),
            f"{model}, distance": format_labels(rows, lambda each: each["distance"] / each["floor"], 2),
            f"{model}, real": format_labels(rows, lambda each: each["real"], 1),
            f"{model}, drawn": format_drawn(rows),
        }
    return found | {"tuning": format_tuning(tuning["cells"])}


def format_page(text: str, results: dict[str, Any], tuning: dict[str, Any]) -> str:
    """Return the page with every table between its marks."""
    for name, lines in make_tables(results, tuning).items():
        first, last = MARKS[0].format(name), MARKS[1]
        table = "\n".join([first, "", *lines, "", last])
        text, count = re.subn(
            rf"{re.escape(first)}\n.*?{re.escape(last)}", lambda _, table=table: table, text, flags=re.DOTALL
        )
        if count != 1:
            raise SystemExit(f"got {count} tables marked {first} in {PAGE.name}; expected one")
    return text


def read_results() -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the committed results, and those of the tuning."""
    table, tuning = (json.loads((RESULTS / name).read_text()) for name in ("table.json", "tuning.json"))
    return table, tuning


# Pictures


def draw_picture(out: Path, model: str, seed: int) -> Image.Image:
    """Return the first samples of each label: a row a label, a block a row of the table."""
    blocks = {
        row: load_file(cell_file(out, model, row, seed).with_suffix(".safetensors")) for row in DRAWN[model]
    }
    keys = [key for key in next(iter(blocks.values())) if "@" not in key]
    keys = [*sorted((key for key in keys if key != "null"), key=int), "null"]
    strips = {row: {key: np.concatenate(x[key][:, 0], 1) for key in keys} for row, x in blocks.items()}
    height, width = (SCALE * size for size in next(iter(strips.values()))["0"].shape)
    sheet = Image.new("L", (LEFT + len(blocks) * (width + GAP), TOP + len(keys) * (height + 2)), 255)
    draw = ImageDraw.Draw(sheet)
    for number, key in enumerate(keys):
        draw.text((2, TOP + number * (height + 2) + height // 2 - 6), key, fill=0)
    for column, (row, found) in enumerate(strips.items()):
        left = LEFT + column * (width + GAP)
        draw.text((left, 2), row, fill=0)
        for number, key in enumerate(keys):
            grey = Image.fromarray((255 * np.clip((1 - found[key]) / 2, 0, 1)).astype(np.uint8))
            large = grey.resize((width, height), Image.Resampling.NEAREST)
            sheet.paste(large, (left, TOP + number * (height + 2)))
    return sheet


def draw_pictures(out: Path, seed: int = 1) -> None:
    """Write one picture for each model."""
    for model in BASES:
        picture = draw_picture(out, model, seed).quantize(16)
        picture.save(DOCS / "images" / f"conditional-{model}.png", optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, nargs="?", help="OUT of benchmarks/conditional_table.py")
    out = parser.parse_args().out
    if out is not None:
        RESULTS.mkdir(parents=True, exist_ok=True)
        (RESULTS / "table.json").write_text((out / "table.json").read_text().rstrip() + "\n")
        draw_pictures(out)
    PAGE.write_text(format_page(PAGE.read_text(), *read_results()))


if __name__ == "__main__":
    main()
