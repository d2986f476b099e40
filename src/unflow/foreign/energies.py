"""Energies by specification: a classifier, an ONNX file, an estimator, a score function, or images."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from unflow.disk.bundle import CONFIG, is_on_hub
from unflow.energies import (
    BlackBox,
    ClassLogOdds,
    ConditionEnergy,
    Energy,
    OnnxLogOdds,
    ScoreLogOdds,
    check_classes,
)
from unflow.foreign.classifiers import check_range, load_classifier, load_classifier_for
from unflow.foreign.estimators import build_estimator_energy, list_labels
from unflow.foreign.images import build_image_energy
from unflow.foreign.plugins import EnergyBuilder, EnergyRequest, make_builder
from unflow.foreign.specification import KINDS, Specification, parse_specification, read_range, read_shape
from unflow.ground.errors import InputError, convert_errors
from unflow.ground.plugins import Registry
from unflow.ground.streams import stream
from unflow.ground.values import exists, is_file, unquote
from unflow.models import GenerativeModel
from unflow.models.classifier import Classifier
from unflow.nets import ReadsAs

FORMS = (
    "classifier:DIR, classifier:pretrained:ORG/NAME, classifier:PACKAGE.MODULE:FUNCTION@WEIGHTS, onnx:FILE, "
    "estimator:PACKAGE.MODULE:FUNCTION, score:PACKAGE.MODULE:FUNCTION, images:FOLDER,extractor=..., label:3 "
    "or prompt:NAME"
)


def load_energy(
    text: str | Specification,
    forget: tuple[int, ...] | None,
    margin: float,
    model: GenerativeModel,
    trust_code: bool = False,
) -> Energy:
    """Return the energy of a specification.

    Args:
        text: ``classifier:DIR`` or ``classifier:pretrained:org/name``, a bundle, or
            ``classifier:my_pkg.nets:build@w.pth,range=0:1``;
            ``onnx:guide.onnx,range=0:1,shape=1x28x28,output=probabilities``;
            ``estimator:my_pkg.guides:fitted@FILE``, a function that returns a fitted classifier of
            scikit-learn, or ``estimator:guide.joblib``; ``score:my_pkg.scores:nsfw``, a function of samples
            that returns for each the probability that it is to be forgotten (``reads=uint8`` for images of
            bytes, ``batch_size=64``); ``images:FOLDER,extractor=DIR``, a few images of what is to be
            forgotten; or a kind that an installed package adds (``unflow.plugins``).
        forget: classes; a score and images have none.
        margin: >= 0, in nats.
        model: whose samples the energy must accept.
        trust_code: as ``bundle.load``, and for files of estimators.

    Raises:
        InputError: for another specification, missing or unknown classes, and an energy that does not accept
            the samples.
    """
    spec, request = parse_energy(text), EnergyRequest(forget, margin, model, trust_code)
    if spec.kind == "classifier":
        return _build_classifier_energy(spec, request)
    energy = INSTALLED[spec.kind](spec, request)
    if isinstance(energy, ConditionEnergy):
        energy.check_model(model)
    else:
        _check_scores(energy, model)
    return energy


def parse_energy(text: str | Specification) -> Specification:
    """Return the parsed specification of an energy; ``classifier:DIR`` has the bundle as its source.

    Raises:
        InputError: for a string that specifies no energy.
    """
    if isinstance(text, Specification):
        return text
    kind, colon, folder = text.partition(":")
    if kind == "classifier" and colon and (is_on_hub(folder) or exists(unquote(folder))):
        return Specification(kind, unquote(folder), text=text)
    parsed = parse_specification(text, ("classifier", *INSTALLED))
    if parsed is None:
        added = "".join(f", {entry.name}:..." for entry in INSTALLED.list_plugins())
        raise InputError(f"got --energy {text!r}; expected {FORMS}{added}")
    return parsed


S = TypeVar("S", str, Specification)


def guide_of(text: S) -> S | str | None:
    """Return the bundle of an energy's classifier, or the specification of it; None without a classifier."""
    spec = parse_energy(text)
    if spec.kind == "images":
        extractor = unquote(spec.options.get("extractor", ""))
        return extractor if is_file(Path(extractor, CONFIG)) else None
    if spec.kind != "classifier":
        return None
    return spec.source if _is_bundle(spec) else text


