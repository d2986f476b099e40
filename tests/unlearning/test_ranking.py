"""Plans rank methods by fit, measured quality, trials and time, in this order; ``auto`` takes the first."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ranking import PAGE, RANKING, TABLES, format_page, format_ranking, format_tables, read_results, summarise
from torch import Tensor, nn

import unflow as uf
from unflow.commands.cli import main
from unflow.ground.errors import InputError
from unflow.methods import UNLEARNERS
from unflow.models import FlowMap
from unflow.nets import MLP
from unflow.unlearning import planning, unlearn
from unflow.unlearning.planning import Outlook, choose_method, find_trial_faults, rank_outlooks
from unflow.unlearning.ranking import Measured, list_measured, read_ranking
from unflow.unlearning.verdict import Ratio, SelfMeasure, Share


class Right(nn.Module):
    """Logits of two halves of the plane."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([-20 * x[:, 0], 20 * x[:, 0]], 1)


def make_target() -> uf.Target:
    net = MLP((2,), width=8, depth=1, num_times=2)
    for weight in net.parameters():
        nn.init.zeros_(weight)
    return uf.Target(FlowMap(net, (2,)), uf.energies.ClassLogOdds(Right(), [1], 0.0))


TARGET = make_target()


def measured(misses: int = 0, distance: float | None = 1.0, runs: int = 1, **others: Any) -> Measured:
    fields: dict[str, Any] = {"failed": 0, "left": 0.0, "sharpness": 1.0, "seconds": 1.0} | others
    missed = {"distance": misses} | fields.pop("missed", {})
    return Measured(runs=runs, missed=missed, distance=distance, original_inside=False, **fields)


# The order

BEST_FIRST = (
    Outlook("few misses", seconds=9.0, measured=measured(1, 9.0)),
    Outlook("near", seconds=9.0, measured=measured(2, 1.0)),
    Outlook("far and fast", seconds=1.0, measured=measured(2, 2.0)),
    Outlook("far and slow", seconds=2.0, measured=measured(2, 2.0)),
    Outlook("every run failed", seconds=0.0, measured=measured(4, None)),
    Outlook("blurred", seconds=0.0, measured=measured(0, 1.0), faults=("blurred",)),
    Outlook("not measured, fast", seconds=0.0),
    Outlook("not measured, slow", seconds=1.0),
    Outlook("not measured, diverged", faults=("diverged",)),
    Outlook("does not fit", "an obstacle", measured=measured(0, 1.0)),
)


def test_the_order_does_not_depend_on_the_order_of_the_methods() -> None:
    for first in range(len(BEST_FIRST)):
        turned = BEST_FIRST[first:] + BEST_FIRST[:first]
        assert rank_outlooks(turned) == BEST_FIRST
        assert rank_outlooks(reversed(turned)) == BEST_FIRST


def test_misses_count_for_each_run_and_without_seconds() -> None:
    assert measured(3, runs=6).quality == (0.5, 1.0)
    assert measured(3, runs=6, missed={"seconds": 6, "kept": 3}).quality == (1.0, 1.0)
    assert measured(4, None).quality == (4.0, math.inf)


# The trial

HALF = Share(0.4, 0.36, 0.44)
NONE = Share(0.0, 0.0, 0.01)


@pytest.mark.parametrize(
    ("found", "faults"),
    [
        (SelfMeasure(n=500, unchanged=True), ("did not move",)),
        (SelfMeasure(n=500, not_finite=1), ("diverged",)),
        (SelfMeasure(n=500, before=HALF, after=HALF, target=NONE), ("did not move",)),
        (SelfMeasure(n=500, before=HALF, after=Share(0.398, 0.36, 0.44), target=NONE), ()),
        (SelfMeasure(n=500, before=NONE, after=NONE, target=NONE), ()),  # there is nothing to move
        (SelfMeasure(n=500, sharpness=Ratio(0.93, 0.01)), ()),
        (SelfMeasure(n=500, sharpness=Ratio(0.87, 0.01)), ("blurred",)),
        (SelfMeasure(n=500, sharpness=Ratio(0.87, 0.02)), ()),  # within noise of 0.9
        (SelfMeasure(n=500, sharpness_moved=Ratio(0.8, 0.01)), ("blurred",)),
        (SelfMeasure(n=500, obstacle="no energy"), ()),
    ],
)
def test_faults_of_a_trial(found: SelfMeasure, faults: tuple[str, ...]) -> None:
    assert find_trial_faults(found) == faults


