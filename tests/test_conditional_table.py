"""The table of conditional models: its bounds on small records, its page, and a run that is continued."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import conditional_bases
import conditional_table
import pytest
import torch
from conditional_measures import (
    Question,
    ask,
    ask_target,
    forgets_too_much,
    list_misses,
    list_questions,
    make_reference,
    measure,
    share,
)
from conditional_page import PAGE, count_seeds, format_page, make_tables, read_results
from conditional_tuning import choose_cell, choose_settings, list_settings
from torch import Tensor, nn

import unflow as uf
from unflow.energies import ClassLogOdds
from unflow.methods import UNLEARNERS, Distill, FlowMatching, LatentTransport
from unflow.models import Conditional, FlowMap
from unflow.models.classifier import Classifier
from unflow.nets import AdaptedAverageVelocity

K, FORGET = 3, 1


def record(
    asked: float = 0.01, null: float = 0.02, own: float = 0.95, distance: float = 1.0, seconds: float = 0.1
) -> dict[str, Any]:
    """The record of a row with two retained labels, the second of which is 1 point better."""
    shares = {
        name: {"share": each, "low": each - 0.005, "high": each + 0.005}
        for name, each in (("a", asked), ("n", null))
    }
    labels = [
        {"label": k, "own": {"share": own + 0.01 * (k > 1)}, "distance": distance, "floor": 1.0}
        for k in (0, 2)
    ]
    return {
        "asked": {"1": {"share": 0.0, "low": 0.0, "high": 0.01}, "4": shares["a"]},
        "null": shares["n"],
        "labels": labels,
        "share_of_training": seconds,
        "ra": own,
    }


@pytest.mark.parametrize(
    ("bad", "name"),
    [
        ({"asked": 0.031}, "asked"),
        ({"own": 0.939}, "own"),
        ({"distance": 2.1}, "distance"),
        ({"null": 0.041}, "null"),
        ({"seconds": 0.21}, "seconds"),
    ],
)
def test_a_row_misses_each_bound_just_beyond_it(bad: dict[str, float], name: str) -> None:
    original, target = record(asked=0.9), record()
    at_the_bounds = record(asked=0.029, own=0.941, distance=2.0, null=0.039, seconds=0.2)
    assert list_misses(at_the_bounds, original, target) == []
    assert list_misses(record(**bad), original, target) == [name]


def test_a_row_forgets_too_much_where_the_intervals_do_not_meet() -> None:
    target = record(asked=0.02, null=0.02)
    assert forgets_too_much(record(asked=0.011, null=0.03), target) == []
    assert forgets_too_much(record(asked=0.009, null=0.009), target) == ["asked at 4", "null"]


class Place(nn.Module):
    """An average velocity that moves noise to half of it plus (3 label, 0); label K, null, to (-6, 0)."""

    def forward(self, x: Tensor, start: Tensor, end: Tensor, label: Tensor) -> Tensor:
        place = torch.where(label == K, -6.0, 3.0 * label)
        return torch.stack([place, torch.zeros_like(place)], 1) - 0.5 * x


class Nearest(nn.Module):
    """Logits of the nearest of (0, 0), (3, 0) and (6, 0); its features are the points."""

    def forward(self, x: Tensor) -> Tensor:
        centres = torch.tensor([[3.0 * k, 0.0] for k in range(K)])
        return -20 * torch.cdist(x, centres).square()

    def features(self, x: Tensor) -> Tensor:
        return x


def places() -> tuple[Conditional, Classifier]:
    """A one-step model of three narrow classes, and its exact judge."""
    net = AdaptedAverageVelocity(Place(), (2,), "x, start, end, label", label=0)
    return Conditional(FlowMap(net, (2,)), [1 / K] * K, null=K), Classifier(Nearest(), ["0", "1", "2"])


def test_the_exact_target_is_its_own_floor_and_the_original_draws_the_label() -> None:
    model, judge = places()
    target = uf.Target(model, ClassLogOdds(judge, [FORGET], 4.0))
    questions = list_questions(model, FORGET)
    assert [q.key for q in questions] == ["0", "1", "2", "null"]
    real = {k: torch.randn(40, 2) / 2 + torch.tensor([3.0 * k, 0.0]) for k in range(K)}
    reference, exact = make_reference(target, judge, FORGET, questions, 400, 0, real)
    assert exact["asked"]["1"]["share"] == exact["ua"] - 1 == 0
    assert exact["drawn"][FORGET] == 0
    assert sum(exact["drawn"]) == pytest.approx(1)
    assert [each["distance"] for each in exact["labels"]] == [each["floor"] for each in exact["labels"]]
    before = measure(reference, ask(model, questions, 400, 0))
    assert before["asked"]["1"]["share"] > 0.99
    assert before["ua"] < 0.01
    assert [each["label"] for each in before["labels"]] == [0, 2]
    assert all(each["distance"] < 0.1 for each in before["labels"])  # retained labels are those of the target
    assert before["others"]["1"]["distance"] > 2.5  # ones lie 3 beside the mixture of 0 and 2
    sets = [ask_target(target, questions[:1], 50, 0, which)["0"] for which in (0, 1)]
    assert not torch.equal(*sets)


def test_questions_are_named_by_label_and_guidance() -> None:
    assert [Question(3).key, Question("null").key, Question(3, 4.0).key] == ["3", "null", "3@4"]
    assert share(torch.tensor([True, False]))["share"] == 0.5


def test_the_rule_takes_the_nearest_setting_that_forgets_or_the_one_that_forgets_most() -> None:
    target = record()
    near, far, left = record(distance=1.5), record(distance=3.0), record(asked=0.5, distance=1.0)
    assert choose_cell([far, left, near], target) is near
    worse = record(asked=0.6, distance=1.0)
    assert choose_cell([worse, left], target) is left
    rates = [(each["learning_rate"], each["fake_rate"]) for each in list_settings("one-step", "sfd")]
    assert all(fake == 3 * rate for rate, fake in rates)


def test_seeds_are_counted_where_a_name_is_not_of_all() -> None:
    assert count_seeds([["own"], ["own", "null"], ["own"]], 3) == "own, null (1 of 3)"


def test_the_tables_of_the_page_are_those_of_the_results() -> None:
    results, tuning = read_results()
    assert PAGE.read_text() == format_page(PAGE.read_text(), results, tuning)
    tuned = json.loads((PAGE.parent / "conditional" / "tuned.json").read_text())
    assert tuned == choose_settings(tuning["cells"])
    for cell in results["cells"]:
        name, _, is_tuned = cell["method"].partition(", ")
        if is_tuned:
            assert cell["settings"] == tuned[cell["model"]][name]
    assert all(len(lines) > 2 for lines in make_tables(results, tuning).values())


@pytest.mark.slow
def test_a_finished_cell_is_not_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    short: dict[str, Any] = {
        "flow": FlowMatching(steps=20),
        "distill, guidance 2": Distill(steps=5, bank_size=256),
    }
    monkeypatch.setattr(conditional_bases, "BASES", short)
    monkeypatch.setattr(
        conditional_table,
        "CLASSIFIERS",
        {
            name: (part, {"net": "mlp", "width": 32, "depth": 1, "num_times": 0}, replace(training, steps=40))
            for name, (part, _, training) in conditional_table.CLASSIFIERS.items()
        },
    )
    monkeypatch.setitem(UNLEARNERS, "latent_transport", LatentTransport(steps=3, bank_size=512))
    words = ["--out", str(tmp_path), "--models", "one-step", "--rows", "latent_transport", "--seeds", "1"]
    monkeypatch.setattr("sys.argv", ["conditional_table.py", *words, "--n", "60"])
    threads = torch.get_num_threads()
    try:
        conditional_table.main()
        first, table = capsys.readouterr(), (tmp_path / "table.json").read_text()
        conditional_table.main()
        again = capsys.readouterr()
    finally:
        torch.set_num_threads(threads)
    assert first.err.count("one-step, seed 1, ") == 3
    assert "one-step" not in again.err
    assert (tmp_path / "table.json").read_text() == table
    cells = {cell["method"]: cell for cell in json.loads(table)["cells"]}
    assert sorted(cells) == ["latent_transport", "original", "target"]
    assert cells["original"]["share_of_training"] == 1
    assert cells["latent_transport"]["settings"]["steps"] == 3
    assert cells["latent_transport"]["cpu_seconds"] > 0
