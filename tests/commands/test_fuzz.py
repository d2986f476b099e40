"""Malformed inputs, drawn with a fixed seed, end in an exit code and a sentence."""

from __future__ import annotations

from pathlib import Path

import fuzz
import pytest


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fuzz.make_sound(tmp_path_factory.mktemp("sound"))


def check(n: int, seed: int, sound: Path) -> None:
    outcomes = fuzz.run_all(n, seed, sound)
    assert len(outcomes) == n
    assert [(str(each.case), each.faults, each.message) for each in outcomes if each.faults] == []
    codes = {outcome.code for outcome in outcomes}
    assert codes == {0, 1, 2}  # the generator reaches every end


@pytest.mark.filterwarnings("default")
def test_malformed_inputs_end_in_a_sentence(sound: Path) -> None:
    check(150, 0, sound)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_more_malformed_inputs_end_in_a_sentence(sound: Path) -> None:
    check(1000, 1, sound)
