"""Models and classifiers that unflow has never seen, in one line of words.

    KIND:PACKAGE.MODULE:FUNCTION@WEIGHTS,name=value,...

``FUNCTION`` returns the network (a ``torch.nn.Module``); names that unflow does not know for the kind are
options of the function. Whoever names a function in such a line agrees to run it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import torch
import yaml
from torch import Tensor, nn

from unflow import bundle
from unflow.classifiers import Classifier
from unflow.errors import InputError
from unflow.models import GenerativeModel, Generator, Latent
from unflow.nets import ReadsAs, WritesAs, build_net, trust
from unflow.nets.adapters import Range, checked_range, last_linear
from unflow.nets.modes import evaluating
from unflow.training import stream
from unflow.weights import load_weights

LINE = re.compile(
    r"(?P<kind>[a-z_]+):(?P<builder>[A-Za-z_][\w.]*:[A-Za-z_]\w*)(@(?P<weights>[^,]+))?(,(?P<options>.*))?"
)
PROBED = 64
"""Samples that are looked at before a model is believed to write what was said."""
TOLERANCE = 0.05
"""How far over the ends of its declared range a network may write, in widths of the range."""


Readers = Mapping[str, Callable[[str], Any]]
"""Name of an option -> how its value is read."""


@dataclass(frozen=True)
class Foreign:
    """A network somewhere else, as a line of words names it.

    Attributes:
        kind: a key of ``MODELS``, or classifier.
        builder: package.module:function that returns the network.
        weights: file of its weights; None: as the function returns it.
        options: name -> value, of unflow and of the function.
    """

    kind: str
    builder: str
    weights: Path | None = None
    options: Mapping[str, str] = field(default_factory=dict)

    def take(self, known: Readers) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the options with these names, read; and the others, as YAML reads their values."""
        ours = {name: known[name](text) for name, text in self.options.items() if name in known}
        theirs = {name: yaml.safe_load(text) for name, text in self.options.items() if name not in known}
        return ours, theirs

    def network(self, options: dict[str, Any], key: str | None) -> nn.Module:
        """Return the network with its weights, in evaluation mode.

        Raises:
            InputError: as ``build_net`` and ``load_weights``.
        """
        if str(Path.cwd()) not in sys.path:  # a script finds the modules beside it; so does a line of words
            sys.path.insert(0, str(Path.cwd()))
        trust(self.builder)
        net = build_net({"builder": self.builder, "options": options})
        if self.weights is not None:
            load_weights(net, self.weights, key)
        return net.eval()


def read_line(text: str, kinds: tuple[str, ...]) -> Foreign | None:
    """Return what a line of words names; None for what is the path of a folder.

    Args:
        text: the line.
        kinds: that are expected here.

    Raises:
        InputError: for a line with another kind, or options that are not name=value.
    """
    found = LINE.fullmatch(text)
    if found is None or Path(text).exists():
        return None
    if found["kind"] not in kinds:
        raise InputError(
            f"got {text!r}, a {found['kind']}; expected {' or '.join(kinds)}: write "
            f"{kinds[0]}:{found['builder']}"
        )
    options = {}
    for part in (found["options"] or "").split(","):
        name, equals, value = part.partition("=")
        if part and not (equals and name.isidentifier()):
            raise InputError(f"got {part!r} in {text!r}; expected name=value, separated by commas")
        if part:
            options[name] = value
    weights = None if found["weights"] is None else Path(found["weights"])
    return Foreign(found["kind"], found["builder"], weights, options)


def load_model(text: str | Path, trust_code: bool = False) -> GenerativeModel:
    """Return the generative model in a bundle, or the one that a line of words names.

    Args:
        text: folder, or a line like ``generator:my_pkg.nets:build@w.safetensors,prior=normal:64,range=0:1``.
        trust_code: as ``bundle.load``.

    Raises:
        InputError: as ``bundle.load``; for a line that names no model, and a model that does not do what the
            line says of it.
    """
    line = read_line(str(text), tuple(MODELS))
    return bundle.load(text, trust_code) if line is None else MODELS[line.kind](line)


def load_whole(text: str | Path, autoencoder: str | Path | None, trust_code: bool = False) -> GenerativeModel:
    """Return ``load_model``; a model of latents with the decoder of another bundle after it.

    Raises:
        InputError: as ``load_model``, and for samples that are no latents of the autoencoder.
    """
    model = load_model(text, trust_code)
    if autoencoder is None:
        return model
    return Latent(model, bundle.load_autoencoder(autoencoder, trust_code))


def load_classifier(text: str | Path, trust_code: bool = False) -> Classifier:
    """Return the classifier in a bundle, or the one that a line of words names.

    Args:
        text: folder, or a line like ``classifier:my_pkg.judges:build@judge.safetensors,range=0:1,shape=784``;
            ``names=cat/dog`` are its classes.
        trust_code: as ``bundle.load``.

    Raises:
        InputError: as ``bundle.load``, and for a line that names no classifier.
    """
    line = read_line(str(text), ("classifier",))
    return bundle.load_classifier(text, trust_code) if line is None else _classifier(line)


def with_options(text: str, weights: Path | None, prior: str | None) -> str:
    """Return a line with its weights and its prior, where they were said apart from it.

    Raises:
        InputError: for either with the path of a folder, or said twice.
    """
    if weights is None and prior is None:
        return text
    line = read_line(text, tuple(MODELS))
    if line is None:
        raise InputError(
            f"got --weights or --prior for {text}; expected them for generator:PACKAGE.MODULE:FUNCTION alone"
        )
    if (weights is not None and line.weights is not None) or (prior is not None and "prior" in line.options):
        raise InputError(
            f"got weights or prior twice, in {text!r} and apart from it; expected one or the other"
        )
    weights = weights or line.weights
    options = dict(line.options) | ({} if prior is None else {"prior": prior})
    words = [f"{line.kind}:{line.builder}" + ("" if weights is None else f"@{weights}")]
    return ",".join([*words, *(f"{name}={value}" for name, value in options.items())])


