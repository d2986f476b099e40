"""The table of measures, and the typed row of an audit: one home for every number and every verdict."""

from __future__ import annotations

import json
from typing import Any

import pytest
from glossary import GLOSSARY, with_measures

from unflow.evidence.auditing.gates import NUMBERS
from unflow.evidence.measures import COSTS, MEASURES, NO_FLOOR, TERMINAL
from unflow.evidence.row import (
    AuditRow,
    compare,
    find_reference,
    is_farther,
    judge_rows,
    numbers_in,
    read_rows,
    row_from_dict,
    sort_rows,
)
from unflow.ground.errors import InputError

ALL = (*MEASURES, *COSTS)


def test_every_measure_has_its_own_key_and_heading_and_a_definition() -> None:
    assert len({measure.key for measure in ALL}) == len(ALL)
    assert len({measure.heading for measure in ALL}) == len(ALL)
    assert all(measure.definition.endswith(".") for measure in ALL)


def test_a_number_is_written_in_its_unit_with_its_decimals() -> None:
    rate = next(measure for measure in MEASURES if measure.key == "forget_rate")
    assert rate.title == "forgotten left, %"
    assert rate.write(0.01234) == "1.23"
    assert rate.write(0.01234, 0.002) == "1.23 ± 0.20"
    assert rate.write(None) == "–"


def test_every_measure_can_be_a_gate() -> None:
    assert {measure.key for measure in ALL} <= set(NUMBERS)


def test_the_glossary_has_the_definitions_of_the_table() -> None:
    """``python benchmarks/glossary.py`` writes it."""
    text = GLOSSARY.read_text()
    assert with_measures(text) == text
    assert all(measure.definition in text for measure in TERMINAL)


# Rows


def row(method: str, rate: float | None = None, n: int | None = 1000, **more: Any) -> AuditRow:
    return AuditRow(family="flow", method=method, seed=1, n=n, measures={"forget_rate": rate}, **more)


def test_a_row_is_read_as_it_was_written() -> None:
    one = row(
        "uot",
        0.01,
        data_used=["guide"],
        options={"tau": 1.0},
        class_counts=[1, 2],
        further={"as_in_paper": {"mmd": 0.5}},
    )
    again = row_from_dict(json.loads(json.dumps(one.as_dict())))
    assert again == one
    assert again["as_in_paper"] == {"mmd": 0.5}
    assert again["forget_rate"] == again.require("forget_rate") == 0.01


def test_the_verdicts_are_no_field_of_the_file() -> None:
    judged = judge_rows([row("retrained", 0.05), row("uot", 0.01)])[1]
    assert judged.over_forgets
    assert "against_retrained" not in judged.as_dict()
    assert read_rows([row("retrained", 0.05).as_dict(), judged.as_dict()])[1] == judged


@pytest.mark.parametrize(
    ("rate", "verdict"), [(0.035, "fewer"), (0.04, "alike"), (0.06, "alike"), (0.065, "more")]
)
def test_two_standard_errors_of_the_retrained_model_tell_shares_apart(rate: float, verdict: str) -> None:
    """2 sqrt(0.05 0.95 / 1000) = 0.0138."""
    assert compare(row("uot", rate), row("retrained", 0.05)) == verdict


def test_what_was_not_measured_is_not_compared() -> None:
    assert compare(row("uot"), row("retrained", 0.05)) is None
    assert compare(row("uot", 0.1), None) is None
    with pytest.raises(InputError, match="got the row flow-uot without fid_target"):
        row("uot", 0.1).require("fid_target")


def test_references_come_first_and_a_retrained_model_before_the_target() -> None:
    rows = [row("uot"), row("retrained"), row("original"), row("target"), row("erfm")]
    assert [each.method for each in sort_rows(rows)] == ["original", "target", "retrained", "uot", "erfm"]
    found = find_reference(rows, "flow")
    assert found is not None
    assert found.method == "retrained"


def test_half_a_68_percent_interval_has_a_length_at_0() -> None:
    assert row("uot", 0.0).half_width == pytest.approx(0.0005, rel=0.01)
    assert row("uot", 0.1).half_width == pytest.approx((0.1 * 0.9 / 1000) ** 0.5, rel=0.01)
    assert row("uot", 0.1, n=None).half_width is None


def test_a_distance_is_larger_where_the_difference_exceeds_both_intervals() -> None:
    def at(distance: float, half: float | None) -> AuditRow:
        ends = None if half is None else {"fid_target": [distance - half, distance + half]}
        return AuditRow(family="flow", method="uot", measures={"fid_target": distance}, intervals=ends)

    assert is_farther(at(3.0, 0.3), at(2.0, 0.4))
    assert not is_farther(at(2.4, 0.3), at(2.0, 0.4))
    assert is_farther(at(2.4, None), at(2.0, 0.4))  # without an interval the numbers themselves decide


def test_numbers_of_intervals_end_in_low_and_high_and_flags_are_no_numbers() -> None:
    record = {"a": 1, "flag": True, "intervals": {"a": [0.5, 1.5], "b": None}, "cost": {"steps": 3}}
    assert numbers_in(record) == {
        "a": 1.0,
        "intervals.a.low": 0.5,
        "intervals.a.high": 1.5,
        "cost.steps": 3.0,
    }


def test_the_floor_has_the_distances_to_the_target() -> None:
    assert set(NO_FLOOR) == {"fid_target", "mmd_target", "c2st_target"}
