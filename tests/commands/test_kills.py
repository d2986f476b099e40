"""Kills at random times: the repeated command leaves the same files in the same bits, and nothing else."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "kills.py"


def try_kills(*options: str) -> dict[str, object]:
    """The result of the benchmark, whose last lines are JSON."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *options],
        capture_output=True,
        text=True,
        check=False,
        env=dict(os.environ),
    )
    assert "{\n" in done.stdout, done.stderr
    return json.loads(done.stdout[done.stdout.index("{\n") :])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the benchmark forks its commands")
def test_a_few_kills_at_random_times_change_nothing() -> None:
    assert try_kills("--kills", "1", "--only", "train,unlearn,sample", "--seed", "5")["wrong"] == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the benchmark forks its commands")
def test_a_second_call_continues_the_record_with_the_kills_that_it_lacks(tmp_path: Path) -> None:
    options = "--only", "split", "--out", str(tmp_path / "kills.jsonl"), "--kills"
    try_kills(*options, "1")
    first = (tmp_path / "kills.jsonl").read_text()
    assert try_kills(*options, "2")["passed"] == 2
    both = (tmp_path / "kills.jsonl").read_text()
    assert both.startswith(first)
    assert [json.loads(line)["k"] for line in both.splitlines()] == [0, 1]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the benchmark forks its commands")
def test_kills_of_every_command_change_nothing() -> None:
    assert try_kills("--kills", "3")["wrong"] == []
