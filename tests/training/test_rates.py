"""The learning rate that a training chooses, and the restart of a run whose loss rises."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from test_training import left_half, run_script, same_weights, small_job

from unflow.energies import CallableEnergy
from unflow.ground.errors import InputError, TrainingDivergedError
from unflow.ground.files import read_json_lines, read_tensors
from unflow.methods import ERFM, UOT
from unflow.models import Flow
from unflow.target import Target
from unflow.training import rates, run
from unflow.training.loop import CHECKPOINT, METRICS, Fit, fit
from unflow.training.method import Problem
from unflow.training.originals.flow_matching import FlowMatching
from unflow.training.rates import RATES, Watch, count_trial_steps, pick_rate
from unflow.unlearning.unlearn import unlearn

STEPS = 80
"""Too few for a range test, enough for four windows of the watch."""


def job(steps: int = STEPS, **options: Any) -> tuple[FlowMatching, Problem]:
    method, problem = small_job("flow_matching")
    assert isinstance(method, FlowMatching)
    return dataclasses.replace(method, steps=steps, **{"learning_rate": None, **options}), problem


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([0.5, 0.6, 0.7, 0.8, 0.9], 3e-2),
        ([0.7, 0.6, 0.7, 0.8, 0.9], 3e-2),  # three quarters of the best progress
        ([0.85, 0.5, 0.7, 0.8, 0.9], 1e-2),
        ([math.nan, math.inf, 1.2, 0.9, 0.95], 1e-3),
        ([math.nan, math.nan, math.nan, 1.1, 0.99], 3e-4),
        ([2.0, 2.0, 2.0, 2.0, 2.0], 3e-4),
        ([math.nan] * 5, 3e-4),
    ],
)
def test_the_highest_rate_with_half_of_the_best_progress_is_chosen(
    losses: list[float], expected: float
) -> None:
    assert pick_rate(1.0, losses) == expected


@pytest.mark.parametrize("steps", [1, 479, 480, 600, 1200, 10000])
def test_a_range_test_takes_at_most_a_twentieth_of_the_steps(steps: int) -> None:
    assert count_trial_steps(steps) * (len(RATES) + 1) <= steps / 20
    assert (count_trial_steps(steps) > 0) == (steps >= 480)


def feed(watch: Watch, *losses: float) -> list[bool]:
    return [watch.add(torch.tensor(loss)) for loss in losses]


def test_only_the_mean_of_a_whole_window_is_compared_with_the_start() -> None:
    watch = Watch(window=2, rate=0.3, start=1.0)
    assert feed(watch, 1, 3, 100, -99, 2, 2, 2, 2.1) == [False] * 7 + [True]  # means 2, 0.5, 2 and 2.05
    watch.restart()
    assert (watch.rate, watch.restarts) == (pytest.approx(0.1), 1)
    assert feed(watch, 1, 1, math.nan, 0) == [False] * 3 + [True]


def test_a_noisy_start_is_bounded_by_three_standard_errors_and_a_loss_of_zero_sets_no_limit() -> None:
    assert rates.bound_mean([1.0, 3.0]) == pytest.approx(2 + 3 * 1.0)
    assert rates.bound_mean([0.0] * 20) == 0
    assert feed(Watch(window=2, rate=0.3, start=0.0), 0, 0, 5, 5, math.nan, 1) == [False] * 5 + [True]


@pytest.mark.parametrize(("losses", "start"), [([3, 1, 1, 1, 1], 1.4), ([1, 9, 9, 9, 9], 1.0)])
def test_without_a_measured_start_the_first_losses_are_the_start(losses: list[float], start: float) -> None:
    watch = Watch(window=8, rate=0.3)
    assert feed(watch, *losses) == [False] * 5
    assert watch.start == pytest.approx(start)


def test_the_watch_in_a_checkpoint_is_the_watch() -> None:
    watch = Watch(window=3, rate=0.1)
    feed(watch, 0.1, 0.2)
    again = Watch(**watch.state())
    assert feed(again, 0.3) == feed(watch, 0.3) == [False]
    assert again.state() == watch.state()


def test_a_method_whose_losses_rank_nothing_needs_a_rate() -> None:
    with pytest.raises(InputError, match=r"got learning_rate=None for UOT.*expected a number > 0"):
        UOT(learning_rate=None)  # type: ignore[arg-type]  # refused


def test_the_chosen_rate_is_one_of_the_rates_and_the_same_seed_gives_the_same_bits() -> None:
    method, problem = job(steps=480)
    first, second = fit(method, problem, seed=3), fit(method, problem, seed=3)
    assert first.facts == second.facts
    assert first.facts["learning_rate"] in RATES
    assert same_weights(first.model, second.model)


def test_a_run_with_the_chosen_rate_written_out_ends_in_the_same_bits() -> None:
    """The range test leaves no trace: not in weights, moments, average or random numbers."""
    method, problem = job(steps=480)
    chosen = fit(method, problem, seed=3)
    written = dataclasses.replace(method, learning_rate=chosen.facts["learning_rate"])
    found = fit(written, problem, seed=3)
    assert found.facts == {}
    assert same_weights(found.model, chosen.model)


class Stopped(Exception):  # noqa: N818
    pass


def fit_stopped(stops: list[int], out: Path, steps: int = STEPS) -> Fit:
    """Run the job, stopped after each of the numbers of steps in turn, then to its end."""
    method, problem = job(steps)
    for stop in stops:
        left = [stop]

        def count(_: int, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] == 0:
                raise Stopped

        with pytest.raises(Stopped):
            fit(method, problem, out, seed=3, checkpoint_every=7, log_every=5, on_step=count)
    return fit(method, problem, out, seed=3, checkpoint_every=7, log_every=5)


def curve(folder: Path) -> list[dict[str, float]]:
    records = read_json_lines(folder / METRICS)
    return [{k: v for k, v in record.items() if k != "seconds"} for record in records]


@pytest.mark.parametrize("stops", [[10], [45], [30, 30, 30], [41], [90]])
def test_a_run_stopped_before_or_after_a_restart_ends_in_the_same_bits(
    stops: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "UNTRIED", 3.0)
    whole = fit_stopped([], tmp_path / "whole")
    lines = [line for line in capsys.readouterr().err.splitlines() if "diverged" in line]
    assert 1 <= len(lines) == whole.facts["restarts"]
    assert "with the learning rate 3; starts again at 1 (restart 1 of 4)" in lines[0]
    assert whole.facts["learning_rate"] == pytest.approx(3.0 / 3 ** len(lines))
    stopped = fit_stopped(stops, tmp_path / "stopped")
    assert stopped.facts == whole.facts
    assert same_weights(stopped.model, whole.model)
    assert curve(tmp_path / "stopped") == curve(tmp_path / "whole")
    assert [line["step"] for line in curve(tmp_path / "whole")][-1] == STEPS


def test_a_run_stopped_after_its_range_test_keeps_the_rate(tmp_path: Path) -> None:
    whole, stopped = fit_stopped([], tmp_path / "whole", 480), fit_stopped([50], tmp_path / "stopped", 480)
    assert same_weights(stopped.model, whole.model)
    _, metadata = read_tensors(tmp_path / "stopped" / CHECKPOINT)
    assert metadata["watch"]["rate"] == whole.facts["learning_rate"] == stopped.facts["learning_rate"]


def test_a_run_that_diverges_at_every_rate_fails_and_says_after_how_many(tmp_path: Path) -> None:
    method, problem = job()
    assert problem.data is not None
    broken = Problem(model=problem.model, data=problem.data * torch.nan)
    with pytest.raises(TrainingDivergedError, match=r"expected .*after 4 restarts at lower rates\)$"):
        fit(method, broken, tmp_path)


def test_a_rate_of_the_user_is_obeyed_and_a_rise_gives_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    method, problem = job(learning_rate=3.0)
    found = fit(method, problem, seed=3, label="it")
    lines = [line for line in capsys.readouterr().err.splitlines() if "rose" in line]
    assert len(lines) == 1
    assert lines[0].startswith("it: the loss 'loss' rose to more than 2 times its start by step 20")
    assert found.facts == {}
    method, problem = job(learning_rate=1e-3)
    fit(method, problem, seed=3)
    assert "rose" not in capsys.readouterr().err


def test_the_lineage_names_the_chosen_rate() -> None:
    _, problem = small_job("flow_matching")
    assert isinstance(problem.model, Flow)
    target = Target(problem.model, CallableEnergy(left_half, 0.0))
    found = unlearn(target, ERFM(steps=480, batch_size=16, bank_size=256, weighting="resample"))
    assert found.lineage["settings"]["learning_rate"] is None
    assert found.lineage["facts"] == {"learning_rate": found.lineage["facts"]["learning_rate"], "restarts": 0}
    assert found.lineage["facts"]["learning_rate"] in RATES


TWO_PROCESSES = """
import json, sys
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads(1)
from test_rates import job
from unflow.training import run
from unflow.training.loop import fit

run.UNTRIED = 3.0
for steps in (80, 480):
    method, problem = job(steps)
    found = fit(method, problem, f"{{sys.argv[1]}}/{{steps}}", seed=3, devices=2, log_every=1)
    if found.is_first:
        print(json.dumps(found.facts))
"""


def test_two_processes_choose_and_restart_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = run_script(tmp_path, TWO_PROCESSES)
    assert "diverged at step 20" in done.stderr
    assert "starts again at 1 (restart 1 of 4)" in done.stderr
    two = [json.loads(line) for line in done.stdout.splitlines()]
    monkeypatch.setattr(run, "UNTRIED", 3.0)
    one = [fit(*job(steps), tmp_path / f"one-{steps}", seed=3, log_every=1).facts for steps in (80, 480)]
    assert one == two
    assert one[0]["restarts"]
    assert one[1]["restarts"] == 0
    curves = [read_json_lines(tmp_path / name / METRICS) for name in ("one-480", "480")]
    losses = [[line["loss"] for line in curve] for curve in curves]
    assert losses[0] == pytest.approx(losses[1], rel=2e-3)
