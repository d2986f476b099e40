"""Seven ways in which a good number is false: each is caught where it is there, and only there."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unflow.data import LabelledData
from unflow.evidence.auditing.guards import guards
from unflow.evidence.auditing.judges import judge_record
from unflow.evidence.report.terminal import format_guards
from unflow.evidence.row import read_rows
from unflow.models.classifier import Classifier

NAMES = ("target", "over", "data", "time", "judge", "seeds", "false alarms")


def row(method: str, count: int, seed: int = 1, **more: Any) -> dict[str, Any]:
    return {
        "method": method,
        "family": "flow",
        "n": 1000,
        "seed": seed,
        "forget_rate": count / 1000,
        "data_used": ["guide: train_images"],
        "cost": {"unlearn_seconds": 3.0},
        "intervals": {},
    } | more


ROWS = [
    row("original", 100),
    row("target", 10),
    row("retrained", 12),
    row("uot", 11, seed=2),
    row("erfm", 12, seed=3),
]
JUDGE = {
    "independent_of_guide": True,
    "error_correlation_with_guide": 0.25,
    "disagreement_with_guide": 0.031,
    "false_alarm_rate": 0.004,
}


def found(rows: list[dict[str, Any]] = ROWS, **judge: Any) -> dict[str, dict[str, Any]]:
    found = guards(read_rows(rows), {"words": "class 3 (margin 4)"}, JUDGE | judge)
    return dict(zip(NAMES, found, strict=True))


def without(method: str) -> list[dict[str, Any]]:
    return [each for each in ROWS if each["method"] != method]


def test_an_audit_with_everything_is_safe_from_all_seven() -> None:
    assert [guard["holds"] for guard in found().values()] == [True] * 7


def test_without_a_retrained_model_the_target_stands_alone_and_nothing_says_how_little_is_right() -> None:
    alone = found(without("retrained"))
    assert alone["target"]["holds"] is False
    assert "class 3 (margin 4)" in alone["target"]["words"]
    assert alone["over"]["holds"] is None
    assert (
        found([each for each in without("retrained") if each["method"] != "target"])["target"]["holds"]
        is True
    )


def test_less_than_retraining_is_caught_where_it_is_more_than_noise() -> None:
    gone = found([*ROWS, row("gradient_ascent", 0)])["over"]
    assert gone["holds"] is False
    assert gone["words"] == "Over-forgetting: flow gradient_ascent."
    assert found([*ROWS, row("uot_tilted", 9)])["over"]["holds"] is True


@pytest.mark.parametrize(
    ("name", "changed"), [("data", {"data_used": []}), ("time", {"cost": {"unlearn_seconds": None}})]
)
def test_what_is_not_recorded_is_not_known_and_named(name: str, changed: dict[str, Any]) -> None:
    guard = found([*ROWS, row("reject", 11, **changed)])[name]
    assert guard["holds"] is None
    assert guard["words"].endswith("reject.")
    assert found([row("original", 100, **changed), *ROWS[1:]])[name]["holds"] is True  # it is no method


@pytest.mark.parametrize("independent", [True, False, None])
def test_the_judge_is_held_to_its_record(independent: bool | None) -> None:
    guard = found(independent_of_guide=independent)["judge"]
    assert guard["holds"] is independent
    assert "their errors correlate by 0.25; they disagree on 3.1 % of real images" in guard["words"]
    silent = found(independent_of_guide=None, error_correlation_with_guide=None, disagreement_with_guide=None)
    assert silent["judge"]["words"].endswith("is not known.")


def test_fewer_than_three_seeds_do_not_show_another_training() -> None:
    one = found([{**each, "seed": 1} for each in ROWS])["seeds"]
    two = found([{**each, "seed": min(each["seed"], 2)} for each in ROWS])["seeds"]
    assert (one["holds"], two["holds"]) == (False, False)
    assert one["words"].startswith("One seed")
    assert two["words"].startswith("Two seeds")


def test_the_judges_own_false_alarms_stand_beside_the_rates() -> None:
    assert "It assigns 0.4 % of real retained images" in found()["false alarms"]["words"]
    assert found(false_alarm_rate=None)["false alarms"]["holds"] is None


def test_the_terminal_says_which() -> None:
    lines = format_guards({"guards": list(found(without("retrained")).values())})
    assert len(lines) == 8
    assert lines[1].startswith("  NO  The distance to the target is not the only evidence. ")
    assert lines[2].startswith("   ?  No row forgets more than retraining does")
    assert lines[3].startswith(" yes  ")


class Sign(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([-x, x], 1)


def test_a_false_alarm_is_a_real_retained_sample_that_is_judged_forgotten() -> None:
    x = torch.tensor([[-1.0], [-2.0], [3.0], [-1.0], [2.0], [-5.0]])
    data = LabelledData("line", x, torch.tensor([0, 0, 0, 0, 1, 1]), ["left", "right"])
    record = judge_record(
        Classifier(Sign(), ["left", "right"]),
        None,
        data,
        name="",
        judge_data=None,
        guide_data=None,
        forget=[1],
    )
    assert record["false_alarm_rate"] == 0.25
