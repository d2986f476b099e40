"""Settings of each baseline for each stranger, chosen from a grid by a rule without a judge.

    python benchmarks/tuning.py --data MNIST --fashion FASHION --out runs/tuning
    python benchmarks/tuning.py --data MNIST --out runs/tuning --strangers vae --budgets quarter
    python benchmarks/strangers.py --data MNIST --tuned runs/tuning/tuned.json --methods relabel

The grid of a method has all products of its rates, its own knobs (``KNOBS``) and its steps:

* A rate is a share of the size of the stranger's weights (``unflow.training.rates.scale_rate``).
* The steps are shares (``RUNGS``) of the steps that a budget pays for. A budget is the CPU seconds of the
  default method on the same stranger ("default"), or a quarter of those of the stranger's training
  ("quarter").
* At the first rung all pairs of rate and knobs run; the best third of them goes on to the next rung
  (successive halving, arXiv 1502.07943). ``--full`` runs all of them at every rung.
* One more cell has the method's default settings.

The choice, for one request and seed 0:

1. A setting forgets if the guide finds at most ``SLACK`` more of the forgotten classes among its samples than
   among exact target samples. The default methods must keep the same bound.
2. Of the settings that forget and are nearer to the target than the original is, the rule takes the one with
   the smallest Fréchet distance to exact target samples, in the guide's features.
3. If there is none, it takes the setting with the smallest distance of all.

The owner of a model can follow this rule: the target's energy reads the guide, and rejection sampling from
the original gives exact target samples. The judge of ``strangers.py`` has no part in it. Without step 1, a
baseline that changes nothing can win against all that forget; without the condition in step 2, a destroyed
model can.

A finished cell lies in OUT/cells and is not run again. OUT/grid.json has all cells, OUT/grid.md the tables
with the choices, and OUT/tuned.json the chosen settings: stranger -> method -> settings.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import torch
from strangers import (
    MARGIN,
    Request,
    Stranger,
    add_places,
    load_stranger,
    make_request,
    parse_places,
    say,
    select_samples,
)
from third_party import training
from torch import Tensor

import unflow as uf
from unflow.foreign import load_energy
from unflow.methods import UNLEARNERS
from unflow.models.classifier import Classifier
from unflow.training.loop import fit
from unflow.training.method import Method, trainable_copy
from unflow.training.rates import scale_rate
from unflow.unlearning.defaults import default_method
from unflow.unlearning.problems import RealSamples, make_problem

RATES = (0.002, 0.01, 0.05)
"""Learning rates, in shares of the size of the weights."""
RUNGS = (1 / 16, 1 / 4, 1.0)
"""Steps, in shares of those that a budget pays for."""
KNOBS: dict[str, dict[str, tuple[float, ...]]] = {
    "gradient_ascent": {},
    "fine_tune": {},
    "neg_grad_plus": {"clip": (0.1, 0.5, 2.0)},
    "relabel": {"alpha": (1.0, 3.0)},
    "saliency": {"share": (0.1, 0.5), "alpha": (1.0, 3.0)},
    "selective_amnesia": {"lam": (1.0, 100.0)},
    "weight_extrapolation": {"gamma": (1.0, 3.0, 10.0)},
}
"""Baseline -> its own settings and their values."""
BUDGETS = ("default", "quarter")
HEAD = """# Settings of the baselines: the grid

`python benchmarks/tuning.py` wrote this page, and its docstring states the rule. The guide counts the
forgotten samples and its features define the distance; no judge has a part. "forgets" marks a setting that
the first two steps of the rule allow. The best setting by the rule comes first.
"""
SLACK, KEPT = 0.005, 1 / 3
"""Largest forgotten share over the target's; share of the pairs that goes on to the next rung."""
MIN_STEPS, PILOT = 20, (20, 70)
"""Fewest steps; the steps of two runs that time a step."""
DRAWN = 903
"""Stream of the samples that measure a cell: those of ``strangers.py`` are others."""


