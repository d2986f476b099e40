"""Methods: one paper, one file, one frozen dataclass of hyper-parameters."""

from __future__ import annotations

from unflow.methods.base import Method, Problem, Training, settings
from unflow.methods.baselines.fine_tune import FineTune
from unflow.methods.baselines.gradient_ascent import GradientAscent
from unflow.methods.baselines.retrain import Retrain
from unflow.methods.classification import Classification
from unflow.methods.distill import Distill
from unflow.methods.erfm import ERFM
from unflow.methods.flow_matching import FlowMatching
from unflow.methods.mean_flow import MeanFlow
from unflow.methods.uot import UOT

__all__ = [
    "ERFM", "TRAINERS", "UNLEARNERS", "UOT", "Classification", "Distill", "FineTune",
    "FlowMatching", "GradientAscent", "MeanFlow", "Method", "Problem", "Retrain", "Training",
    "settings",
]  # fmt: skip

UNLEARNERS: dict[str, Method] = {
    "erfm": ERFM(),
    "erfm_resample": ERFM(weighting="resample", coupling="exact_ot", thin=True),
    "uot": UOT(),
    "uot_tilted": UOT(pool="tilted"),
    "gradient_ascent": GradientAscent(),
    "fine_tune": FineTune(),
    "retrained": Retrain(),
}
"""Row name -> method in its one default configuration; a variant carries its own name or options."""

TRAINERS: dict[str, Method] = {
    "flow_matching": FlowMatching(),
    "mean_flow": MeanFlow(),
    "distill": Distill(),
    "classification": Classification(),
}
"""What makes base models and classifiers."""
