"""Gates: what passes, what fails, and what was not measured."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unflow.evidence.auditing.gates import COMPARE, NUMBERS, Gate, list_failures
from unflow.evidence.condition_attacks import CONDITION_ATTACKS
from unflow.evidence.row import numbers_in, row_from_dict
from unflow.ground.errors import InputError

RECORD = {
    "family": "flow",
    "method": "uot",
    "forget_rate": 0.02,
    "pul": 80,
    "c2st_target": None,
    "original_recoverable": True,
    "intervals": {"forget_rate": [0.015, 0.025], "fid_target": None},
    "told_apart": {"target": {"auc": 0.6}},
    "class_counts": [1, 2],
}
ROW = row_from_dict(RECORD)


@pytest.mark.parametrize(
    ("text", "fails"),
    [
        ("forget_rate>0.01", True),
        ("forget_rate>0.02", False),
        ("forget_rate >= 2e-2", True),
        ("pul<90", True),
        ("pul <= 79.5", False),
        ("intervals.forget_rate.high>0.02", True),
        ("intervals.forget_rate.low > .02", False),
        ("told_apart.target.auc>0.55", True),
    ],
)
def test_a_gate_compares(text: str, fails: bool) -> None:
    assert Gate.parse(text).fails(ROW) is fails


@given(st.sampled_from(sorted(COMPARE)), st.floats(-1e6, 1e6), st.sampled_from(NUMBERS))
def test_a_gate_is_what_it_is_written_as(sign: str, bound: float, name: str) -> None:
    gate = Gate.parse(f" {name} {sign} {bound!r} ")
    assert gate == Gate(name, sign, bound)
    assert Gate.parse(str(gate)).sign == sign


@pytest.mark.parametrize("text", ["", "forget_rate", "forget_rate>", ">0.1", "pul=3", "pul>1.2.3", "pul>1;x"])
def test_what_is_no_gate_is_refused(text: str) -> None:
    with pytest.raises(
        InputError, match=r"expected a name, a comparison and a number, like 'forget_rate>0.01'"
    ):
        Gate.parse(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("c2st_target>0.6", "has not measured"),
        ("intervals.fid_target.high>1", "has not measured"),
        ("cost.nfe>1", "expected one of forget_rate, intervals.forget_rate.high"),
    ],
)
def test_what_was_not_measured_passes_no_gate(text: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        Gate.parse(text).fails(ROW)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("forget_rat>0.02", "which no audit measures; did you mean forget_rate"),
        ("intervals.forget_rate.hi>1", "did you mean intervals.forget_rate.high"),
        ("method>1", "which no audit measures"),
        ("zzz>1", "expected one of forget_rate, second_forget_rate"),
    ],
)
def test_a_name_that_no_audit_measures_is_no_gate(text: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        Gate.parse(text)


def test_numbers_are_found_inwards_and_flags_are_none() -> None:
    assert numbers_in(RECORD) == {
        "forget_rate": 0.02,
        "pul": 80.0,
        "intervals.forget_rate.low": 0.015,
        "intervals.forget_rate.high": 0.025,
        "told_apart.target.auc": 0.6,
    }


def test_failed_gates_are_named_with_their_values() -> None:
    gates = [Gate.parse("forget_rate>0.01"), Gate.parse("pul<50"), Gate.parse("pul<90")]
    assert list_failures(gates, ROW) == ["forget_rate>0.01: it is 0.02", "pul<90: it is 80"]


@pytest.mark.parametrize("text", ["forget_rate>1e999", "forget_rate<-1e999"])
def test_a_gate_that_never_or_always_fails_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="whose number is infinite"):
        Gate.parse(text)


def test_every_attack_over_the_condition_has_a_gate() -> None:
    for attack in CONDITION_ATTACKS:
        row = row_from_dict(RECORD | {"attacked": {attack: 0.3, "intervals": {attack: [0.2, 0.4]}}})
        assert Gate.parse(f"attacked.{attack}>0.2").fails(row)
        assert not Gate.parse(f"attacked.intervals.{attack}.high>0.5").fails(row)
