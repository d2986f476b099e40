"""Where the losses of a training may go, beside its own metrics.jsonl."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, Literal

from unflow.commands.runs import LOGS, is_first_process
from unflow.ground.errors import InputError

Logger = Literal["csv", "tensorboard", "wandb", "none"]
PROJECT = "unflow"
"""Of Weights & Biases, unless WANDB_PROJECT names another."""


class WandbLogger:
    """One run of Weights & Biases, as Lightning Fabric asks for a logger; it begins with the first losses.

    Lightning's own one is in pytorch-lightning, which brings another copy of Fabric along.

    Args:
        folder: for its files.
        name: of the run.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._wandb, self._folder, self._name = importlib.import_module("wandb"), folder, name
        self._run: Any = None

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Send what was measured at a step, from the first process alone."""
        if not is_first_process():
            return
        if self._run is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            project = self._wandb.Settings().project or PROJECT
            self._run = self._wandb.init(project=project, name=self._name, dir=self._folder)
        self._run.log(metrics, step=step)


def make_loggers(name: Logger, out: Path) -> list[Any]:
    """Return the loggers that were asked for; they write to OUT/logs.

    Raises:
        InputError: if the package that one needs is not installed.
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
