"""The wheel holds all that the commands need: installed alone, far from the sources, it works."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    done = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    (path,) = out.glob("unflow-*.whl")
    return path


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("installed") / "site"
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--no-index",
            "--target",
            str(folder),
            str(wheel),
        ],
        check=True,
        timeout=300,
    )
    return folder


def run(site: Path, cwd: Path, *words: str) -> subprocess.CompletedProcess[str]:
    threads = {"OMP_WAIT_POLICY": "PASSIVE", "OPENBLAS_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        cwd=cwd,
        env=os.environ | threads | {"PYTHONPATH": str(site)},
    )


def test_the_wheel_holds_every_file_of_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        metadata = next(n for n in archive.namelist() if n.endswith("/METADATA"))
        text = archive.read(metadata).decode()
        assert any(n.endswith("/LICENSE") for n in archive.namelist())
    package = ROOT / "src" / "unflow"
    sources = {
        str(Path("unflow") / file.relative_to(package))
        for file in package.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert names == sources
    assert {
        "unflow/py.typed",
        "unflow/evidence/report/report.html.j2",
        "unflow/commands/recipes/digits-flow.yaml",
    } <= names
    assert "Requires-Dist: torch>=2.6" in text


def test_the_installed_package_is_the_one_that_runs(site: Path, tmp_path: Path) -> None:
    done = run(site, tmp_path, "-c", "import unflow; print(unflow.__file__)")
    assert Path(done.stdout.strip()).is_relative_to(site), done.stdout + done.stderr


def test_the_installed_commands_find_recipes_and_template(site: Path, tmp_path: Path) -> None:
    doctor = run(site, tmp_path, "-m", "unflow", "doctor")
    assert doctor.returncode == 0, doctor.stderr
    assert "torch" in doctor.stdout
    words = ("train", "digits-guide", "--settings.steps", "5", "--out", "guide")
    trained = run(site, tmp_path, "-m", "unflow", *words)
    assert trained.returncode == 0, trained.stderr
    assert (tmp_path / "guide" / "config.json").is_file()
    script = (
        "from importlib.resources import files\n"
        "print(len(files('unflow.evidence.report').joinpath('report.html.j2').read_text()))"
    )
    template = run(site, tmp_path, "-c", script)
    assert int(template.stdout) > 1000


def test_the_console_command_is_declared(site: Path) -> None:
    assert (site / "bin" / "unflow").is_file() or (site / "Scripts" / "unflow.exe").is_file()
