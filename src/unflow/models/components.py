"""An energy as plain data, for a model that carries one (``Filtered``) and is kept in a file."""

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


def energy_config(energy: Energy) -> Config:
    """Return what ``energy_from_config`` needs to rebuild an energy, with fresh weights.

    Raises:
        InputError: for a function, classifier or decoder that cannot be described.
    """
    for name, form in _FORMS.items():
        if type(energy) is form.kind:
            return {"energy": name, **form.config(energy)}
    raise InputError(
        f"got an energy that cannot be described in a file ({energy.describe()}); expected ClassLogOdds of a "
        "Classifier, alone or in Softplus, scaled, balanced or combined: keep the model in memory, or use "
        "such a one"
    )


def energy_from_config(config: Config) -> Energy:
    """Rebuild an energy from ``energy_config``, with fresh weights.

    Raises:
        InputError: for an unknown energy.
        KeyError: for an incomplete description.
    """
    return choose(_FORMS, config["energy"], "energy").build(config)


class _Form(NamedTuple):
    kind: type[Energy]
    config: Callable[[Any], Config]
    build: Callable[[Config], Energy]


_FORMS = {
    "class_log_odds": _Form(
        ClassLogOdds,
        lambda F: {"of": _classifier_config(F.classifier), "forget": list(F.forget), "margin": F.margin},
        lambda c: ClassLogOdds(_classifier(c["of"]), c["forget"], c["margin"]),
    ),
    "softplus": _Form(
        Softplus,
        lambda F: {"of": energy_config(F.energy), "margin": F.margin},
        lambda c: Softplus(energy_from_config(c["of"]), c["margin"]),
    ),
    "scaled": _Form(
        Scaled,
        lambda F: {"of": energy_config(F.energy), "factor": F.factor},
        lambda c: Scaled(energy_from_config(c["of"]), c["factor"]),
    ),
    "balanced": _Form(
        Balanced,
        lambda F: {
            "of": energy_config(F.energy),
            "classifier": _classifier_config(F.classifier),
            "forget": list(F.forget),
            "num_offsets": len(F.offsets),
        },
        lambda c: Balanced(
            energy_from_config(c["of"]), _classifier(c["classifier"]), c["forget"], [0.0] * c["num_offsets"]
        ),
    ),
    "sum": _Form(
        Sum,
        lambda F: {"of": [energy_config(part) for part in F.parts]},
        lambda c: Sum([energy_from_config(part) for part in c["of"]]),
    ),
    "minimum": _Form(
        Minimum,
        lambda F: {"of": [energy_config(part) for part in F.parts]},
        lambda c: Minimum([energy_from_config(part) for part in c["of"]]),
    ),
    "anchor": _Form(
        Anchor,
        lambda F: {
            "extractor": _extractor_config(F.extractor),
            "size": len(F.anchor),
            "kernel": F.kernel,
            "radius": F.radius,
        },
        lambda c: Anchor(_extractor(c["extractor"]), torch.ones(c["size"]), c["kernel"], radius=c["radius"]),
    ),
    "anchor_log_odds": _Form(
        AnchorLogOdds,
        lambda F: {"of": energy_config(F.similarity), "margin": F.margin},
        lambda c: AnchorLogOdds(energy_from_config(c["of"]), 0.0, 1.0, c["margin"]),
    ),
    "mixture_log_odds": _Form(
        MixtureLogOdds,
        lambda F: {
            "extractor": _extractor_config(F.extractor),
            "size": len(F.origin),
            "parts": len(F.means),
            "rank": F.means.shape[1],
            "margin": F.margin,
        },
        lambda c: MixtureLogOdds(
            _extractor(c["extractor"]),
            torch.zeros(c["size"]),
            torch.zeros(c["size"], c["rank"]),
            torch.ones(c["parts"]),
            torch.zeros(c["parts"], c["rank"]),
            torch.eye(c["rank"]).repeat(c["parts"], 1, 1),
            c["margin"],
        ),
    ),
    "attribute_log_odds": _Form(
        AttributeLogOdds,
        lambda F: {
            "extractor": _extractor_config(F.extractor),
            "size": len(F.weight),
            "margin": F.margin,
            "name": F.name,
        },
        lambda c: AttributeLogOdds(
            _extractor(c["extractor"]), torch.zeros(c["size"]), 0.0, c["margin"], c["name"]
        ),
    ),
    "decoded": _Form(
        Decoded,
        lambda F: {"of": energy_config(F.energy), **_autoencoder_config(F.autoencoder)},
        lambda c: Decoded(energy_from_config(c["of"]), Autoencoder.from_config(c)),
    ),
}
"""Name -> class, what its file says of it, and how it is made of that."""


def _classifier_config(classifier: nn.Module) -> Config:
    if isinstance(classifier, Tempered):
        return {"tempered": _classifier_config(classifier.classifier)}
    return classifier.config() if isinstance(classifier, Classifier) else net_config(classifier)


def _classifier(config: Config) -> nn.Module:
    if "tempered" in config:  # the temperature is one of the weights
        return Tempered(_classifier(config["tempered"]), 1.0)
    return Classifier.from_config(config) if "classifier" in config else build_net(config)


def _extractor_config(extractor: nn.Module) -> Config:
    if type(extractor) is nn.Flatten:
        return {"extractor": "flatten"}
    if isinstance(extractor, Features):
        return {"extractor": "features", "of": extractor.classifier.config()}
    raise InputError(
        f"got an energy behind a {type(extractor).__name__}, which cannot be described in a file; expected "
        "nn.Flatten, or classifiers.Features of a Classifier"
    )


def _extractor(config: Config) -> nn.Module:
    if config["extractor"] == "flatten":
        return nn.Flatten()
    return Features(Classifier.from_config(config["of"]))


def _autoencoder_config(autoencoder: nn.Module) -> Config:
    if not isinstance(autoencoder, Autoencoder):
        raise InputError(
            f"got an energy behind a {type(autoencoder).__name__}, which cannot be described in a file; "
            "expected an Autoencoder"
        )
    return autoencoder.config()
