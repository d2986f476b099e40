"""Write the tables of docs/results/conditional.md, and the pictures of docs/conditional.md.

    python benchmarks/conditional_page.py runs/conditional
    python benchmarks/conditional_page.py

The first command copies the results of ``conditional_table.py`` to docs/results/conditional/table.json and
draws the pictures. The second one makes the page's tables again from the copy.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from conditional_digits import FORGET
from conditional_measures import Question, ask, forgets_too_much, list_misses
from conditional_table import BASES, ROWS, Workshop, cell_file
from conditional_tuning import GRIDS, choose_cell, excess, over_floor
from marked_tables import replace_tables
from PIL import Image, ImageDraw
from safetensors.numpy import load_file
from strangers_tables import percent, spread

from unflow.methods import UNLEARNERS

DOCS = Path(__file__).parent.parent / "docs"
RESULTS = DOCS / "results" / "conditional"
PAGE = DOCS / "results" / "conditional.md"
DRAWN = {
    "flow": ("original", "retrained_mixture", "energy_guidance", "erfm_resample"),
    "one-step": ("original", "latent_transport", "uot_tilted"),
}
"""Model -> rows of its picture, from the left."""
REPLACEMENTS = ("retained", "nearest", "label:8", "null", "noise")
"""Rows of the picture of replacements."""
COLUMNS, SCALE, GAP, LEFT, TOP = 6, 4, 10, 56, 16
"""Samples of a label; pixels: of a sample's pixel, between blocks, beside and above all."""

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
    """Return the table of one model: mean ± standard deviation over the seeds of each row."""
    scales = list(next(iter(rows["original"].values()))["asked"])
    at = [f"3s at guidance {g}, %" for g in scales] if len(scales) > 1 else ["3s, asked for 3, %"]
    head = [
        "",
        "seeds",
        *at,
        "3s at null, %",
        "own class, %",
        "worst label, points",
        "FD / floor",
        "worst label",
    ]
    head += ["label 3: FD / floor", "FD to real", "CPU s", "/ training", "misses", "under the target"]
    lines = [f"| {' | '.join(head)} |", "|---|---|" + "---:|" * (len(head) - 4) + "---|---|"]
    for row, cells in rows.items():
        done = list(cells.values())
        before = [rows["original"][seed] for seed in cells]
        exact = [rows["target"][seed] for seed in cells]
        over = [[each["distance"] / each["floor"] for each in cell["labels"]] for cell in done]
        words = [
            name_row(row),
            ", ".join(map(str, cells)),
            *(spread([100 * cell["asked"][g]["share"] for cell in done], 2) for g in scales),
            spread([100 * cell["null"]["share"] for cell in done], 2),
            spread([100 * cell["ra"] for cell in done], 2),
            ""
            if row == "original"
            else spread([own_change(*pair) for pair in zip(done, before, strict=True)], 1),
            spread([fmean(each) for each in over], 2),
            spread([max(each) for each in over], 2),
            spread([cell["others"]["3"]["distance"] / cell["others"]["3"]["floor"] for cell in done], 1),
            spread([fmean(label["real"] for label in cell["labels"]) for cell in done], 1),
        ]
        triples = list(zip(done, before, exact, strict=True))
        misses = [] if row == "original" else [list_misses(*each) for each in triples]
        under = [forgets_too_much(cell, goal) for cell, _, goal in triples]
        words += [
            "" if row == "target" else spread([cell["cpu_seconds"] for cell in done], 0),
            "" if row == "target" else spread([cell["share_of_training"] for cell in done], 2),
            count_seeds(misses, len(done)),
            count_seeds(under, len(done)),
        ]
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
    found: dict[str, list[str]] = {}
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
    return replace_tables(text, make_tables(results, tuning), PAGE.name)


def read_results() -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the committed results, and those of the tuning."""
    table, tuning = (json.loads((RESULTS / name).read_text()) for name in ("table.json", "tuning.json"))
    return table, tuning


# Pictures


def draw_strip(x: np.ndarray) -> Image.Image:
    """Return samples [n, 1, height, width] in [-1, 1] beside each other, ink in black."""
    padded = np.pad(x[:, 0], ((0, 0), (0, 0), (0, 1)), constant_values=-1)
    strip = np.concatenate(list(padded), 1)
    grey = Image.fromarray((255 * np.clip((1 - strip) / 2, 0, 1)).astype(np.uint8))
    return grey.resize((SCALE * grey.width, SCALE * grey.height), Image.Resampling.NEAREST)


def draw_grid(blocks: dict[str, dict[str, np.ndarray]]) -> Image.Image:
    """Return a sheet of strips: a column for each block, a named row for each of its keys."""
    strips = {name: {key: draw_strip(x) for key, x in rows.items()} for name, rows in blocks.items()}
    first = next(iter(strips.values()))
    width, height = next(iter(first.values())).size
    height += SCALE
    sheet = Image.new("L", (LEFT + len(strips) * (width + GAP), TOP + len(first) * height), 255)
    draw = ImageDraw.Draw(sheet)
    for number, key in enumerate(first):
        draw.text((2, TOP + number * height + height // 2 - 8), key, fill=0)
    for column, (name, rows) in enumerate(strips.items()):
        left = LEFT + column * (width + GAP)
        draw.text((left, 2), name, fill=0)
        for number, strip in enumerate(rows.values()):
            sheet.paste(strip, (left, TOP + number * height))
    return sheet.quantize(16)


def draw_labels(out: Path, model: str, seed: int) -> Image.Image:
    """Return the first samples of each label: a row for each label, a block for each row of the table."""
    blocks = {}
    for row in DRAWN[model]:
        found = load_file(cell_file(out, model, row, seed).with_suffix(".safetensors"))
        keys = [*sorted((key for key in found if key.isdigit()), key=int), "null"]
        blocks[row] = {key: found[key][:COLUMNS] for key in keys}
    return draw_grid(blocks)


def draw_replacements(out: Path, seed: int) -> Image.Image:
    """Return samples asked for 3: a row for each replacement, a block for each guidance."""
    shop, method = Workshop(seed, out), UNLEARNERS["erfm_resample"]
    blocks: dict[str, dict[str, np.ndarray]] = {f"guidance {g:g}": {} for g in (1, 4)}
    for name in REPLACEMENTS:
        row = "erfm_resample" if name == "retained" else f"erfm_resample-{name.replace(':', '-')}"
        model, _ = shop.unlearned("flow", row, method, name)
        for block, g in zip(blocks.values(), (1.0, 4.0), strict=True):
            question = Question(FORGET, g)
            block[name] = ask(model, [question], 2 * COLUMNS, seed)[question.key].numpy()
    return draw_grid(blocks)


def draw_pictures(out: Path, seed: int = 1) -> None:
    """Write a picture for each model, and one of the replacements."""
    pictures = {model: draw_labels(out, model, seed) for model in BASES}
    pictures["replacements"] = draw_replacements(out, seed)
    for name, picture in pictures.items():
        picture.save(DOCS / "images" / f"conditional-{name}.png", optimize=True)


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
