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


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The record of one kill of each of four commands."""
    file = tmp_path_factory.mktemp("kills") / "kills.jsonl"
    found = try_kills(
        "--kills", "1", "--only", "split,train,unlearn,sample", "--seed", "5", "--out", str(file)
    )
    assert found["passed"] == 4, found
    assert found["wrong"] == []
    return file


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the benchmark forks its commands")
def test_a_few_kills_at_random_times_change_nothing(record: Path) -> None:
    lines = [json.loads(line) for line in record.read_text().splitlines()]
    assert [(line["command"], line["k"], line["fault"]) for line in lines] == [
        (name, 0, "") for name in ("split", "train", "unlearn", "sample")
    ]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the benchmark forks its commands")
def test_a_second_call_continues_the_record_with_the_kills_that_it_lacks(record: Path) -> None:
    first = record.read_text()
    assert try_kills("--kills", "2", "--only", "split", "--seed", "5", "--out", str(record))["passed"] == 2
    both = record.read_text()
    assert both.startswith(first)
    assert [(line["command"], line["k"]) for line in map(json.loads, both[len(first) :].splitlines())] == [
        ("split", 1)
    ]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the benchmark forks its commands")
def test_kills_of_every_command_change_nothing() -> None:
    assert try_kills("--kills", "3")["wrong"] == []
