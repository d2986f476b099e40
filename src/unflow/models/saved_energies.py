"""The energies that a saved ``Filtered`` can hold: the description of each as plain data, and back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn

from unflow.energies import (
    Anchor,
    AnchorLogOdds,
    AttributeLogOdds,
    Balanced,
    ClassLogOdds,
    Decoded,
    Energy,
    Minimum,
    MixtureLogOdds,
    Scaled,
    Softplus,
    Sum,
)
from unflow.energies.calibration import Tempered
from unflow.ground.errors import InputError, choose
from unflow.models.autoencoder import Autoencoder
from unflow.models.classifier import Classifier, Features
from unflow.nets import build_net, net_config

Config = dict[str, Any]


def describe_energy(energy: Energy) -> Config:
    """Return, as plain data, the description from which ``build_energy`` rebuilds an energy.

    Raises:
        InputError: for a function, classifier or decoder that cannot be described.
    """
    for name, saved in _ENERGIES.items():
        if type(energy) is saved.kind:
            return {"energy": name, **saved.describe(energy)}
    raise InputError(
        f"got an energy that cannot be described in a file ({energy.describe()}); expected ClassLogOdds of a "
        "Classifier, alone or in Softplus, scaled, balanced or combined: keep the model in memory, or use "
        "such an energy"
    )


def build_energy(config: Config) -> Energy:
    """Rebuild an energy, with fresh weights, from its description by ``describe_energy``.

    Raises:
        InputError: for an unknown energy.
        KeyError: for an incomplete description.
    """
    return choose(_ENERGIES, config["energy"], "energy").build(config)


class _SavedEnergy(NamedTuple):
    kind: type[Energy]
    describe: Callable[[Any], Config]
    build: Callable[[Config], Energy]


_ENERGIES = {
    "class_log_odds": _SavedEnergy(
        ClassLogOdds,
        lambda F: {"of": _describe_classifier(F.classifier), "forget": list(F.forget), "margin": F.margin},
        lambda c: ClassLogOdds(_build_classifier(c["of"]), c["forget"], c["margin"]),
    ),
    "softplus": _SavedEnergy(
        Softplus,
        lambda F: {"of": describe_energy(F.energy), "margin": F.margin},
        lambda c: Softplus(build_energy(c["of"]), c["margin"]),
    ),
    "scaled": _SavedEnergy(
        Scaled,
        lambda F: {"of": describe_energy(F.energy), "factor": F.factor},
        lambda c: Scaled(build_energy(c["of"]), c["factor"]),
    ),
    "balanced": _SavedEnergy(
        Balanced,
        lambda F: {
            "of": describe_energy(F.energy),
            "classifier": _describe_classifier(F.classifier),
            "forget": list(F.forget),
            "num_offsets": len(F.offsets),
        },
        lambda c: Balanced(
            build_energy(c["of"]), _build_classifier(c["classifier"]), c["forget"], [0.0] * c["num_offsets"]
        ),
    ),
    "sum": _SavedEnergy(
        Sum,
        lambda F: {"of": [describe_energy(part) for part in F.parts]},
        lambda c: Sum([build_energy(part) for part in c["of"]]),
    ),
    "minimum": _SavedEnergy(
        Minimum,
        lambda F: {"of": [describe_energy(part) for part in F.parts]},
        lambda c: Minimum([build_energy(part) for part in c["of"]]),
    ),
    "anchor": _SavedEnergy(
        Anchor,
        lambda F: {
            "extractor": _describe_extractor(F.extractor),
            "size": len(F.anchor),
            "kernel": F.kernel,
            "radius": F.radius,
        },
        lambda c: Anchor(
            _build_extractor(c["extractor"]), torch.ones(c["size"]), c["kernel"], radius=c["radius"]
        ),
    ),
    "anchor_log_odds": _SavedEnergy(
        AnchorLogOdds,
        lambda F: {"of": describe_energy(F.similarity), "margin": F.margin},
        lambda c: AnchorLogOdds(build_energy(c["of"]), 0.0, 1.0, c["margin"]),
    ),
    "mixture_log_odds": _SavedEnergy(
        MixtureLogOdds,
        lambda F: {
            "extractor": _describe_extractor(F.extractor),
            "size": len(F.origin),
            "parts": len(F.means),
            "rank": F.means.shape[1],
            "margin": F.margin,
        },
        lambda c: MixtureLogOdds(
            _build_extractor(c["extractor"]),
            torch.zeros(c["size"]),
            torch.zeros(c["size"], c["rank"]),
            torch.ones(c["parts"]),
            torch.zeros(c["parts"], c["rank"]),
            torch.eye(c["rank"]).repeat(c["parts"], 1, 1),
            c["margin"],
        ),
    ),
    "attribute_log_odds": _SavedEnergy(
        AttributeLogOdds,
        lambda F: {
            "extractor": _describe_extractor(F.extractor),
            "size": len(F.weight),
            "margin": F.margin,
            "name": F.name,
        },
        lambda c: AttributeLogOdds(
            _build_extractor(c["extractor"]), torch.zeros(c["size"]), 0.0, c["margin"], c["name"]
        ),
    ),
    "decoded": _SavedEnergy(
        Decoded,
        lambda F: {"of": describe_energy(F.energy), **_describe_autoencoder(F.autoencoder)},
        lambda c: Decoded(build_energy(c["of"]), Autoencoder.from_config(c)),
    ),
}
"""Name -> the class of an energy, its description as plain data, and how it is built from that."""


def _describe_classifier(classifier: nn.Module) -> Config:
    if isinstance(classifier, Tempered):
        return {"tempered": _describe_classifier(classifier.classifier)}
    return classifier.config() if isinstance(classifier, Classifier) else net_config(classifier)


def _build_classifier(config: Config) -> nn.Module:
    if "tempered" in config:  # the temperature is one of the weights
        return Tempered(_build_classifier(config["tempered"]), 1.0)
    return Classifier.from_config(config) if "classifier" in config else build_net(config)


def _describe_extractor(extractor: nn.Module) -> Config:
    if type(extractor) is nn.Flatten:
        return {"extractor": "flatten"}
    if isinstance(extractor, Features):
        return {"extractor": "features", "of": extractor.classifier.config()}
    raise InputError(
        f"got an energy behind a {type(extractor).__name__}, which cannot be described in a file; expected "
        "nn.Flatten, or models.classifier.Features of a Classifier"
    )


def _build_extractor(config: Config) -> nn.Module:
    if config["extractor"] == "flatten":
        return nn.Flatten()
    return Features(Classifier.from_config(config["of"]))


def _describe_autoencoder(autoencoder: nn.Module) -> Config:
    if not isinstance(autoencoder, Autoencoder):
        raise InputError(
            f"got an energy behind a {type(autoencoder).__name__}, which cannot be described in a file; "
            "expected an Autoencoder"
        )
    return autoencoder.config()
