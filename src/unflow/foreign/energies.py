"""What to forget, by a line of words: a classifier, an ONNX file, an estimator, a score, or images."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from unflow.disk.bundle import CONFIG, is_on_hub
from unflow.energies import BlackBox, ClassLogOdds, Energy, OnnxLogOdds, ScoreLogOdds, check_classes
from unflow.foreign.classifiers import check_range_said, load_classifier_for
from unflow.foreign.estimators import energy_of_estimator
from unflow.foreign.images import energy_of_images
from unflow.foreign.line import KINDS, Foreign, read_line, read_range, read_shape
from unflow.foreign.packages import FromLine, of_package
from unflow.foreign.wanted import Wanted
from unflow.ground.errors import InputError, convert_errors
from unflow.ground.plugins import Registry
from unflow.ground.streams import stream
from unflow.models import GenerativeModel
from unflow.models.classifier import Classifier
from unflow.nets import ReadsAs

FORMS = (
    "classifier:DIR, classifier:pretrained:ORG/NAME, classifier:PACKAGE.MODULE:FUNCTION@WEIGHTS, onnx:FILE, "
    "estimator:PACKAGE.MODULE:FUNCTION, score:PACKAGE.MODULE:FUNCTION or images:FOLDER,extractor=..."
)


def load_energy(
    text: str, forget: tuple[int, ...] | None, margin: float, model: GenerativeModel, trust_code: bool = False
) -> Energy:
    """Return the energy that a line of words names.

    Args:
        text: ``classifier:DIR`` or ``classifier:pretrained:org/name``, a bundle, or
            ``classifier:my_pkg.nets:build@w.pth,range=0:1``;
            ``onnx:guide.onnx,range=0:1,shape=1x28x28,output=probabilities``;
            ``estimator:my_pkg.guides:fitted@FILE``, a function that returns a fitted classifier of
            scikit-learn, or ``estimator:guide.joblib``; ``score:my_pkg.scores:nsfw``, a function of samples
            that returns the probability of what is to be forgotten for each (``reads=uint8`` for images of
            bytes, ``batch_size=64``); ``images:FOLDER,extractor=DIR``, a few images of what is to be
            forgotten; or a kind that an installed package adds (``unflow.plugins``).
        forget: classes; a score and images have none.
        margin: >= 0, in nats.
        model: whose samples it must take.
        trust_code: as ``bundle.load``, and for files of estimators.

    Raises:
        InputError: for another line, no or unknown classes, and what does not read the samples.
    """
    kind, wanted = text.partition(":")[0], Wanted(forget, margin, model, trust_code)
    if kind == "classifier" and ":" in text:
        return _classifier(text, wanted)
    line = read_line(text, ("classifier", *INSTALLED))
    if line is None:
        added = "".join(f", {entry.name}:..." for entry in INSTALLED.list_plugins())
        raise InputError(f"got --energy {text!r}; expected {FORMS}{added}")
    energy = INSTALLED[kind](line, wanted)
    _check_scores(energy, model)
    return energy


def guide_of(text: str) -> str | None:
    """Return the bundle of an energy's classifier, or the line that names it; None where there is none."""
    kind, _, folder = text.partition(":")
    if kind == "images":
        line = read_line(text)
        extractor = "" if line is None else line.options.get("extractor", "")
        return extractor if Path(extractor, CONFIG).is_file() else None
    if kind != "classifier":
        return None
    named = is_on_hub(folder) or Path(folder).exists() or read_line(text) is None
    return folder if named else text


def guide_behind(energy: Energy | None) -> Classifier | None:
    """Return the classifier in an energy, or None where there is none."""
    parts = () if energy is None else energy.modules()
    return next((part for part in parts if isinstance(part, Classifier)), None)


def seen_by(text: str) -> tuple[str, ...]:
    """Return what a method sees through an energy, for the record."""
    if text.partition(":")[0] != "images":
        return ("guide",)
    return ("images of what to forget", *(() if guide_of(text) is None else ("guide: its features",)))


def _check_scores(energy: Energy, model: GenerativeModel) -> None:
    """Raise InputError unless an energy scores what a model draws."""
    x = model.sample(2, stream(0))
    what = f"the energy does not run on the model's samples of shape {list(model.sample_shape)}"
    with convert_errors(what, "one that does"), torch.no_grad():
        energy(x)


# Kinds


def _classifier(text: str, wanted: Wanted) -> Energy:
    guide = load_classifier_for(wanted.model, guide_of(text) or text, wanted.trust_code)
    classes = wanted.classes_for(text)
    check_classes(classes, guide.num_classes)
    return ClassLogOdds(guide, classes, wanted.margin)


def _onnx(line: Foreign, wanted: Wanted) -> Energy:
    ours = line.take_all(
        {"range": read_range, "shape": read_shape, "output": str, "output_name": str, "batch_size": int}
    )
    check_range_said(line, wanted.model)
    reads = ReadsAs(nn.Identity(), ours.pop("range", None), ours.pop("shape", None))
    classes = wanted.classes_for(f"onnx:{line.what}")
    return OnnxLogOdds(line.what, classes, wanted.margin, preprocess=reads, **ours)


def _estimator(line: Foreign, wanted: Wanted) -> Energy:
    classes = wanted.classes_for(f"estimator:{line.what}")
    energy = energy_of_estimator(line, classes, wanted.margin, wanted.trust_code)
    check_range_said(line, wanted.model)
    return energy


def _score(line: Foreign, wanted: Wanted) -> Energy:
    ours = line.take_all({"reads": str, "batch_size": int, "name": str})
    return ScoreLogOdds(BlackBox(line.function(), **{"name": line.what, **ours}), wanted.margin)


def _images(line: Foreign, wanted: Wanted) -> Energy:
    return energy_of_images(line, wanted.margin, wanted.model, wanted.trust_code)


ENERGIES: dict[str, FromLine] = {"onnx": _onnx, "estimator": _estimator, "score": _score, "images": _images}
"""Kind -> how its line becomes an energy; a classifier's is ``ClassLogOdds``."""
INSTALLED = Registry("unflow.energies", ENERGIES, of_package, reserved=(*KINDS, "pretrained"))
"""``ENERGIES``, and those of installed packages."""
