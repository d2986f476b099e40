"""Write the tables of docs/results/demo.md from the committed docs/results/demo/table.json.

unflow demo --seeds 3 --seed 1 --out demo-seeds
cp demo-seeds/table.json docs/results/demo/
python benchmarks/demo_page.py
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from marked_tables import replace_tables

from unflow.evidence.measures import KNOWN
from unflow.methods import UNLEARNERS

RESULTS = Path(__file__).parents[1] / "docs" / "results"
PAGE = RESULTS / "demo.md"

FAMILIES = {"flow": "flow, 16 evaluations", "flow_map": "one-step flow map"}
NAMES = {
    "original": "original",
    "target": "exact target (rejection)",
    "retrained": "retrained without the digit",
    "floor": "floor",
    "energy_guidance": "**`energy_guidance`**, the default of flows",
    "residual_matching": "**`residual_matching`**, the default of one-step models of images",
    "erfm": "`erfm`, ContinualFlow's",
    "uot": "`uot`, UOT-Unlearn's pool",
}
"""Row -> its name in the table; every other row has the name of its method."""
COLUMNS = (
    "forget_rate",
    "pul",
    "fid_target",
    "fid_retain",
    "c2st_target",
    "coverage",
    "sharpness",
    "seconds",
)
Record = dict[str, Any]


def read_records() -> list[Record]:
    """Return the means over seeds that ``unflow demo --seeds 3`` wrote."""
    records: list[Record] = json.loads((RESULTS / "demo" / "table.json").read_text())
    return records


def format_table(records: Sequence[Record]) -> list[str]:
    """Return the lines of the table, the rows of each family under its name."""
    measures = [KNOWN[key] for key in COLUMNS]
    lines = [
        f"| | {' | '.join(measure.title for measure in measures)} |",
        "|---" + "|---:" * len(measures) + "|",
    ]
    for family, title in FAMILIES.items():
        lines.append(f"| *{title}* |" + " |" * len(measures))
        for record in records:
            if record["family"] == family:
                cells = [m.write(record.get(m.key), record.get(f"{m.key}_sd")) for m in measures]
                lines.append(f"| {' | '.join([NAMES.get(record['method'], _code(record)), *cells])} |")
    return lines


def format_ratios(records: Sequence[Record]) -> list[str]:
    """Return each method's seconds over those of retraining the flow, the whole and stopped early."""
    (retrained,) = (r for r in records if (r["family"], r["method"]) == ("flow", "retrained"))
    lines = [
        "Seconds over those of retraining the flow, and of retraining that stops within 5 % of its best",
        "held-out loss:",
        "",
    ]
    for record in records:
        if record["family"] == "flow" and record["method"] in UNLEARNERS and record is not retrained:
            whole, early = (record["seconds"] / retrained[key] for key in ("seconds", "retrain_seconds_5pct"))
            lines.append(f"* {_code(record)}: {whole:.2f} and {early:.2f}")
    return lines


def _code(record: Record) -> str:
    return f"`{record['method']}`"


def render(text: str) -> str:
    """Return the page with its tables made from table.json."""
    records = read_records()
    tables = {"demo": format_table(records), "demo-time": format_ratios(records)}
    return replace_tables(text, tables, PAGE.name)


def main() -> None:
    """Write the page."""
    PAGE.write_text(render(PAGE.read_text()))


if __name__ == "__main__":
    main()
