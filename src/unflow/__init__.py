"""unflow: make a trained flow or one-step image generator forget, and show the evidence.

energy (what to forget) + divergence and strength (how hard)  ->  target (where the mass must go)
a method moves a model towards the target; an audit measures how far it still is
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from unflow.ground import faces

__version__ = "0.1.0"

_HOME = {
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
    "batch_rows": "ground.batches",
}
"""Name -> the module below unflow that has it."""

_ROOMS = {
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
"""Public name of a module -> where it stands. Its public name stays, wherever it stands."""

_RENAMED = {"hub": "disk.diffusers", "methods.base": "training.method"}
"""Public names that have a better one now, which they warn of."""

__all__ = [*sorted(_HOME), *sorted(_ROOMS)]  # noqa: PLE0604

faces.install(__name__, _ROOMS, _RENAMED)

if TYPE_CHECKING:
    from unflow import data, energies, methods, models, nets
    from unflow.disk import weights
    from unflow.disk.bundle import load, load_autoencoder, load_classifier, save
    from unflow.energies import anchoring, calibration
    from unflow.evidence import attacks, metrics, report
    from unflow.evidence.auditing import Audit, audit
    from unflow.ground.batches import batch_rows
    from unflow.ground.errors import InputError
    from unflow.ground.streams import stream
    from unflow.mathematics import couplings, divergences, integrators, paths
    from unflow.models import Chain, Filtered, Flow, FlowMap, GenerativeModel, Generator, Latent
    from unflow.models.autoencoder import Autoencoder
    from unflow.models.classifier import Classifier
    from unflow.target import Bank, Target
    from unflow.training import checks as testing
    from unflow.training.loop import fit
    from unflow.training.low_rank import LowRank
    from unflow.training.method import Problem
    from unflow.unlearning.planning import Plan, plan
    from unflow.unlearning.pretrained import from_pretrained, push_to_hub, save_pretrained
    from unflow.unlearning.unlearn import Unlearned, unlearn


def __getattr__(name: str) -> Any:
    """Import on first use, so that ``unflow --help`` need not wait for torch."""
    if name in _HOME:
        value = getattr(importlib.import_module(f"unflow.{_HOME[name]}"), name)
        globals()[name] = value
        return value
    if name in _ROOMS:
        return importlib.import_module(f"unflow.{name}")
    raise AttributeError(f"module 'unflow' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
