"""Loggers by name: the metrics they receive, and the message where their package is missing."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from unflow.commands.loggers import make_loggers
from unflow.ground.errors import InputError


def test_csv_writes_what_it_is_given(tmp_path: Path) -> None:
    (logger,) = make_loggers("csv", tmp_path)
    logger.log_metrics({"loss": 0.5}, step=10)
    (file,) = tmp_path.glob("logs/**/metrics.csv")
    (row,) = csv.DictReader(file.read_text().splitlines())
    assert (float(row["loss"]), int(row["step"])) == (0.5, 10)


def test_no_logger_is_none(tmp_path: Path) -> None:
    assert make_loggers("none", tmp_path) == []


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_missing_package_is_one_sentence_with_the_extra(
    name: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("tensorboard", "tensorboardX", "wandb"):
        monkeypatch.setitem(sys.modules, module, None)
    import lightning_fabric.loggers.tensorboard as fabric

    monkeypatch.setattr(fabric, "_TENSORBOARD_AVAILABLE", False)
    monkeypatch.setattr(fabric, "_TENSORBOARDX_AVAILABLE", False)
    with pytest.raises(InputError, match=rf"{name} is not installed; .* pip install 'unflow\[{name}\]'"):
        make_loggers(name, tmp_path)
    assert not (tmp_path / "logs").exists()


def test_a_run_of_wandb_begins_with_the_first_losses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[dict[str, Any]] = []
    logged: list[tuple[dict[str, float], int]] = []

    def init(**options: Any) -> Any:
        begun.append(options)
        return SimpleNamespace(log=lambda metrics, step: logged.append((metrics, step)))

    package = SimpleNamespace(init=init, Settings=lambda: SimpleNamespace(project=None))
    monkeypatch.setitem(sys.modules, "wandb", package)
    (logger,) = make_loggers("wandb", tmp_path / "forgotten")
    assert begun == []
    for step in (10, 20):
        logger.log_metrics({"loss": 1 / step}, step)
    assert begun == [{"project": "unflow", "name": "forgotten", "dir": tmp_path / "forgotten" / "logs"}]
    monkeypatch.setenv("LOCAL_RANK", "1")
    logger.log_metrics({"loss": 0.0}, 30)  # of another process, which has the same losses
    assert logged == [({"loss": 0.1}, 10), ({"loss": 0.05}, 20)]
