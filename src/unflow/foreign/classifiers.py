"""Classifiers that unflow has never seen, by a line of words: guides and judges."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from unflow.disk import bundle
from unflow.foreign.line import Foreign, Readers, find_beside_the_shell, read_line, read_range, read_shape
from unflow.ground.errors import InputError, convert_errors
from unflow.ground.streams import stream
from unflow.models import GenerativeModel
from unflow.models.classifier import Classifier
from unflow.nets import ReadsAs, WritesAs
from unflow.nets.adapters import find_last_linear
from unflow.nets.modes import evaluating


def load_classifier(text: str | Path, trust_code: bool = False) -> Classifier:
    """Return the classifier in a bundle, or the one that a line of words names.

    Args:
        text: folder, ``pretrained:org/name@revision``, or a line like
            ``classifier:my_pkg.judges:build@judge.safetensors,range=0:1,shape=784``;
            ``names=cat/dog`` are its classes.
        trust_code: as ``bundle.load``.

    Raises:
        InputError: as ``bundle.load``, and for a line that names no classifier.
    """
    line = read_line(str(text), ("classifier",))
    if line is not None:
        return _classifier(line)
    if trust_code:
        find_beside_the_shell()
    return bundle.load_classifier(text, trust_code)


def load_classifier_for(model: GenerativeModel, text: str | Path, trust_code: bool = False) -> Classifier:
    """Return ``load_classifier``, once it has read what a model draws.

    Raises:
        InputError: as ``load_classifier``, ``check_range_said`` and ``check_reads``.
    """
    classifier = load_classifier(text, trust_code)
    check_range_said(read_line(str(text)), model)
    check_reads(classifier, model)
    return classifier


def check_range_said(line: Foreign | None, model: GenerativeModel) -> None:
    """Raise InputError where the range of a model's images was said, and not that of what is to read them.

    Args:
        line: of what reads; None for a bundle.
        model: what writes.
    """
    said_of = (
        m.value_range for m in model.modules() if isinstance(m, WritesAs) and m.value_range is not None
    )
    low, high = next(said_of, (-1.0, 1.0))
    if line is not None and "range" not in line.options and (low, high) != (-1.0, 1.0):
        raise InputError(
            f"got {line.what} without the range of the images that it reads, for a model that writes "
            f"{low:g}:{high:g}; expected to know: write range={low:g}:{high:g}, or range=-1:1 if that is so"
        )


def check_reads(classifier: Classifier, model: GenerativeModel) -> None:
    """Raise InputError unless a classifier takes what a model draws."""
    x = model.sample(2, stream(0))
    what = f"the classifier does not run on the model's samples of shape {list(model.sample_shape)}"
    expected = "one that does: say what it reads by shape=784"
    with convert_errors(what, expected), torch.no_grad(), evaluating(classifier):
        logits = classifier(x)
    shape = (len(x), classifier.num_classes)
    if not isinstance(logits, Tensor) or logits.shape != shape:
        found = list(logits.shape) if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
        raise InputError(
            f"the classifier returned {found} for 2 samples; expected logits {list(shape)}: name a "
            "function whose network returns them, and its classes by names=cat/dog"
        )


def _classifier(line: Foreign) -> Classifier:
    known: Readers = {
        "range": read_range,
        "shape": read_shape,
        "key": str,
        "names": lambda text: text.split("/"),
    }
    ours, theirs = line.take(known)
    net = ReadsAs(line.network(theirs, ours.get("key"), known), ours.get("range"), ours.get("shape"))
    return Classifier(net, ours.get("names") or _numbers(net, line)).eval()


def _numbers(net: nn.Module, line: Foreign) -> list[str]:
    """Return the classes' numbers as their names: as many as the last linear layer has outputs."""
    last = find_last_linear(net)
    if last is None:
        raise InputError(
            f"got {line.what}, which has no linear layer to count its classes by; expected their "
            "names: write names=cat/dog"
        )
    return [str(k) for k in range(last.out_features)]