@dataclass(frozen=True)
class Yardstick:
    """Exact target samples of one stranger and request, as the guide reads them.

    Attributes:
        guide: the classifier in the energy.
        classes: to forget.
        z: latents of every cell.
        features: the guide's features of exact target samples.
        facts: the guide's shares and distances of the target and the original.
    """

    guide: Classifier
    classes: tuple[int, ...]
    z: Tensor
    features: Tensor
    facts: dict[str, float]

    def measure(self, model: uf.GenerativeModel) -> dict[str, float]:
        """Return the guide's share of forgotten classes, and the distance to the exact target."""
        x = model.push_batches(self.z)
        if not bool(torch.isfinite(x).all()):
            raise uf.InputError("the model returns NaN or infinite samples; expected finite ones")
        return {"left": count_share(self.guide, x, self.classes), "distance": self.distance_of(x)}

    def distance_of(self, x: Tensor) -> float:
        """Return the Fréchet distance of samples to the exact target samples."""
        return uf.metrics.frechet_distance(generated=self.guide.features(x), reference=self.features)


def make_yardstick(stranger: Stranger, request: Request) -> Yardstick:
    """Draw two sets of exact target samples, which ``strangers.py`` does not draw."""
    energy = load_energy(stranger.record(stranger.guide)["line"], (0,), MARGIN, stranger.model)
    (guide,) = [each for each in energy.modules() if isinstance(each, Classifier)]
    target = uf.Target(stranger.model, request.energy)
    exact = target.sample(2 * stranger.n, uf.stream(0, DRAWN, 1)).x
    first, second = torch.as_tensor(exact).split(stranger.n)
    z = stranger.model.prior(stranger.n, uf.stream(0, DRAWN, 0))
    bare = Yardstick(guide, request.classes, z, guide.features(first), {})
    original = bare.measure(stranger.model)
    facts = {
        "target": count_share(guide, torch.cat([first, second]), request.classes),
        "floor": bare.distance_of(second),
        "original": original["left"],
        "original_distance": original["distance"],
    }
    return Yardstick(guide, request.classes, z, bare.features, facts)


def count_share(guide: Classifier, x: Tensor, classes: tuple[int, ...]) -> float:
    """Return the share of samples that the guide assigns to the classes."""
    return float(torch.isin(guide.probabilities(x).argmax(1), torch.tensor(classes)).double().mean())


# The grid


def list_pairs(method: str, size: float, rates: Iterable[float] = RATES) -> list[dict[str, float]]:
    """Return all rates and knobs of a method as settings; ``size`` is that of the stranger's weights."""
    knobs = [{"learning_rate": float(f"{share * size:.3g}")} for share in rates]
    names = list(KNOBS[method])
    values = [dict(zip(names, each, strict=True)) for each in itertools.product(*KNOBS[method].values())]
    return [rate | own for rate in knobs for own in values]


def forgets(cell: dict[str, Any], facts: dict[str, float]) -> bool:
    """Return whether a cell forgets without leaving the target farther away than the original is."""
    is_near = cell["distance"] < facts["original_distance"]
    return bool(cell["left"] <= facts["target"] + SLACK and is_near)


def rank_cells(cells: Iterable[dict[str, Any]], facts: dict[str, float]) -> list[dict[str, Any]]:
    """Return the cells without an error, the best by the rule first."""
    done = [cell for cell in cells if "error" not in cell]
    return sorted(done, key=lambda cell: (not forgets(cell, facts), cell["distance"]))


