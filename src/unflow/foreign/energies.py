"""What to forget, by a line of words: a classifier, an ONNX file, or a score."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from unflow.bundle import on_hub
from unflow.classifiers import Classifier
from unflow.energies import BlackBox, ClassLogOdds, Energy, OnnxLogOdds, ScoreLogOdds, check_classes
from unflow.errors import InputError
from unflow.foreign.classifiers import check_reads, load_classifier
from unflow.foreign.line import KINDS, Foreign, read_line, read_range, read_shape
from unflow.foreign.packages import FromLine, of_package
from unflow.models import GenerativeModel
from unflow.nets import ReadsAs
from unflow.plugins import Installed

FORMS = (
    "classifier:DIR, classifier:pretrained:ORG/NAME, classifier:PACKAGE.MODULE:FUNCTION@WEIGHTS, onnx:FILE "
    "or score:PACKAGE.MODULE:FUNCTION"
)


def load_energy(
    text: str, forget: tuple[int, ...], margin: float, model: GenerativeModel, trust_code: bool = False
) -> Energy:
    """Return the energy that a line of words names.

    Args:
        text: ``classifier:DIR`` or ``classifier:pretrained:org/name``, a bundle, or
            ``classifier:my_pkg.nets:build@w.pth,range=0:1``;
            ``onnx:guide.onnx,range=0:1,shape=1x28x28,output=probabilities``; ``score:my_pkg.scores:nsfw``, a
            function of samples that returns the probability of what is to be forgotten for each
            (``reads=uint8`` for images of bytes, ``batch_size=64``); or a kind that an installed package adds
            (``unflow.plugins``).
        forget: classes; a score has none.
        margin: >= 0, in nats.
        model: whose samples it must take.
        trust_code: as ``bundle.load``.

    Raises:
        InputError: for another line, unknown classes, and a classifier that does not read the samples.
    """
    kind = text.partition(":")[0]
    if kind == "classifier" and ":" in text:
        guide = load_classifier(guide_of(text) or text, trust_code)
        check_reads(guide, model)
        check_classes(forget, guide.num_classes)
        return ClassLogOdds(guide, forget, margin)
    line = read_line(text, tuple(INSTALLED)) if kind in INSTALLED else None
    if line is None:
        added = "".join(f", {entry.name}:..." for entry in INSTALLED.added())
        raise InputError(f"got --energy {text!r}; expected {FORMS}{added}")
    return INSTALLED[kind](line, forget, margin)


def guide_of(text: str) -> str | None:
    """Return the bundle of an energy's classifier, or the line that names it; None where there is none."""
    kind, _, folder = text.partition(":")
    if kind != "classifier":
        return None
    named = on_hub(folder) or Path(folder).exists() or read_line(text) is None
    return folder if named else text


def guide_behind(energy: Energy | None) -> Classifier | None:
    """Return the classifier in an energy, or None where there is none."""
    guide = energy.classifier if isinstance(energy, ClassLogOdds) else None
    return guide if isinstance(guide, Classifier) else None


def _onnx(line: Foreign, forget: tuple[int, ...], margin: float) -> Energy:
    ours = line.take_all(
        {"range": read_range, "shape": read_shape, "output": str, "output_name": str, "batch_size": int}
    )
    reads = ReadsAs(nn.Identity(), ours.pop("range", None), ours.pop("shape", None))
    return OnnxLogOdds(line.what, forget, margin, preprocess=reads, **ours)


def _score(line: Foreign, forget: tuple[int, ...], margin: float) -> Energy:
    ours = line.take_all({"reads": str, "batch_size": int, "name": str})
    return ScoreLogOdds(BlackBox(line.function(), **{"name": line.what, **ours}), margin)


ENERGIES: dict[str, FromLine] = {"onnx": _onnx, "score": _score}
"""Kind -> how its line becomes an energy; a classifier's is ``ClassLogOdds``."""
INSTALLED = Installed("unflow.energies", ENERGIES, of_package, reserved=(*KINDS, "pretrained"))
"""``ENERGIES``, and those of installed packages."""
