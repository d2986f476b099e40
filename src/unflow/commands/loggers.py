"""Loggers, which receive the losses of a training beside metrics.jsonl."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, Literal

from unflow.commands.run_folders import LOGS
from unflow.ground.errors import InputError
from unflow.ground.locks import is_first_process

Logger = Literal["csv", "tensorboard", "wandb", "none"]
PROJECT = "unflow"
"""Project of Weights & Biases, unless WANDB_PROJECT names another."""


class WandbLogger:
    """A logger for Lightning Fabric that writes one run of Weights & Biases.

    The run begins with the first losses. Lightning's own logger is in pytorch-lightning, which installs a
    second copy of Fabric.

    Args:
        folder: for its files.
        name: of the run.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._wandb, self._folder, self._name = importlib.import_module("wandb"), folder, name
        self._run: Any = None

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Send the metrics of a step, from the first process only."""
        if not is_first_process():
            return
        if self._run is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            project = self._wandb.Settings().project or PROJECT
            self._run = self._wandb.init(project=project, name=self._name, dir=self._folder)
        self._run.log(metrics, step=step)


def make_loggers(name: Logger, out: Path) -> list[Any]:
    """Return the loggers of a name; they write to OUT/logs.

    Raises:
        InputError: if the package of a logger is not installed.
    """
    if name == "none":
        return []
    from lightning_fabric.loggers.csv_logs import CSVLogger  # takes seconds to import
    from lightning_fabric.loggers.tensorboard import TensorBoardLogger

    folder = out / LOGS
    try:
        match name:
            case "csv":
                return [CSVLogger(folder, name="", flush_logs_every_n_steps=1)]
            case "tensorboard":
                return [TensorBoardLogger(folder, name="")]
            case "wandb":
                return [WandbLogger(folder, out.name)]
    except ModuleNotFoundError as error:
        raise InputError(
            f"got --logger {name}, and {name} is not installed; expected it: write pip install "
            f"'unflow[{name}]'"
        ) from error