class Tuning:
    """The grids of one stranger and one request.

    Args:
        stranger: the third-party generator.
        asked: options of the command.
    """

    def __init__(self, stranger: Stranger, asked: argparse.Namespace) -> None:
        self.stranger, self.asked = stranger, asked
        self.request = make_request(stranger, asked.request)
        self.yardstick = make_yardstick(stranger, self.request)
        about = {"stranger": stranger.name, "request": asked.request, "words": self.request.words}
        write(self.file("target"), about | self.yardstick.facts | {"n": stranger.n})

    def file(self, *words: object) -> Path:
        """Return the file of a result."""
        name = ".".join(map(str, (self.stranger.name, self.asked.request, *words)))
        return Path(self.asked.out) / "cells" / f"{name}.json"

    def fit(self, method: Method) -> tuple[uf.GenerativeModel, float]:
        """Return the unlearned model and the CPU seconds; seed 0."""
        data = select_samples(self.stranger, self.request, method, self.asked.folders)
        target = uf.Target(self.stranger.model, self.request.energy)
        problem = make_problem(target, RealSamples(**data), None)
        start = time.process_time()
        model = fit(method, problem, seed=0).model
        seconds = time.process_time() - start
        assert isinstance(model, uf.GenerativeModel)
        return model, seconds

    def find_budget(self, budget: str) -> float:
        """Return the CPU seconds of a budget; the default method runs once for its own."""
        if budget == "quarter":
            return float(self.stranger.record()["train_cpu_seconds"]) / 4
        file = self.file("default-seconds")
        if not file.exists():
            kind = "flow" if training.RECIPES[self.stranger.name].kind == "flow" else "generator"
            name = default_method(kind)
            say(f"{self.stranger.name}: the seconds of {name}")
            write(file, {"default": name, "seconds": self.fit(UNLEARNERS[name])[1]})
        return float(json.loads(file.read_text())["seconds"])

    def count_steps(self, method: str, seconds: float) -> int:
        """Return the steps that a budget pays for, in two digits, after what a run costs without steps."""
        file = self.file(method, "seconds")
        if not file.exists():
            kind, (few, more) = type(UNLEARNERS[method]), PILOT
            self.fit(kind(steps=few, learning_rate=1e-6))  # type: ignore[call-arg]
            first, second = (self.fit(kind(steps=n, learning_rate=1e-6))[1] for n in PILOT)  # type: ignore[call-arg]
            step = max(second - first, 1e-3) / (more - few)
            write(file, {"fixed": max(first - few * step, 0.0), "step": step})
        cost = json.loads(file.read_text())
        steps = max((seconds - cost["fixed"]) / cost["step"], MIN_STEPS / RUNGS[0])
        return int(float(f"{steps:.2g}"))

    def run_method(self, budget: str, method: str) -> None:
        """Run the missing cells of a grid, rung by rung."""
        self.run_cell("default", method, 0, {})
        steps = self.count_steps(method, self.find_budget(budget))
        size = scale_rate(trainable_copy(self.stranger.model), 1.0)
        pairs = list_pairs(method, size, self.asked.rates)
        for rung in RUNGS[: self.asked.rungs]:
            cells = [
                self.run_cell(budget, method, rung, {"steps": max(1, int(rung * steps))} | pair)
                for pair in pairs
            ]
            if not self.asked.full:
                best = rank_cells(cells, self.yardstick.facts)[: max(1, round(KEPT * len(cells)))]
                pairs = [{k: v for k, v in cell["settings"].items() if k != "steps"} for cell in best]

    def run_cell(self, budget: str, method: str, rung: float, settings: dict[str, Any]) -> dict[str, Any]:
        """Return a cell; run and write it if it is missing. A failed training is a result too."""
        words = [f"{key}={value:g}" for key, value in settings.items()]
        file = self.file(method, "defaults" if not settings else budget, *words)
        if file.exists():
            return dict(json.loads(file.read_text()))
        cell: dict[str, Any] = {
            "stranger": self.stranger.name,
            "request": self.asked.request,
            "method": method,
            "budget": budget,
            "rung": rung,
            "settings": settings,
        }
        try:
            model, seconds = self.fit(type(UNLEARNERS[method])(**settings))
            cell |= self.yardstick.measure(model) | {"cpu_seconds": seconds}
            found = f"left {100 * cell['left']:.2f} %, FD {cell['distance']:.1f}, {seconds:.1f} s"
        except (uf.InputError, RuntimeError) as error:
            cell |= {"error": type(error).__name__, "refused": str(error)}
            found = f"{cell['error']}: {error}"
        say(f"{self.stranger.name}, {method}, {budget}, {', '.join(words) or 'defaults'}: {found}")
        write(file, cell)
        return cell


# Results


