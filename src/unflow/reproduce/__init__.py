"""Papers made again: their tables and figures, our rows beside theirs."""

from __future__ import annotations

from unflow.reproduce.continualflow_2d import ContinualFlow2D
from unflow.reproduce.experiment import Experiment

__all__ = ["EXPERIMENTS", "ContinualFlow2D", "Experiment"]

EXPERIMENTS: dict[str, type[Experiment]] = {
    "continualflow-2d": ContinualFlow2D,
}
"""Name on the command line -> experiment."""