def test_a_trial_takes_a_twentieth_of_the_steps_of_every_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both trainings of this method are short ones, and the time is that of the whole."""
    method = uf.methods.UOT(start="latent_transport", bank_size=256, batch_size=16, steps=200)
    ticks = itertools.count()
    monkeypatch.setattr(planning, "time", SimpleNamespace(perf_counter=lambda: float(next(ticks))))
    (found,) = uf.plan(TARGET, {"it": method}).methods
    assert found.steps == 200 + 1000
    tried = 10 + 50
    assert found.seconds == (tried + 1) + (found.steps - tried)  # one second for each reading of the clock
    assert "of 500 fresh samples" in found.trial


def test_a_diverged_trial_is_a_fault_and_not_an_error() -> None:
    """A rate above the largest float makes the first step infinite."""
    method = uf.methods.Relabel(learning_rate=1e39, steps=200)
    (found,) = uf.plan(TARGET, {"it": method}).methods
    assert (found.obstacle, found.faults) == (None, ("diverged",))
    assert "NaN or infinite" in found.trial or "learning_rate" in found.trial


def test_a_method_that_changes_nothing_does_not_move() -> None:
    (found,) = uf.plan(TARGET, {"it": uf.methods.Relabel(learning_rate=1e-12, steps=40)}).methods
    assert found.faults == ("did not move",)


# The first


class Trials:
    """A made-up table and made-up trials; ``tried`` has the methods that were tried, in order."""

    def __init__(self, outlooks: dict[str, Outlook]) -> None:
        self.outlooks, self.tried = outlooks, list[str]()

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        table = {name: each.measured for name, each in self.outlooks.items() if each.measured is not None}
        monkeypatch.setattr(planning, "list_measured", lambda _: table)
        monkeypatch.setattr(planning._Trials, "consider", lambda _, outlook, method: self.try_it(outlook))

    def try_it(self, outlook: Outlook) -> Outlook:
        self.tried.append(outlook.method)
        return self.outlooks[outlook.method]


NAMES = ("uot", "uot_tilted", "latent_transport", "relabel", "reject")


def test_the_choice_is_the_first_of_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each method fits, does not fit, or has a fault; two have equal rows, and the last one has none."""
    rows = (measured(1, 2.0), measured(1, 2.0), measured(2, 1.0), measured(3, 1.0), None)
    methods = {name: UNLEARNERS[name] for name in NAMES}
    for kinds in itertools.product(("fits", "does not fit", "blurred"), repeat=len(NAMES)):
        outlooks = {
            name: Outlook(
                name,
                "an obstacle" if kind == "does not fit" else None,
                measured=row,
                faults=("blurred",) if kind == "blurred" else (),
                seconds=float(-place),
            )
            for place, (name, row, kind) in enumerate(zip(NAMES, rows, kinds, strict=True))
        }
        Trials(outlooks).install(monkeypatch)
        first, *_ = rank_outlooks(outlooks.values())
        if first.obstacle is None:
            assert choose_method(TARGET, methods) == first
        else:
            with pytest.raises(InputError, match="none of 5 methods fits"):
                choose_method(TARGET, methods)


def test_methods_that_rank_lower_are_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    trials = Trials({name: Outlook(name, measured=measured(k)) for k, name in enumerate(NAMES)})
    trials.install(monkeypatch)
    choose_method(TARGET, {name: UNLEARNERS[name] for name in NAMES})
    assert trials.tried == ["uot"]


def test_other_settings_of_a_row_are_not_measured() -> None:
    name = next(iter(list_measured("generator")))
    changed = dataclasses.replace(UNLEARNERS[name], steps=20)  # type: ignore[call-arg]
    (found,) = uf.plan(TARGET, {name: changed}).methods
    assert found.measured is None


