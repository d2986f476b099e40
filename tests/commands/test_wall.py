"""Failures of the environment and of third-party code: one sentence, and nothing half-written."""

from __future__ import annotations

import errno
import os
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import unflow as uf
from unflow.commands import failures
from unflow.commands.cli import main
from unflow.commands.run_folders import run_folder
from unflow.disk import bundle
from unflow.ground import files
from unflow.ground.errors import InputError, RunFailedError, TrainingDivergedError
from unflow.ground.files import read_arrays, read_yaml, sha256_file, write_json
from unflow.nets import MLP
from unflow.training import loop
from unflow.training.loop import CHECKPOINT, fit
from unflow.training.method import Problem
from unflow.training.originals.flow_matching import FlowMatching
from unflow.training.run import Run

CONFIG = {"command": "train"}


@pytest.fixture
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        flow = uf.Flow(MLP((2,), 8, 1), (2,), steps=1)
    return bundle.save(flow, tmp_path / "flow")


def run(line: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    capsys.readouterr()
    code = main(shlex.split(line))
    return code, capsys.readouterr().err.removesuffix("\n")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO])
def test_a_disk_that_fails_is_one_sentence_and_leaves_nothing(
    number: int, saved: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("os.fsync", fail)
    before = sorted(Path.cwd().rglob("*"))
    code, sentence = run("sample flow --n 2 --out out", capsys)
    assert code == 1
    assert "\n" not in sentence
    assert f"out/config.yaml cannot be read or written ({os.strerror(number)})" in sentence
    assert sorted(Path.cwd().rglob("*")) == before


def test_a_name_that_no_disk_takes_is_bad_input(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, sentence = run(f"sample flow --n 2 --out {'a' * 300}", capsys)
    assert (code, "File name too long" in sentence) == (2, True)


def test_the_traceback_is_shown_if_it_is_asked_for(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("unforeseen")

    monkeypatch.setattr("unflow.foreign.load_whole", fail)
    assert main(shlex.split("sample flow --n 2 --out out")) == 2
    with pytest.raises(ZeroDivisionError, match="unforeseen"):
        main(shlex.split("sample flow --n 2 --out out --traceback"))


def test_memory_that_does_not_suffice_is_no_bad_input() -> None:
    code, sentence = failures.explain_failure(
        RuntimeError("DefaultCPUAllocator: you tried to allocate 4 bytes")
    )
    assert code == 2  # another error of torch
    words = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 8000000000 bytes."
    code, sentence = failures.explain_failure(RuntimeError(words))
    assert (code, "8.0 GB" in sentence) == (1, True)


def test_a_function_that_raises_takes_a_new_folder_back_and_keeps_one_with_a_checkpoint(
    tmp_path: Path,
) -> None:
    def carry_out(keep: bool) -> None:
        with run_folder(tmp_path / "deep" / "out", CONFIG) as out:
            if keep:
                (out / CHECKPOINT).touch()
            (out / "metrics.jsonl").touch()
            raise KeyError("my mistake\nsecond line")

    here = Path(__file__).name
    with pytest.raises(RunFailedError, match=rf"^KeyError: .*my mistake.*{here}:\d+.*nothing is kept"):
        carry_out(False)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(RunFailedError, match=r"run the same command again .*out keeps what was done"):
        carry_out(True)
    assert (tmp_path / "deep" / "out" / CHECKPOINT).exists()


def test_finished_results_are_kept_where_a_later_step_fails(tmp_path: Path) -> None:
    def fail() -> None:
        with run_folder(tmp_path / "out", CONFIG) as out:
            write_json(out / "audit.json", {})
            raise InputError("got a gate that this audit has not measured")

    with pytest.raises(InputError, match="gate"):
        fail()
    assert (tmp_path / "out" / "audit.json").exists()


def start(tmp_path: Path, x: torch.Tensor, on_step: Callable[[int], None] | None = None) -> None:
    problem = Problem(model=uf.Flow(MLP((2,), 8, 1), (2,)), data=x)
    fit(FlowMatching(steps=9, batch_size=8), problem, tmp_path, on_step=on_step)


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(64, 2, generator=torch.Generator().manual_seed(0))


def test_a_loss_that_is_not_logged_is_checked_before_a_checkpoint(
    x: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint is due at every step; the loss breaks at step 4 and is logged at step 9."""
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1.0)
    monkeypatch.setattr(loop, "RECORDS", 1)

    def spoil(step: int) -> None:
        if step == 3:
            x.fill_(float("nan"))

    with pytest.raises(TrainingDivergedError, match="became nan at step 9"):
        start(tmp_path, x, spoil)
    tensors, metadata = files.read_tensors(tmp_path / CHECKPOINT)
    assert metadata["step"] == 3
    assert all(bool(tensor.isfinite().all()) for tensor in tensors.values())


def test_weights_that_the_last_step_breaks_are_never_saved(
    x: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    advance = Run.advance

    def spoil(run: Run) -> dict[str, torch.Tensor]:
        losses = advance(run)
        if run.step == run.loop.steps:
            next(next(iter(run.parts.values())).net.parameters()).data.fill_(float("inf"))
        return losses

    monkeypatch.setattr(Run, "advance", spoil)
    with pytest.raises(TrainingDivergedError, match=r"the weight '.*' became NaN or infinite at step 9"):
        start(tmp_path, x)
    assert not (tmp_path / CHECKPOINT).exists()


def test_a_bundle_larger_than_its_weights_is_refused_before_it_is_built(saved: Path) -> None:
    config = files.read_json(saved / "config.json")
    for entry, value in (("width", 10**7), ("width", -1), ("depth", 10**9), ("frequencies", 10**9)):
        write_json(saved / "config.json", config | {"net": config["net"] | {entry: value}})
        with pytest.raises(InputError, match=r"config.json describes no model that can be built"):
            uf.load(saved)
    write_json(saved / "config.json", config | {"shape": [10**5, 10**5]})
    with pytest.raises(InputError, match="product of at most"):
        uf.load(saved)


@pytest.mark.parametrize("change", [torch.Tensor.long, torch.Tensor.bool, lambda x: x * float("nan")])
def test_weights_of_another_type_or_without_a_value_are_refused(change: object, saved: Path) -> None:
    assert callable(change)
    weights = saved / "model.safetensors"
    save_file({name: change(tensor) for name, tensor in load_file(weights).items()}, weights)
    config = files.read_json(saved / "config.json")
    write_json(saved / "config.json", config | {"sha256": sha256_file(weights)})
    with pytest.raises(InputError, match=r"model.safetensors (is of the type|holds NaN)"):
        uf.load(saved)


def test_aliases_that_grow_or_contain_themselves_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    bomb = "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
    for before, after in zip("abcdefg", "bcdefgh", strict=True):
        bomb += f"{after}: &{after} [{', '.join([f'*{before}'] * 10)}]\n"
    for text in (bomb, "a: &a [*a]\n"):
        path.write_text(text)
        with pytest.raises(InputError, match="aliases that contain themselves or expand"):
            read_yaml(path)
    path.write_text("a: &a [1, 2]\nb: *a\n")
    assert read_yaml(path) == {"a": [1, 2], "b": [1, 2]}


def test_a_pipe_or_a_device_is_never_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name in ("pipe", "zero"):
        with pytest.raises(InputError, match="a pipe, a device or a socket"):
            read_yaml(tmp_path / name)
        with pytest.raises(InputError, match="a pipe, a device or a socket"):
            read_arrays(tmp_path / name, ["x"], "arrays")


def test_brackets_and_aliases_on_the_command_line_are_limited(
    saved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for value in ("[" * 3000, "&a [*a]"):
        code, sentence = run(f"sample flow --n 2 --out '--seed={value}'", capsys)
        assert (code, "has " in sentence or "aliases" in sentence) == (2, True), sentence
