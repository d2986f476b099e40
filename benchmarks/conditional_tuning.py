"""Settings of the baselines of ``conditional_table.py``, chosen at seed 0 by a rule without a judge.

    python benchmarks/conditional_tuning.py --out runs/conditional-tuning

Every setting of a grid unlearns the models of seed 0, which the table does not use. The guide asks, with
1,000 samples of each label, and exact samples of the target answer as well. The choice:

1. A setting forgets if the guide finds at most 2 points more 3s than among the exact target's samples, asked
   for 3 at every guidance and asked for null.
2. Of the settings that forget, the rule takes the one whose retained labels are nearest to their own exact
   targets: the least mean of the Fréchet distance over its floor, in the guide's features.
3. If no setting forgets, it takes the one with the fewest 3s at its worst question.

A finished cell lies in OUT/cells and is not run again. The chosen settings go to
docs/results/conditional/tuned.json, all cells to docs/results/conditional/tuning.json.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import torch
from conditional_measures import ask, measure
from conditional_table import BASES, Workshop, say

from unflow.ground.files import write_json
from unflow.methods import UNLEARNERS
from unflow.training.method import settings

RESULTS = Path(__file__).parent.parent / "docs" / "results" / "conditional"
SLACK, SAMPLES = 0.02, 1000
GRIDS: dict[tuple[str, str], dict[str, Sequence[Any]]] = {
    ("flow", "esd"): {"learning_rate": (1e-5, 1e-4), "retain": (0.0, 1.0), "steps": (100, 300)},
    ("flow", "concept_ablation"): {"learning_rate": (1e-5, 3e-5, 1e-4), "steps": (150, 500)},
    ("one-step", "concept_ablation"): {"learning_rate": (1e-5, 3e-5, 1e-4), "steps": (150, 500)},
    ("one-step", "sfd"): {
        "learning_rate": (3e-5, 1e-4),
        "forget": (0.01, 1.0),
        "steps": (1000,),
        "average": (0.999,),
    },
}
"""Model and method -> values of its settings; SFD's fake rate is 3 times its rate, as the authors' is."""


def list_settings(model: str, name: str) -> list[dict[str, Any]]:
    """Return all products of a grid."""
    grid = GRIDS[model, name]
    found = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    return [each | {"fake_rate": 3 * each["learning_rate"]} for each in found] if name == "sfd" else found


def excess(cell: dict[str, Any], target: dict[str, Any]) -> float:
    """Return how much more of the forgotten class a cell draws than the target, at its worst question."""
    asked = [cell["asked"][g]["share"] - target["asked"][g]["share"] for g in cell["asked"]]
    return max(*asked, cell["null"]["share"] - target["null"]["share"])


def over_floor(cell: dict[str, Any]) -> float:
    """Return the mean of distance over floor of the retained labels."""
    return fmean(each["distance"] / each["floor"] for each in cell["labels"])


def choose_cell(cells: Sequence[dict[str, Any]], target: dict[str, Any]) -> dict[str, Any]:
    """Return the cell that the rule takes."""
    forgetting = [cell for cell in cells if excess(cell, target) <= SLACK]
    if forgetting:
        return min(forgetting, key=over_floor)
    return min(cells, key=lambda cell: excess(cell, target))


def tune(shop: Workshop, model: str, out: Path) -> list[dict[str, Any]]:
    """Return the cells of one model, and of its exact target."""
    (out / "cells").mkdir(parents=True, exist_ok=True)
    reference, questions, target = shop.refer(model, shop.guide[0], SAMPLES)
    found = [{"model": model, "method": "target"} | target]
    for name in (name for each, name in GRIDS if each == model):
        for number, chosen in enumerate(list_settings(model, name)):
            file = out / "cells" / f"{model}.{name}.{number}.json"
            if not file.exists():
                method = type(UNLEARNERS[name])(**chosen)
                made, seconds = shop.unlearned(model, f"{name}-{number}", method)
                cell = measure(reference, ask(made, questions, SAMPLES, shop.seed))
                about = {"model": model, "method": name, "settings": settings(method), "varied": chosen}
                write_json(file, about | cell | {"cpu_seconds": seconds})
            cell = json.loads(file.read_text())
            over = f"{100 * excess(cell, target):+.1f} points, {over_floor(cell):.1f} floors"
            say(f"{model}, {name} {chosen}: {over}")
            found.append(cell)
    return found


def choose_settings(cells: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return model -> method -> the chosen settings, from the cells of all models."""
    found: dict[str, dict[str, Any]] = {}
    for model, name in GRIDS:
        (target,) = [each for each in cells if (each["model"], each["method"]) == (model, "target")]
        own = [each for each in cells if (each["model"], each["method"]) == (model, name)]
        found.setdefault(model, {})[name] = choose_cell(own, target)["settings"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/conditional-tuning"))
    out = parser.parse_args().out
    torch.set_num_threads(1)
    shop = Workshop(0, out)
    cells = [cell for model in BASES for cell in tune(shop, model, out)]
    RESULTS.mkdir(parents=True, exist_ok=True)
    write_json(RESULTS / "tuning.json", {"samples": SAMPLES, "cells": cells})
    write_json(RESULTS / "tuned.json", choose_settings(cells))


if __name__ == "__main__":
    main()
