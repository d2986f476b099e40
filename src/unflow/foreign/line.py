"""One line of words that names what somebody else has made.

    KIND:WHAT@WEIGHTS,name=value,...

WHAT is PACKAGE.MODULE:FUNCTION, which returns a network (a ``torch.nn.Module``), or the path of a file.
Names that unflow does not know for the kind are options of the function. Whoever names a function in such a
line agrees to run it.
"""

from __future__ import annotations

import difflib
import inspect
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import yaml
from torch import nn

from unflow.disk.weights import load_weights
from unflow.ground.errors import InputError, explain
from unflow.nets import build_net, named_function, trust
from unflow.nets.adapters import Range, to_range

KINDS = ("generator", "flow", "flow_map", "diffusers", "classifier", "onnx", "estimator", "score", "images")
"""What a line may begin with; anything else is the path of a bundle."""
RETURNED = {"score": "one number for each sample", "extractor": "the network"}
"""What the function in a line is for, where it makes no model and no classifier."""
LINE = re.compile(r"(?P<kind>[a-z_][a-z0-9_]*):(?P<what>[^,@]+)(@(?P<weights>[^,]+))?(,(?P<options>.*))?")
FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")

Readers = Mapping[str, Callable[[str], Any]]
"""Name of an option -> how its value is read."""


@dataclass(frozen=True)
class Foreign:
    """What a line of words names.

    Attributes:
        kind: of ``KINDS``.
        what: package.module:function, or a path.
        weights: file of a network's weights; None: as the function returns it.
        options: name -> value, of unflow and of the function.
    """

    kind: str
    what: str
    weights: Path | None = None
    options: Mapping[str, str] = field(default_factory=dict)

    def take(self, known: Readers) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the options with these names, read; and the others, as YAML reads their values.

        Raises:
            InputError: for a value that cannot be read.
        """
        ours = {name: self._read(name, known[name]) for name in self.options if name in known}
        theirs = {name: self._read(name, yaml.safe_load) for name in self.options if name not in known}
        return ours, theirs

    def _read(self, name: str, read: Callable[[str], Any]) -> Any:
        text = self.options[name]
        try:
            return read(text)
        except InputError:
            raise
        except (ValueError, yaml.YAMLError) as error:
            expected = (
                "a whole number" if read is int else "a number" if read is float else "a value like 3 or a/b"
            )
            raise InputError(f"got {name}={text} for {self.kind}:{self.what}; expected {expected}") from error

    def take_all(self, known: Readers) -> dict[str, Any]:
        """Return the options, read, where no function takes others, nor weights.

        Raises:
            InputError: for an unknown name, and for weights.
        """
        ours, others = self.take(known)
        if self.weights is not None:
            raise InputError(
                f"got @{self.weights} for {self.kind}:{self.what}, which takes no weights; expected none: "
                "leave it out"
            )
        if others:
            raise InputError(
                f"got {next(iter(others))}= for {self.kind}:{self.what}; expected one of {', '.join(known)}"
            )
        return ours

    def network(self, options: dict[str, Any], key: str | None, known: Readers) -> nn.Module:
        """Return the network with its weights, in evaluation mode.

        Args:
            options: of the function.
            key: as ``load_weights``.
            known: unflow's own options for the kind, one of which may have been meant.

        Raises:
            InputError: for what names no function, options that it does not take; as ``build_net`` and
                ``load_weights``.
        """
        self._check_options(self.function(), (), options, known)
        trust(self.what)
        net = build_net({"builder": self.what, "options": options})
        if self.weights is not None:
            load_weights(net, self.weights, key)
        return net.eval()

    def function(self) -> Callable[..., Any]:
        """Return the function that is named.

        Raises:
            InputError: for what names no function, or none that can be imported.
        """
        self.check_function()
        return cast(Callable[..., Any], named_function(self.what))

    def called(self, given: Sequence[Any], options: dict[str, Any], known: Readers) -> Any:
        """Return what the function that is named returns.

        Args:
            given: its arguments without a name.
            options: its options.
            known: as ``network``.

        Raises:
            InputError: as ``function``, for options that it does not take, and what it raises.
        """
        function = self.function()
        self._check_options(function, given, options, known)
        try:
            return function(*given, **options)
        except Exception as error:  # what somebody else's code raises is anything
            raise InputError(
                f"{self.what} fails ({explain(error)}); expected it to return something"
            ) from error

    def _check_options(
        self, function: Callable[..., Any], given: Sequence[Any], options: dict[str, Any], known: Readers
    ) -> None:
        """Raise InputError for options that a function does not take, with what may have been meant."""
        try:
            inspect.signature(function).bind(*given, **options)
        except ValueError:
            return  # functions written in C have no signature
        except TypeError as error:
            close = [near for name in options for near in difflib.get_close_matches(name, known, 1, 0.7)]
            hint = f"; did you mean {close[0]}=?" if close else ""
            raise InputError(f"{self.what} does not take these options: {error}{hint}") from error

    def check_function(self) -> None:
        """Raise InputError if no function is named; have its module found beside the shell."""
        if not FUNCTION.fullmatch(self.what):
            raise InputError(
                f"got {self.kind}:{self.what}; expected {self.kind}:PACKAGE.MODULE:FUNCTION, which returns "
                f"{RETURNED.get(self.kind, 'the network, or the path of a bundle')}"
            )
        find_beside_the_shell()


def find_beside_the_shell() -> None:
    """Have modules of the folder where the shell stands imported, as a script's are that lie beside it."""
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))


def read_line(text: str, kinds: tuple[str, ...] = KINDS) -> Foreign | None:
    """Return what a line of words names; None for what is the path of a bundle.

    Args:
        text: the line.
        kinds: that are expected here.

    Raises:
        InputError: for a line with another kind, or options that are not name=value.
    """
    found = LINE.fullmatch(text)
    if found is None or Path(text).exists():
        return None
    if found["kind"] not in {*KINDS, *kinds}:
        _check_spelling(text, found["kind"])
        return None
    if found["kind"] not in kinds:
        raise InputError(
            f"got {text!r}, of the kind {found['kind']}; expected {' or '.join(kinds)}: write {kinds[0]}:..."
        )
    options = {}
    for part in split_options(found["options"] or ""):
        name, equals, value = part.partition("=")
        if part and not (equals and name.isidentifier()):
            raise InputError(f"got {part!r} in {text!r}; expected name=value, separated by commas")
        if name in options:
            raise InputError(f"got {name}= twice in {text!r}; expected it once")
        if part:
            options[name] = value
    weights = None if found["weights"] is None else Path(found["weights"])
    return Foreign(found["kind"], found["what"], weights, options)


def split_options(text: str) -> list[str]:
    """Return what commas separate, those in brackets left alone: "dim=[1, 8, 8],depth=2" is two options."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "[({") - (character in "])}")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def _check_spelling(text: str, kind: str) -> None:
    """Raise InputError for what is nearly a line; anything else may be the path of a bundle."""
    near = difflib.get_close_matches(kind, KINDS, n=1, cutoff=0.7)
    if near:
        raise InputError(f"got {text!r}, and no kind is called {kind}; did you mean {near[0]}:...?")


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
        found = to_range([float(end) for end in text.split(":")])
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


def read_call(text: str) -> str:
    """Return how a network is called, "x/t/label" for "x, t, label": commas separate options."""
    return ", ".join(part.strip() for part in text.split("/"))
