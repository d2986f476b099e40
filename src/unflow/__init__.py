"""unflow: make a trained flow or one-step image generator forget, and show the evidence.

energy (what to forget) + divergence and strength (how hard)  ->  target (where the mass must go)
a method moves a model towards the target; an audit measures how far it still is
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "Target": "target", "Bank": "target",
    "Flow": "models", "FlowMap": "models", "Generator": "models", "Chain": "models",
    "Filtered": "models", "GenerativeModel": "models", "Latent": "models",
    "Autoencoder": "autoencoders", "Classifier": "classifiers", "InputError": "errors",
    "unlearn": "unlearning", "Unlearned": "unlearning", "plan": "planning", "Plan": "planning",
    "audit": "auditing", "Audit": "auditing",
    "save": "bundle", "load": "bundle", "load_classifier": "bundle", "load_autoencoder": "bundle",
    "from_pretrained": "pretrained", "save_pretrained": "pretrained", "push_to_hub": "pretrained",
    "fit": "training", "stream": "training", "Problem": "methods", "LowRank": "methods",
    "batch_rows": "batches",
}  # fmt: skip
_ROOMS = (
    "anchoring", "attacks", "calibration", "divergences", "energies", "paths", "couplings", "integrators",
    "methods", "metrics", "nets", "data", "models", "report", "testing", "weights",
)  # fmt: skip

__all__ = [*sorted(_HOME), *sorted(_ROOMS)]  # noqa: PLE0604

if TYPE_CHECKING:
    from unflow import (
        anchoring,
        attacks,
        calibration,
        couplings,
        data,
        divergences,
        energies,
        integrators,
        methods,
        metrics,
        models,
        nets,
        paths,
        report,
        testing,
        weights,
    )  # fmt: skip
    from unflow.auditing import Audit, audit
    from unflow.autoencoders import Autoencoder
    from unflow.batches import batch_rows
    from unflow.bundle import load, load_autoencoder, load_classifier, save
    from unflow.classifiers import Classifier
    from unflow.errors import InputError
    from unflow.methods import LowRank, Problem
    from unflow.models import Chain, Filtered, Flow, FlowMap, GenerativeModel, Generator, Latent
    from unflow.planning import Plan, plan
    from unflow.pretrained import from_pretrained, push_to_hub, save_pretrained
    from unflow.target import Bank, Target
    from unflow.training import fit, stream
    from unflow.unlearning import Unlearned, unlearn


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
