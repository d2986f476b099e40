"""Write the table by which `unflow plan` ranks methods, the tables of docs/which-method.md, and those of each
generator (docs/results/strangers/table.md).

    python benchmarks/ranking.py runs/strangers/table.json
    python benchmarks/ranking.py

The first command copies the results of ``benchmarks/strangers.py`` to docs/results/strangers/table.json, from
which the second one makes all files again. A run that was refused (a method that does not fit the model) is
no run; a run that ended with another error misses every bound.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, geometric_mean
from typing import Any

from marked_tables import replace_tables
from strangers_tables import table_of

from unflow.unlearning.ranking import SECONDS, TABLE, Measured, name_kind

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "docs" / "results" / "strangers" / "table.json"
TABLES = RESULTS.with_suffix(".md")
RANKING = ROOT / "src" / "unflow" / "unlearning" / TABLE
PAGE = ROOT / "docs" / "which-method.md"
BOUNDS = ("forgotten", "distance", "sharpness", "kept", SECONDS)
INTRODUCTION = """# Generators of third parties

Each table is one generator of `benchmarks/third_party` and one request, by default settings: 4,000 samples, a
judge that no method reads, CPU seconds of one thread, the guide's training included. One seed with its 95 %
interval, or mean ± standard deviation of seeds 1 to 3. The floor is the distance between sets of exact target
samples. [Which method](../../which-method.md#what-it-reached-on-third-party-models) defines the misses and
reads the tables.

    python benchmarks/strangers.py --data MNIST --fashion FASHION --out runs/strangers --seeds 1 2 3
    python benchmarks/ranking.py runs/strangers/table.json
"""


def summarise(results: dict[str, Any]) -> dict[str, dict[str, dict[str, Any]]]:
    """Return kind of models -> method -> the fields of its ``Measured``, best first."""
    references = {(each["stranger"], each["request"]): each for each in results["references"]}
    families = {cell["stranger"]: cell["lineage"]["family"] for cell in results["cells"] if "lineage" in cell}
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for cell in results["cells"]:
        if cell.get("error") != "InputError" and cell["stranger"] in families:
            key = name_kind(families[cell["stranger"]]), cell["method"]
            groups.setdefault(key, []).append(cell)
    found: dict[str, dict[str, dict[str, Any]]] = {}
    rows = {key: average(cells, references) for key, cells in groups.items()}
    for kind, method in sorted(rows, key=lambda key: (key[0], Measured(**rows[key]).quality, key[1])):
        found.setdefault(kind, {})[method] = rows[kind, method]
    return found


def average(cells: Sequence[dict[str, Any]], references: dict[tuple[str, str], Any]) -> dict[str, Any]:
    """Return the means of one method's cells."""
    done = [cell for cell in cells if cell.get("finite") and math.isfinite(cell["distance"]["judge"])]
    about = [references[cell["stranger"], cell["request"]] for cell in done]
    pairs = list(zip(done, about, strict=True))
    failed = len(cells) - len(done)
    missed = {bound: failed + sum(bound in cell["fails"] for cell in done) for bound in BOUNDS}
    over = [cell["distance"]["judge"] / facts["floors"]["judge"][0] for cell, facts in pairs]
    left = [100 * (cell["left"]["share"] - facts["target"]["share"]) for cell, facts in pairs]
    return {
        "runs": len(cells),
        "failed": failed,
        "missed": {bound: count for bound, count in missed.items() if count},
        "distance": round(geometric_mean(over), 2) if done else None,
        "left": round(fmean(left), 2) if done else None,
        "sharpness": round(fmean(cell["sharpness"] for cell in done), 3) if done else None,
        "seconds": round(fmean(cell["cpu_seconds"] for cell in done), 1) if done else None,
        "original_inside": any(cell["original_recoverable"] for cell in done),
    }


def format_ranking(results: dict[str, Any]) -> str:
    """Return the table of the package, as the text of its file."""
    return json.dumps(summarise(results), indent=1) + "\n"


def format_page(text: str, results: dict[str, Any]) -> str:
    """Return the page with the table of each kind of models between its marks."""
    return replace_tables(
        text, {kind: format_rows(rows) for kind, rows in summarise(results).items()}, PAGE.name
    )


def format_tables(results: dict[str, Any]) -> str:
    """Return the page with a table, and a picture where there is one, for each generator and request."""
    parts = [INTRODUCTION]
    for reference in sorted(results["references"], key=lambda each: (each["stranger"], each["request"])):
        name = f"{reference['stranger']}-{reference['request']}"
        alt = f"{reference['stranger']}: samples at the same latents before and after"
        picture = f"\n![{alt}]({name}.png)\n" if (RESULTS.parent / f"{name}.png").exists() else ""
        parts.append(table_of(reference, results["cells"]) + picture)
    return "\n".join(parts)


def format_rows(rows: dict[str, dict[str, Any]]) -> list[str]:
    """Return the Markdown table of one kind of models."""
    head = "method | runs | " + " | ".join(f"misses {bound}" for bound in BOUNDS)
    head += " | FD / floor | left over target, points | sharpness | CPU s | original inside"
    lines = [f"| {head} |", "|---|" + "---:|" * (len(BOUNDS) + 5) + "---|"]
    for name, row in rows.items():
        runs = f"{row['runs']}" + (f" ({row['failed']} failed)" if row["failed"] else "")
        cells = [f"`{name}`", runs, *(str(row["missed"].get(bound, 0)) for bound in BOUNDS)]
        cells += [
            "–" if row[key] is None else str(row[key]) for key in ("distance", "left", "sharpness", "seconds")
        ]
        lines.append(f"| {' | '.join([*cells, 'yes' if row['original_inside'] else 'no'])} |")
    return lines


def read_results() -> dict[str, Any]:
    """Return the committed results."""
    results: dict[str, Any] = json.loads(RESULTS.read_text())
    return results


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", type=Path, nargs="?", help="OUT/table.json of benchmarks/strangers.py")
    table = parser.parse_args().table
    if table is not None:
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        RESULTS.write_text(table.read_text().rstrip() + "\n")
    results = read_results()
    RANKING.write_text(format_ranking(results))
    PAGE.write_text(format_page(PAGE.read_text(), results))
    TABLES.write_text(format_tables(results))


if __name__ == "__main__":
    main()
