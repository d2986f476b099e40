"""Print the results table of the README, and cut its picture, from the committed results of uot-mnist.

    python benchmarks/headline.py
    python benchmarks/headline.py --picture docs/images/forget-3.png

The table has means ± standard deviations over the digits 1, 3 and 8 and the seeds 1, 2 and 3: the nine
requests that have a retrained model. ``docs/results/uot-mnist/table.json`` contains their rows. The picture
contains some rows of ``docs/results/uot-mnist/rows-mnist-3.png``. ``unflow reproduce uot-mnist`` makes both
files.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from PIL import Image

from unflow.evidence.row import read_rows

RESULTS = Path(__file__).parent.parent / "docs" / "results" / "uot-mnist"

ROWS = {
    "original": "original",
    "target": "exact target (rejection sampling)",
    "retrained": "retrained without the digit",
    "uot": "`uot`, the paper's method",
    "uot_tilted": "`uot_tilted`",
    "latent_transport": "`latent_transport`",
    "reject": "`reject`, a filter around the original",
    "gradient_ascent": "`gradient_ascent`",
}
"""Row of table.json -> its name in the README."""

COLUMNS = {
    "forget_rate": ("forgotten left, %", 100, 2),
    "fid_target": ("FD to target", 1, 2),
    "fid_retain": ("FD to real retained", 1, 2),
    "seconds_ratio": ("/ retraining", 1, 3),
}
"""Column of table.json -> heading, factor, decimals."""

DRAWN = ("original", "retrained", "uot_tilted", "latent_transport", "gradient_ascent")
"""Rows of the picture."""

IN_FIGURE = (
    "original",
    "retrained",
    "uot",
    "uot_tilted",
    "latent_transport",
    "latent_transport_uot",
    "latent_transport_chain",
    "fine_tune",
    "gradient_ascent",
)
"""The first rows of rows-mnist-3.png, from the top."""

TOP, PITCH = 8, 64
"""Pixels above the first row of the figure, and from one row to the next."""


def format_table() -> str:
    """Return the README's table as Markdown."""
    rows = json.loads((RESULTS / "table.json").read_text())
    digits = {row["dataset"] for row in rows if row["method"] == "retrained"}
    over_forgetting = find_over_forgetting(rows)
    lines = [
        f"| | {' | '.join(heading for heading, _, _ in COLUMNS.values())} |",
        "|---" + "|---:" * len(COLUMNS) + "|",
    ]
    for method, name in ROWS.items():
        own = [row for row in rows if row["method"] == method and row["dataset"] in digits]
        cells = [format_cell([row[key] for row in own], *COLUMNS[key][1:]) for key in COLUMNS]
        over = sum((row["dataset"], row["seed"], method) in over_forgetting for row in own)
        mark = f" (over-forgets {over} of {len(own)})" if over else ""
        lines.append(f"| {' | '.join([name + mark, *cells])} |")
    return "\n".join(lines)


def find_over_forgetting(rows: Sequence[dict[str, Any]]) -> set[tuple[str, int, str]]:
    """Return dataset, seed and method of the rows that over-forget beside the retrained model."""
    runs = {(row["dataset"], row["seed"]) for row in rows if row["source"] == "measured"}
    return {
        (dataset, seed, row.method)
        for dataset, seed in runs
        for row in read_rows([r for r in rows if (r["dataset"], r.get("seed")) == (dataset, seed)])
        if row.over_forgets
    }


def format_cell(values: Sequence[float | None], factor: int, decimals: int) -> str:
    """Return mean ± standard deviation, or a dash if a value was not measured."""
    numbers = [factor * value for value in values if value is not None]
    if len(numbers) < len(values):
        return "–"
    return f"{fmean(numbers):.{decimals}f} ± {stdev(numbers):.{decimals}f}"


def cut_picture() -> Image.Image:
    """Return the rows ``DRAWN`` of the figure, one below the other."""
    with Image.open(RESULTS / "rows-mnist-3.png") as figure:
        strips = [figure.crop(_box(IN_FIGURE.index(name), figure.width)) for name in DRAWN]
    picture = Image.new("RGB", (figure.width, PITCH * len(strips)), "white")
    for number, strip in enumerate(strips):
        picture.paste(strip, (0, PITCH * number))
    return picture


def _box(row: int, width: int) -> tuple[int, int, int, int]:
    return 0, TOP + PITCH * row, width, TOP + PITCH * (row + 1)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--picture", type=Path, help="write the picture to this file instead of the table")
    asked = parser.parse_args(argv)
    if asked.picture is None:
        print(format_table())
    else:
        cut_picture().save(asked.picture, optimize=True)


if __name__ == "__main__":
    main()
