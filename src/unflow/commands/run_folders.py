"""Run folders: each belongs to one command with one configuration."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from unflow.ground.errors import InputError, RunFailedError, TrainingDivergedError, explain, locate
from unflow.ground.files import read_yaml, write_bytes
from unflow.ground.locks import is_first_process, lock_folder
from unflow.ground.memory import is_out_of_memory

CONFIG = "config.yaml"
LOGS = "logs"
"""The folder of loggers within a run folder."""


def open_run(out: str | Path, config: dict[str, Any]) -> Path:
    """Make or reopen a run folder, and write the configuration of the run.

    Args:
        out: the folder: new, empty, or that of a run with the same configuration, which continues.
        config: plain data; its key ``command`` holds the name of the command.

    Raises:
        InputError: if the folder holds other files, or a run with another configuration.
    """
    out = Path(out)
    text = yaml.safe_dump(config, sort_keys=False)
    if not is_first_process():
        return out  # the first process checks and writes it
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; expected a folder for results: choose another --out")
    if (out / CONFIG).is_file():
        _check_same(out, read_yaml(out / CONFIG), yaml.safe_load(text))
    elif out.is_dir() and any(not entry.name.startswith(".") for entry in out.iterdir()):
        raise InputError(
            f"{out} is not empty and holds no run of unflow; expected a new or empty folder: choose "
            "another --out"
        )
    out.mkdir(parents=True, exist_ok=True)
    write_bytes(out / CONFIG, text.encode())
    return out


@contextmanager
def run_folder(out: str | Path, config: dict[str, Any]) -> Iterator[Path]:
    """Open and lock a run folder; undo that if the work inside fails before its first checkpoint or result.

    Raises:
        InputError: as ``open_run`` and ``lock_folder``, and as the work inside.
        TrainingDivergedError: as the work inside; the message mentions a checkpoint that is kept.
        RunFailedError: for other errors of the work inside, with their first line and place.
    """
    out = Path(out)
    if out.exists() and not out.is_dir():
        open_run(out, config)  # refuses it
    with lock_folder(out), _open_or_undo(out, config):
        yield out


@contextmanager
def _open_or_undo(out: Path, config: dict[str, Any]) -> Iterator[None]:
    new = not (out / CONFIG).exists()
    open_run(out, config)
    try:
        yield
    except Exception as error:
        kept = _holds_results(out)
        if new and not kept:
            _undo(out)
        if isinstance(error, TrainingDivergedError) and kept:
            raise TrainingDivergedError(
                f"{error}; {out} keeps a checkpoint from before the divergence: choose another --out"
            ) from error
        if isinstance(error, InputError | TrainingDivergedError | OSError) or is_out_of_memory(error):
            raise
        raise RunFailedError(describe_failure(error, out if kept else None)) from error


def describe_failure(error: Exception, kept: Path | None) -> str:
    """Return the first line of an error in the middle of a run, where it was raised, and how to go on."""
    state = (
        "nothing is kept of this run"
        if kept is None
        else f"{kept} keeps what was done before, so it continues"
    )
    return (
        f"{explain(error)}, at {locate(error)}; expected the function to return a result: correct it and "
        f"run the same command again ({state})"
    )


def _holds_results(out: Path) -> bool:
    """Return whether a run folder holds a checkpoint, a bundle, an audit or other finished results."""
    from unflow.training.loop import CHECKPOINT

    files = (*out.rglob(CHECKPOINT), *out.rglob("*.json"))
    return any(file.name != "split.json" for file in files)


def _undo(out: Path) -> None:
    """Remove the files of a new run; the lock removes a folder that it made."""
    if not is_first_process():
        return
    for entry in list(out.iterdir()):
        if not entry.name.startswith("."):
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def _flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _check_same(out: Path, found: Any, config: dict[str, Any]) -> None:
    if not isinstance(found, dict):
        raise InputError(f"{out / CONFIG} is damaged; expected the configuration of a run")
    if found.get("command") != config["command"]:
        raise InputError(
            f"{out} holds a run of `unflow {found.get('command')}`; expected a new or empty folder: choose "
            "another --out"
        )
    found, config = _flatten(found), _flatten(config)
    names = [k for k in config.keys() | found.keys() if config.get(k) != found.get(k)]
    if names:
        changes = ", ".join(f"{k}: {found.get(k)} -> {config.get(k)}" for k in sorted(names))
        raise InputError(
            f"{out} holds a run with another configuration ({changes}); expected the same one to "
            "continue it: undo the change, or choose another --out"
        )
