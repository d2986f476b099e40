"""Each network of benchmarks/misbehaving.py is refused before training in one sentence, or handled."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from unflow.commands.cli import main

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
misbehaving: Any = importlib.import_module("misbehaving")
sys.path.remove(str(BENCHMARKS))

METHOD_CANNOT = (
    "rounds",
    "guide rounds",
    "no_grad",
    "velocity no_grad",
    "fused attention under a jvp",
    "one label",
)


@pytest.fixture(autouse=True)
def beside_the_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The working directory of somebody who names the networks in a specification string."""
    monkeypatch.chdir(BENCHMARKS)
    monkeypatch.setattr(sys, "path", [*sys.path])


def test_there_are_many_ways_to_misbehave() -> None:
    refused = [name for name, case in misbehaving.CASES.items() if case.words != misbehaving.HANDLED]
    assert len(refused) >= 45
    assert set(METHOD_CANNOT) <= set(refused)


@pytest.mark.parametrize(
    "name",
    [
        # On two devices it repeats the laws of unused weights in test_training.py, from the shell.
        pytest.param(name, marks=pytest.mark.slow if "--devices" in case.arguments else [])
        for name, case in misbehaving.CASES.items()
    ],
)
def test_a_network_that_misbehaves_is_refused_in_one_sentence_or_handled(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["unlearn", *misbehaving.command(name), "--out", str(tmp_path / "out")]
    if "--devices" in words:  # the further processes run the first one's command line
        run = subprocess.run(
            [sys.executable, "-m", "unflow", *words], capture_output=True, text=True, check=False
        )
        code, said = run.returncode, run.stderr
    else:
        code, said = main(words), capsys.readouterr().err
    if misbehaving.CASES[name].words == misbehaving.HANDLED:
        assert code == 0, said
        return
    lines = [line for line in said.splitlines() if line.startswith("unflow unlearn: ")]
    assert code == 2
    assert len(lines) == 1
    assert "Traceback" not in said
    assert re.search(misbehaving.CASES[name].words, lines[0]), lines[0]
    assert "expected" in lines[0]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", METHOD_CANNOT)
def test_a_plan_calls_a_method_unfit_that_cannot_train_a_network(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", *misbehaving.command(name, "plan")]) == 0
    said = capsys.readouterr().out
    (line,) = (line for line in said.splitlines() if line.startswith(misbehaving.CASES[name].method))
    assert "  no: " in line
    assert re.search(misbehaving.CASES[name].words, line)