def test_auto_unlearns_with_the_first_method(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    few = {name: UNLEARNERS[name] for name in ("erfm", "gradient_ascent")}
    seen: list[dict[str, Any]] = []

    def choose(target: uf.Target, **options: Any) -> Outlook:
        seen.append(options)
        return choose_method(target, few, **options)

    monkeypatch.setattr(unlearn, "choose_method", choose)
    result = uf.unlearn(TARGET, "auto", tmp_path / "it", seed=3)
    assert uf.plan(TARGET, few, seed=3).methods[0].method == "gradient_ascent"
    named = uf.unlearn(TARGET, "gradient_ascent", seed=3)
    assert result.lineage["method"] == "gradient_ascent"
    assert torch.equal(*(each.model.push_batches(torch.ones(4, 2)) for each in (result, named)))
    assert seen[0]["seed"] == 3
    again = uf.unlearn(TARGET, "auto", tmp_path / "it", seed=3)
    assert again.lineage["method"] == "gradient_ascent"
    assert len(seen) == 1  # the lineage of the finished bundle names its method


def test_a_request_that_no_method_fits_is_refused_in_one_sentence() -> None:
    methods = {"ot_fm": UNLEARNERS["ot_fm"]}
    with pytest.raises(InputError, match=r"none of 1 methods fits .*OTFM does not train.*; expected one"):
        choose_method(TARGET, methods)
    with pytest.raises(InputError, match=r"none of 0 methods fits .no method was given"):
        choose_method(TARGET, {})


def test_auto_takes_no_settings(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["unlearn", "--model", "m", "--energy", "e", "--method", "auto", "--out", "o"]
    assert main([*words, "--settings.steps", "5"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("unflow unlearn: got --settings.steps with --method auto")
    assert error.count("\n") == 1


def test_the_command_takes_the_first_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    uf.save(TARGET.model, "model")
    chosen: list[int] = []

    def choose(target: uf.Target, **options: Any) -> Outlook:
        chosen.append(options["seed"])
        return Outlook("relabel")

    monkeypatch.setattr(planning, "choose_method", choose)
    Path("some_scores.py").write_text("def right(x): return 1.0 * (x[:, 0] > 0)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    options = {
        "model": "model",
        "energy": "score:some_scores:right",
        "method": "auto",
        "seed": "2",
        "out": "it",
    }
    words = ["unlearn", *(f"--{name}={value}" for name, value in options.items())]
    for _ in range(2):  # the second run finds the method in the folder
        assert main(words) == 0, capsys.readouterr().err
    assert chosen == [2]
    assert capsys.readouterr().out.count("method: relabel, the first of the plan") == 1
    assert json.loads(Path("it/lineage.json").read_text())["method"] == "relabel"


# The table


def cell(method: str, distance: float, fails: list[str], **others: Any) -> dict[str, Any]:
    return {
        "stranger": "gan",
        "request": "common",
        "method": method,
        "left": {"share": 0.03},
        "distance": {"judge": distance},
        "sharpness": 0.9,
        "finite": True,
        "cpu_seconds": 10.0,
        "original_recoverable": False,
        "lineage": {"family": "generator"},
        "fails": fails,
    } | others


REFERENCE = {
    "stranger": "gan",
    "request": "common",
    "floors": {"judge": [2.0, 0.1]},
    "target": {"share": 0.01},
}


def test_the_means_of_made_up_runs() -> None:
    error = {"stranger": "gan", "request": "common", "method": "b", "refused": "NaN"}
    cells = [
        cell("a", 4.0, ["sharpness", "seconds"]),
        cell("a", 16.0, ["sharpness"]),
        cell("b", 2.0, []),
        error | {"error": "TrainingDivergedError"},
        error | {"error": "InputError"},
    ]
    found = summarise({"references": [REFERENCE], "cells": cells})
    assert list(found) == ["one-step"]
    assert list(found["one-step"]) == ["a", "b"]  # one miss for each run, before four in two runs
    assert found["one-step"]["a"] == {
        "runs": 2,
        "failed": 0,
        "missed": {"sharpness": 2, "seconds": 1},
        "distance": 4.0,
        "left": 2.0,
        "sharpness": 0.9,
        "seconds": 10.0,
        "original_inside": False,
    }
    b = found["one-step"]["b"]
    assert (b["runs"], b["failed"], b["distance"]) == (2, 1, 1.0)
    assert set(b["missed"].values()) == {1}
    assert Measured(**b).misses == 2.0


def test_the_tables_of_package_and_page_are_those_of_the_results() -> None:
    results = read_results()
    assert RANKING.read_text() == format_ranking(results)
    assert TABLES.read_text() == format_tables(results)
    assert PAGE.read_text() == format_page(PAGE.read_text(), results)
    known = {name for rows in read_ranking().values() for name in rows}
    assert known <= UNLEARNERS.keys()
    assert json.loads(RANKING.read_text()).keys() == {"flow", "one-step"}
