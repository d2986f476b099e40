"""The time until a command answers: help without torch, refusals and samples soon after torch."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import get_type_hints

import pytest
import torch
from sklearn.datasets import load_digits

from unflow.commands.cli import COMMANDS
from unflow.commands.demo import run as run_demo
from unflow.commands.option_groups import TrainingOptions
from unflow.commands.settings import (
    ATTACKS,
    METHODS,
    TRAININGS,
    find_object,
    format_table,
    method_settings,
    read_table,
    settings_class,
)
from unflow.data import digits
from unflow.disk import bundle
from unflow.evidence.reproduce.demo import DemoConfig
from unflow.models import FlowMap
from unflow.nets import new_net
from unflow.training.compute import Precision

HEAVY = {"lightning_fabric", "sklearn", "scipy", "pandas", "matplotlib", "diffusers", "datasets", "rich"}
"""Packages that only a training, a measurement or a figure needs."""
FOR_HELP = HEAVY | {"torch", "numpy", "PIL", "jaxtyping"}
ROUNDS = 8
"""Measurements at most, of which the fastest counts: a busy machine makes each slower."""


def list_imported(lines: Sequence[str], names: set[str], folder: Path) -> set[str]:
    """The packages among ``names`` that one process has imported after all these commands."""
    script = (
        "import sys\nfrom unflow.commands.cli import main\n"
        f"for line in {list(lines)!r}:\n"
        "    try:\n        main(line.split())\n    except SystemExit:\n        pass\n"
        f"print(*sorted({names!r} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=folder, check=True
    )
    return set(done.stderr.splitlines()[-1].split())


@pytest.fixture(scope="module")
def flow_map(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("start") / "model"
    config = {"net": "mlp", "shape": [1, 8, 8], "num_times": 2, "width": 256, "depth": 3}
    bundle.save(FlowMap(new_net(config, seed=0), (1, 8, 8)).eval(), folder, {"method": "none"})
    return folder


def test_the_help_of_every_command_imports_nothing_that_takes_seconds(tmp_path: Path) -> None:
    methods = [f"unlearn --method {name} --help" for name in read_table()[METHODS]]
    trainings = [f"train --method {name} --help" for name in read_table()[TRAININGS]]
    lines = [*(f"{name} --help" for name in COMMANDS), *methods, *trainings]
    assert list_imported(lines, FOR_HELP, tmp_path) == set()


def test_an_error_in_the_options_is_found_without_torch(tmp_path: Path) -> None:
    lines = (
        "sample here --out there --n many",
        "sample here --out there --size 3",
        "unlearn --forget 3 --out there --method uott",
        "unlearn --model here --forget 3 --out there --method uot --settings.steps many",
        "train digits-flo --out there",
        "audit here --out there",
    )
    assert list_imported(lines, FOR_HELP, tmp_path) == set()


def test_a_refusal_waits_for_torch_alone(tmp_path: Path) -> None:
    lines = (
        "sample here --out there",
        "unlearn --model here --energy classifier:guide --forget 3 --out there",
        "unlearn --model here --energy classifier:guide --forget 3 --data digits --out there",
        "plan --model here --energy classifier:guide --forget 3",
        "audit here --original there --judge judge --forget 3 --split split.json --out audit",
        "train digits-flow --split missing.json --out there",
        "judge --split missing.json --out there",
        "split --data npz:missing.npz --out split.json",
        "split --data digits --out split.json --shares [0,0,0]",
        "export here --out weights.pth",
        "reproduce uot --out there",
        "report here",
        "demo --seeds 0",
    )
    assert list_imported(lines, HEAVY, tmp_path) == set()
    assert not list(tmp_path.iterdir())


def test_sampling_imports_no_trainer(flow_map: Path, tmp_path: Path) -> None:
    assert list_imported([f"sample {flow_map} --out samples"], HEAVY, tmp_path) == set()
    assert (tmp_path / "samples" / "samples.png").is_file()


# Seconds of processor time


def measure_seconds(words: list[str], folder: Path) -> float:
    """The processor time of a Python process; its byte code is on disk from the second time on."""
    environment = os.environ | {"PYTHONPYCACHEPREFIX": str(folder / "bytecode"), "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    before = os.times()
    subprocess.run([sys.executable, *words], capture_output=True, cwd=folder, env=environment, check=False)
    after = os.times()
    user = after.children_user - before.children_user
    return user + after.children_system - before.children_system


@pytest.mark.parametrize(
    ("words", "limit", "after_torch"),
    [
        ("unlearn --help", 0.8, False),
        ("unlearn --model here --energy classifier:guide --forget 3 --out there", 0.5, True),
        ("sample {flow_map} --n 64 --out samples", 1.0, True),
    ],
)
def test_a_command_starts_within_its_limit(
    words: str, limit: float, after_torch: bool, flow_map: Path, tmp_path: Path
) -> None:
    command = ["-m", "unflow", *words.format(flow_map=flow_map).split()]
    measure_seconds(command, tmp_path)  # writes the byte code
    torch_times, times = [0.0] if not after_torch else [], []
    for _ in range(ROUNDS):
        if after_torch:
            torch_times.append(measure_seconds(["-c", "import torch"], tmp_path))
        times.append(measure_seconds(command, tmp_path))
        if min(times) <= min(torch_times) + limit:
            return
    raise AssertionError(f"{words}: {min(times):.2f} s; torch: {min(torch_times):.2f} s; limit {limit} s")


# What stands in light modules is what the classes say


def test_the_table_of_settings_is_that_of_the_classes() -> None:
    written = files("unflow.commands").joinpath("settings.json").read_text()
    assert json.loads(written) == json.loads(format_table()), "write the table again: make settings"


@pytest.mark.parametrize("family", [METHODS, TRAININGS])
def test_settings_without_the_class_make_the_method_of_the_row(family: str) -> None:
    for name, method in find_object(family).items():
        assert method_settings(family, name)().make() == method


def test_settings_of_attacks_make_the_attacks() -> None:
    assert settings_class(ATTACKS)().make() == find_object(ATTACKS)()


def test_options_of_commands_are_those_of_the_records_behind_them() -> None:
    assert get_type_hints(TrainingOptions)["precision"] == Precision
    defaults = inspect.signature(run_demo).parameters
    for name in ("seed", "margin", "strength", "divergence", "flow_map", "n", "full", "device"):
        assert defaults[name].default == getattr(DemoConfig, name)


def test_digits_are_those_of_scikit_learn() -> None:
    ours, theirs = digits(), load_digits()
    assert torch.equal(ours.x.squeeze(1) * 8 + 8, torch.tensor(theirs.images, dtype=torch.float32))
    assert ours.labels.tolist() == theirs.target.tolist()
