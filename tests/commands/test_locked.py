"""Two commands in one folder at once, and what a kill leaves beside a finished result."""

import subprocess
import sys
from pathlib import Path

import pytest

from unflow.commands.cli import main
from unflow.ground.locks import LOCK
from unflow.training.loop import CHECKPOINT, EARLIER, PREPARED

TRAIN = "train digits-flow --out done --settings.steps 2 --settings.batch_size 8"
HOLD = """
import sys, time
from unflow.ground.locks import lock_folder
with lock_folder("done"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("command", [TRAIN, "demo --out done", "reproduce continualflow-2d --out done"])
def test_a_second_command_in_a_folder_is_refused_in_one_sentence(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        first.stdout.readline()
        assert main(command.split()) == 2
        first.kill()
    error = capsys.readouterr().err
    assert f"done is in use by the process {first.pid}" in error
    assert error.count("\n") == 1
    assert [each.name for each in Path("done").iterdir()] == [LOCK]


def test_a_repeated_command_removes_what_a_kill_left_beside_a_finished_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kill came between config.json, which completes the bundle, and the end of the command."""
    monkeypatch.chdir(tmp_path)
    assert main(TRAIN.split()) == 0
    whole = {path: path.read_bytes() for path in Path("done").rglob("*") if path.is_file()}
    for name in (CHECKPOINT, PREPARED):
        Path("done", name).write_bytes(b"samples of the original")
    assert main(TRAIN.split()) == 0
    assert {path: path.read_bytes() for path in Path("done").rglob("*") if path.is_file()} == whole


def test_unlearn_removes_them_too_and_those_of_its_earlier_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from unflow.energies import CallableEnergy
    from unflow.methods import LatentTransport
    from unflow.models import Generator
    from unflow.nets import MLP
    from unflow.target import Target
    from unflow.unlearning.unlearn import unlearn

    monkeypatch.chdir(tmp_path)
    net = MLP([2], 4, 1, 0)
    net.last.weight.data.fill_(0.5)
    target = Target(Generator(net, [2]), CallableEnergy(lambda x: x[:, 0].sigmoid(), lower_bound=0.0), 1.0)
    small = LatentTransport(steps=2, batch_size=8, bank_size=64)
    unlearn(target, small, "done")
    kept = sorted(path.name for path in Path("done").rglob("*"))
    Path("done", EARLIER).mkdir(exist_ok=True)
    for folder in ("done", f"done/{EARLIER}"):
        for name in (CHECKPOINT, PREPARED):
            Path(folder, name).touch()
    unlearn(target, small, "done")
    left = sorted(path.name for path in Path("done").rglob("*") if path.name != EARLIER)
    assert left == [name for name in kept if name != EARLIER]
