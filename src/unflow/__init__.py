"""unflow makes a trained flow or one-step image generator forget, and shows the evidence.

An energy states what to forget. With a divergence and a strength it defines the target, the law that the
model should have. A method trains the model towards the target; an audit measures the remaining distance.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from unflow.ground import faces

__version__ = "0.1.0"

_NAMES = {
    "Target": "target",
    "Bank": "target",
    "Flow": "models",
    "FlowMap": "models",
    "Generator": "models",
    "Chain": "models",
    "Filtered": "models",
    "GenerativeModel": "models",
    "Latent": "models",
    "Autoencoder": "models.autoencoder",
    "Classifier": "models.classifier",
    "InputError": "ground.errors",
    "unlearn": "unlearning.unlearn",
    "Unlearned": "unlearning.unlearn",
    "RealSamples": "unlearning.problems",
    "plan": "unlearning.planning",
    "Plan": "unlearning.planning",
    "audit": "evidence.auditing",
    "Audit": "evidence.auditing",
    "save": "disk.bundle",
    "load": "disk.bundle",
    "load_classifier": "disk.bundle",
    "load_autoencoder": "disk.bundle",
    "from_pretrained": "unlearning.pretrained",
    "save_pretrained": "unlearning.pretrained",
    "push_to_hub": "unlearning.pretrained",
    "fit": "training.loop",
    "stream": "ground.streams",
    "Problem": "training.method",
    "LowRank": "training.low_rank",
    "Compute": "training.compute",
    "batch_rows": "ground.batches",
}
"""Name -> the module below unflow that defines it."""

_MODULES = {
    "anchoring": "energies.anchoring",
    "attacks": "evidence.attacks",
    "calibration": "energies.calibration",
    "couplings": "mathematics.couplings",
    "data": "data",
    "divergences": "mathematics.divergences",
    "energies": "energies",
    "integrators": "mathematics.integrators",
    "methods": "methods",
    "metrics": "evidence.metrics",
    "models": "models",
    "nets": "nets",
    "paths": "mathematics.paths",
    "report": "evidence.report",
    "testing": "training.checks",
    "weights": "disk.weights",
}
"""Public name of a module -> the module below unflow. Public names do not change when modules move."""

_RENAMED = {"hub": "disk.diffusers", "methods.base": "training.method"}
"""Deprecated public name of a module -> the module; its import warns."""

__all__ = [*sorted(_NAMES), *sorted(_MODULES)]  # noqa: PLE0604

faces.install(__name__, _MODULES, _RENAMED)

if TYPE_CHECKING:  # `X as X` exports a name to type checkers
    from unflow import data as data
    from unflow import energies as energies
    from unflow import methods as methods
    from unflow import models as models
    from unflow import nets as nets
    from unflow.disk import weights as weights
    from unflow.disk.bundle import load as load
    from unflow.disk.bundle import load_autoencoder as load_autoencoder
    from unflow.disk.bundle import load_classifier as load_classifier
    from unflow.disk.bundle import save as save
    from unflow.energies import anchoring as anchoring
    from unflow.energies import calibration as calibration
    from unflow.evidence import attacks as attacks
    from unflow.evidence import metrics as metrics
    from unflow.evidence import report as report
    from unflow.evidence.auditing import Audit as Audit
    from unflow.evidence.auditing import audit as audit
    from unflow.ground.batches import batch_rows as batch_rows
    from unflow.ground.errors import InputError as InputError
    from unflow.ground.streams import stream as stream
    from unflow.mathematics import couplings as couplings
    from unflow.mathematics import divergences as divergences
    from unflow.mathematics import integrators as integrators
    from unflow.mathematics import paths as paths
    from unflow.models import Chain as Chain
    from unflow.models import Filtered as Filtered
    from unflow.models import Flow as Flow
    from unflow.models import FlowMap as FlowMap
    from unflow.models import GenerativeModel as GenerativeModel
    from unflow.models import Generator as Generator
    from unflow.models import Latent as Latent
    from unflow.models.autoencoder import Autoencoder as Autoencoder
    from unflow.models.classifier import Classifier as Classifier
    from unflow.target import Bank as Bank
    from unflow.target import Target as Target
    from unflow.training import checks as testing
    from unflow.training.compute import Compute as Compute
    from unflow.training.loop import fit as fit
    from unflow.training.low_rank import LowRank as LowRank
    from unflow.training.method import Problem as Problem
    from unflow.unlearning.planning import Plan as Plan
    from unflow.unlearning.planning import plan as plan
    from unflow.unlearning.pretrained import from_pretrained as from_pretrained
    from unflow.unlearning.pretrained import push_to_hub as push_to_hub
    from unflow.unlearning.pretrained import save_pretrained as save_pretrained
    from unflow.unlearning.problems import RealSamples as RealSamples
    from unflow.unlearning.unlearn import Unlearned as Unlearned
    from unflow.unlearning.unlearn import unlearn as unlearn


def __getattr__(name: str) -> Any:
    """Import on first use, so that ``unflow --help`` does not wait for torch."""
    if name in _NAMES:
        value = getattr(importlib.import_module(f"unflow.{_NAMES[name]}"), name)
        globals()[name] = value
        return value
    if name in _MODULES:
        return importlib.import_module(f"unflow.{name}")
    raise AttributeError(f"module 'unflow' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
