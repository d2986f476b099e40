"""The examples run as they stand, on small settings, and end as their story says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).parent.parent / "examples"
SMALL = {
    "somebody_elses_gan": ["--gan-steps", "60", "--steps", "20"],
    "flow_with_time_reversed": ["--flow-steps", "60", "--steps", "20"],
}


def run(name: str, out: Path) -> str:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / f"{name}.py"), *SMALL[name], "--out", str(out)],
        capture_output=True, text=True, check=False, timeout=300,
        env=os.environ | {"OMP_WAIT_POLICY": "PASSIVE", "OPENBLAS_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_example_is_run() -> None:
    assert {file.stem for file in EXAMPLES.glob("*.py")} == SMALL.keys()


@pytest.mark.parametrize("name", SMALL)
def test_an_example_tells_its_story(name: str, tmp_path: Path) -> None:
    printed = run(name, tmp_path / "out")
    assert "before" in printed
    assert "after" in printed
    assert list(tmp_path.rglob("model.safetensors"))


def test_the_gans_checkpoint_comes_back_in_its_layout_and_without_its_discriminator(tmp_path: Path) -> None:
    run("somebody_elses_gan", tmp_path)
    before, after = (
        torch.load(tmp_path / f"{name}.pth", weights_only=True) for name in ("gan", "gan-forgotten")
    )
    assert before.keys() == {"generator", "discriminator", "step"}
    assert after.keys() == {"generator"}
    assert after["generator"].keys() == before["generator"].keys()
    assert any(not torch.equal(after["generator"][k], before["generator"][k]) for k in after["generator"])
