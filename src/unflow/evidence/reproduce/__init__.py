"""Reproductions of papers: their tables and figures, with our rows beside the published ones."""

from __future__ import annotations

from unflow.evidence.reproduce.conditional import CONDITIONAL
from unflow.evidence.reproduce.continualflow_2d import ContinualFlow2D
from unflow.evidence.reproduce.continualflow_cifar10 import ContinualFlowCIFAR10
from unflow.evidence.reproduce.continualflow_mnist import ContinualFlowMNIST
from unflow.evidence.reproduce.experiment import Experiment
from unflow.evidence.reproduce.uot_2d import UOT2D
from unflow.evidence.reproduce.uot_cifar10 import UOTCIFAR10
from unflow.evidence.reproduce.uot_mnist import UOTMNIST

__all__ = [
    "CONDITIONAL",
    "EXPERIMENTS",
    "UOT2D",
    "UOTCIFAR10",
    "UOTMNIST",
    "ContinualFlow2D",
    "ContinualFlowCIFAR10",
    "ContinualFlowMNIST",
    "Experiment",
]

EXPERIMENTS: dict[str, type[Experiment]] = {
    "continualflow-2d": ContinualFlow2D,
    "continualflow-mnist": ContinualFlowMNIST,
    "continualflow-cifar10": ContinualFlowCIFAR10,
    "uot-2d": UOT2D,
    "uot-mnist": UOTMNIST,
    "uot-cifar10": UOTCIFAR10,
}
"""Name on the command line -> experiment."""