def write(file: Path, record: dict[str, Any]) -> None:
    """Write a record; a killed run leaves no half-written file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(record, indent=1))
    partial.replace(file)


def finish(out: Path) -> str:
    """Write grid.json, grid.md and tuned.json from all finished cells; return the tables."""
    records = [json.loads(file.read_text()) for file in sorted((out / "cells").glob("*.json"))]
    targets = {each["stranger"]: each for each in records if "floor" in each}
    cells = [each for each in records if "settings" in each]
    chosen: dict[str, dict[str, Any]] = {}
    parts = []
    for name, target in targets.items():
        own = [cell for cell in cells if cell["stranger"] == name]
        for method in dict.fromkeys(cell["method"] for cell in own):
            grid = [cell for cell in own if cell["method"] == method]
            ranked = rank_cells(grid, target)
            if ranked:
                chosen.setdefault(name, {})[method] = ranked[0]["settings"]
            parts.append(table_of(target, method, grid, ranked))
    (out / "tuned.json").write_text(json.dumps(chosen, indent=1) + "\n")
    (out / "grid.json").write_text(
        json.dumps({"targets": list(targets.values()), "cells": cells}, indent=1) + "\n"
    )
    tables = "\n".join([HEAD, *parts])
    (out / "grid.md").write_text(tables)
    return tables


def table_of(
    target: dict[str, Any], method: str, cells: list[dict[str, Any]], ranked: list[dict[str, Any]]
) -> str:
    """Return the grid of one method on one stranger, the best cell first, the chosen one marked."""
    names = list(dict.fromkeys(key for cell in cells for key in cell["settings"]))
    lines = [
        f"### {target['stranger']}, forget {target['words']}: `{method}`\n",
        f"The guide finds {100 * target['original']:.2f} % in the original and "
        f"{100 * target['target']:.2f} % in the exact target. The original's distance is "
        f"{target['original_distance']:.1f}, the floor "
        f"{target['floor']:.2f}.\n",
        f"| | budget | {' | '.join(names)} | left, % | distance | CPU s |",
        f"|---|---|{'---:|' * len(names)}---:|---:|---:|",
    ]
    for cell in ranked:
        first = "**chosen**" if cell is ranked[0] else "forgets" if forgets(cell, target) else ""
        lines.append(
            f"| {first} | {settings_of(cell, names)} | {100 * cell['left']:.2f} | {cell['distance']:.1f} | "
            f"{cell['cpu_seconds']:.1f} |"
        )
    failed = [cell for cell in cells if "error" in cell]
    lines += [f"| {cell['error']} | {settings_of(cell, names)} | | | |" for cell in failed]
    return "\n".join([*lines, ""])


def settings_of(cell: dict[str, Any], names: list[str]) -> str:
    """Return the budget and the settings as columns; the row of the defaults has no numbers."""
    values = (cell["settings"].get(name) for name in names)
    budget = cell["budget"] if cell["settings"] else "the defaults"
    return " | ".join([budget, *("" if value is None else f"{value:g}" for value in values)])


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_places(parser, Path("runs/tuning"))
    parser.add_argument("--methods", nargs="+", choices=list(KNOBS), default=list(KNOBS))
    parser.add_argument("--budgets", nargs="+", choices=BUDGETS, default=list(BUDGETS))
    parser.add_argument("--request", choices=("common", "rare", "two"), default="common")
    parser.add_argument("--n", type=int, default=4000, help="samples of a cell")
    parser.add_argument("--rates", nargs="+", type=float, default=list(RATES), help="shares of the weights")
    parser.add_argument("--rungs", type=int, default=len(RUNGS), help="number of rungs")
    parser.add_argument("--full", action="store_true", help="all pairs of rate and knobs at every rung")
    return parse_places(parser)


def main() -> None:
    asked = read_options()
    torch.set_num_threads(1)
    for name in asked.strangers:
        tuning = Tuning(load_stranger(name, asked.folders, asked.cache, asked.n), asked)
        family = tuning.stranger.model.family
        rows = [row for row in asked.methods if family in UNLEARNERS[row].families]
        for budget, row in itertools.product(asked.budgets, rows):
            tuning.run_method(budget, row)
            finish(asked.out)
    print(finish(asked.out))


if __name__ == "__main__":
    main()