def lineage_of(text: str | Path) -> dict[str, Any]:
    """Return the lineage of a bundle; for a line of words, what it says."""
    line = read_line(str(text), (*MODELS, "classifier"))
    return bundle.read_lineage(Path(text)) if line is None else {"line": str(text)}


def check_reads(classifier: Classifier, model: GenerativeModel) -> None:
    """Raise InputError unless a classifier takes what a model draws."""
    x = model.sample(2, stream(0))
    try:
        with torch.no_grad(), evaluating(classifier):
            logits = classifier(x)
    except RuntimeError as error:
        raise InputError(
            f"the classifier does not run on the model's samples of shape {list(model.sample_shape)} "
            f"({str(error).splitlines()[0]}); expected one that does: say what it reads by shape=784"
        ) from error
    expected = (len(x), classifier.num_classes)
    if not isinstance(logits, Tensor) or logits.shape != expected:
        what = list(logits.shape) if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
        raise InputError(
            f"the classifier returned {what} for 2 samples; expected logits {list(expected)}: name a "
            "function whose network returns them, and its classes by names=cat/dog"
        )


# How values are written


def read_shape(text: str) -> tuple[int, ...]:
    """Return the shape in "1x28x28".

    Raises:
        InputError: for anything but whole numbers > 0 with x between them.
    """
    try:
        shape = tuple(int(side) for side in text.split("x"))
    except ValueError:
        shape = ()
    if not shape or min(shape) < 1:
        raise InputError(f"got the shape {text!r}; expected whole numbers with x between them, like 1x28x28")
    return shape


def read_range(text: str) -> Range:
    """Return the range in "0:1".

    Raises:
        InputError: for anything but two numbers, the smaller one first.
    """
    try:
        found = checked_range([float(end) for end in text.split(":")])
    except ValueError:
        found = None
    if found is None:
        raise InputError(f"got the range {text!r}; expected what is black and what is white, like 0:1")
    return found


Prior = tuple[Literal["normal", "uniform"], tuple[int, ...]]


def read_prior(text: str) -> Prior:
    """Return the prior in "normal:64": its name, and the shape of one latent.

    Raises:
        InputError: for another law, or no shape.
    """
    name, _, shape = text.partition(":")
    if name not in ("normal", "uniform") or not shape:
        raise InputError(
            f"got the prior {text!r}; expected normal:64, or uniform:64 for numbers in [-1, 1], with the "
            "shape of one latent"
        )
    return cast(Prior, (name, read_shape(shape)))


# Kinds


def _generator(line: Foreign) -> Generator:
    known: Readers = {"prior": read_prior, "range": read_range, "shape": read_shape, "key": str}
    ours, theirs = line.take(known)
    if "prior" not in ours:
        raise InputError(
            f"got {line.builder} without its prior; expected the law of its latents: write prior=normal:64"
        )
    law, shape = ours["prior"]
    net = _written(line.network(theirs, ours.get("key")), ours)
    model = Generator(net, shape, law).eval()
    _check_written(model, ours.get("range"), line)
    return model


def _written(net: nn.Module, ours: Mapping[str, Any]) -> nn.Module:
    """Return a network whose samples are unflow's."""
    return WritesAs(net, ours.get("range"), ours.get("shape")) if {"range", "shape"} & ours.keys() else net


def _check_written(model: GenerativeModel, value_range: Range | None, line: Foreign) -> None:
    """Raise InputError if samples lie outside the range that was said, or images look like another's."""
    x = model.sample(PROBED, stream(0))
    if not torch.isfinite(x).all():
        raise InputError(
            f"{line.builder} draws NaN or infinite numbers; expected the weights of a trained model"
        )
    if value_range is None and len(model.sample_shape) != 3:
        return  # points and latents have no range
    low, high = value_range or (-1.0, 1.0)
    least, most = (low + (high - low) * (float(end) + 1) / 2 for end in (x.min(), x.max()))
    over = TOLERANCE * (high - low)
    if least < low - over or most > high + over:
        raise InputError(
            f"{line.builder} draws numbers from {least:.2f} to {most:.2f} in the range {low:g}:{high:g}; "
            "expected what is black and what is white in its images: write range=LOW:HIGH"
        )
    if value_range is None and least >= 0:
        raise InputError(
            f"{line.builder} draws images of numbers from {least:.2f} to {most:.2f}, as if black were 0; "
            "expected to know: write range=0:1, or range=-1:1 if that is so"
        )


def _classifier(line: Foreign) -> Classifier:
    known: Readers = {
        "range": read_range, "shape": read_shape, "key": str, "names": lambda text: text.split("/")
    }  # fmt: skip
    ours, theirs = line.take(known)
    net = ReadsAs(line.network(theirs, ours.get("key")), ours.get("range"), ours.get("shape"))
    return Classifier(net, ours.get("names") or _numbers(net, line)).eval()


def _numbers(net: nn.Module, line: Foreign) -> list[str]:
    """Return the classes' numbers as their names: as many as the last linear layer has outputs."""
    last = last_linear(net)
    if last is None:
        raise InputError(
            f"got {line.builder}, which has no linear layer to count its classes by; expected their "
            "names: write names=cat/dog"
        )
    return [str(k) for k in range(last.out_features)]


MODELS: dict[str, Callable[[Foreign], GenerativeModel]] = {"generator": _generator}
"""Kind -> how its line becomes a model."""