def _is_bundle(spec: Specification) -> bool:
    """Return whether a specification names the bundle of a classifier."""
    plain = not spec.options and spec.weights is None
    return plain and (is_on_hub(spec.source) or exists(spec.source))


def list_class_names(energy: str | Specification, trust_code: bool = False) -> list[str] | None:
    """Return the names of the classes that an energy distinguishes; None where it has none.

    Raises:
        InputError: as ``load_energy``.
    """
    spec = parse_energy(energy)
    if spec.kind == "classifier" and _is_bundle(spec):
        return load_classifier(spec.source, trust_code).class_names
    if spec.kind == "classifier":
        return spec.options["names"].split("/") if "names" in spec.options else None
    return list_labels(spec, trust_code) if spec.kind == "estimator" else None


def guide_behind(energy: Energy | None) -> Classifier | None:
    """Return the classifier in an energy, or None if there is none."""
    parts = () if energy is None else energy.modules()
    return next((part for part in parts if isinstance(part, Classifier)), None)


def list_energy_data(text: str | Specification) -> tuple[str, ...]:
    """Return the data behind an energy, as lineages record it."""
    spec = parse_energy(text)
    if spec.kind in ("label", "prompt"):
        return ()
    if spec.kind != "images":
        return ("guide",)
    return ("images of what to forget", *(() if guide_of(spec) is None else ("guide: its features",)))


def _check_scores(energy: Energy, model: GenerativeModel) -> None:
    """Raise InputError unless an energy accepts the model's samples."""
    x = model.sample(2, stream(0))
    what = f"the energy does not run on the model's samples of shape {list(model.sample_shape)}"
    with convert_errors(what, "one that does"), torch.no_grad():
        energy(x)


# Kinds


def _build_classifier_energy(spec: Specification, request: EnergyRequest) -> Energy:
    guide = load_classifier_for(request.model, guide_of(spec) or spec, request.trust_code)
    classes = request.require_classes(spec)
    check_classes(classes, guide.num_classes)
    return ClassLogOdds(guide, classes, request.margin)


def _build_onnx_energy(spec: Specification, request: EnergyRequest) -> Energy:
    ours = spec.take_all(
        {
            "range": read_range,
            "shape": read_shape,
            "axes": str,
            "output": str,
            "output_name": str,
            "batch_size": int,
        }
    )
    check_range(spec, request.model)
    reads = ReadsAs(nn.Identity(), ours.pop("range", None), ours.pop("shape", None), ours.pop("axes", None))
    classes = request.require_classes(f"onnx:{spec.source}")
    return OnnxLogOdds(spec.source, classes, request.margin, preprocess=reads, **ours)


def _build_estimator_energy(spec: Specification, request: EnergyRequest) -> Energy:
    classes = request.require_classes(f"estimator:{spec.source}")
    energy = build_estimator_energy(spec, classes, request.margin, request.trust_code)
    check_range(spec, request.model)
    return energy


def _build_score_energy(spec: Specification, request: EnergyRequest) -> Energy:
    ours = spec.take_all({"reads": str, "batch_size": int, "name": str})
    return ScoreLogOdds(BlackBox(spec.find_function(), **{"name": spec.source, **ours}), request.margin)


def _build_image_energy(spec: Specification, request: EnergyRequest) -> Energy:
    return build_image_energy(spec, request.margin, request.model, request.trust_code)


def _build_label_energy(spec: Specification, request: EnergyRequest) -> Energy:
    spec.take_all({})
    if not all(part.isdigit() for part in spec.source.split("/")):
        raise InputError(
            f"got --energy label:{spec.source}; expected numbers of conditions: write label:3, or label:3/5"
        )
    return ConditionEnergy([int(part) for part in spec.source.split("/")])


def _build_prompt_energy(spec: Specification, request: EnergyRequest) -> Energy:
    spec.take_all({})
    return ConditionEnergy([request.model.require_conditional().find(unquote(spec.source))])


ENERGIES: dict[str, EnergyBuilder] = {
    "onnx": _build_onnx_energy,
    "estimator": _build_estimator_energy,
    "score": _build_score_energy,
    "images": _build_image_energy,
    "label": _build_label_energy,
    "prompt": _build_prompt_energy,
}
"""Kind -> the function that builds its energy; a classifier's is ``ClassLogOdds``."""
INSTALLED = Registry("unflow.energies", ENERGIES, make_builder, reserved=(*KINDS, "pretrained"))
"""``ENERGIES``, and the kinds of installed packages."""
