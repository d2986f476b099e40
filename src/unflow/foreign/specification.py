"""Model specifications: one string that names a third-party model, classifier or energy.

    KIND:SOURCE@WEIGHTS,name=value,...

SOURCE is PACKAGE.MODULE:FUNCTION, a function that returns a network (a ``torch.nn.Module``), or the path of a
file or folder. A path may begin with ``~/``, and one with commas or an @ stands in quotes:
``onnx:"runs/a,b.onnx"``. Options that unflow does not know for the kind are passed to the function. To name a
function in a specification is to agree to run it.
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
from unflow.ground.memory import guard_memory
from unflow.ground.values import QUOTED, exists, quote, read_value, split_outside, unquote
from unflow.nets import build_net, named_function, trust
from unflow.nets.adapters import Range, to_range
from unflow.nets.dtypes import check_weights
from unflow.nets.unsaved import check_rebuilt

KINDS = (
    "generator",
    "flow",
    "flow_map",
    "diffusers",
    "classifier",
    "onnx",
    "estimator",
    "score",
    "images",
    "label",
    "prompt",
)
"""The kinds with which a specification may begin; any other string is the path of a bundle."""
RETURNED = {"score": "one number for each sample", "extractor": "the network"}
"""Kind -> what its function returns, where that is neither a model nor a classifier."""
FORM = re.compile(
    rf"(?P<kind>[a-z_][a-z0-9_]*):(?P<source>{QUOTED}|[^,@]+)(@(?P<weights>{QUOTED}|[^,]+))?(,(?P<options>.*))?"
)
FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")

Readers = Mapping[str, Callable[[str], Any]]
"""Name of an option -> the function that reads its value."""


@dataclass(frozen=True)
class Specification:
    """A parsed specification.

    Attributes:
        kind: one of ``KINDS``, or a kind that an installed package adds.
        source: package.module:function, or a path.
        weights: file of the network's weights; None: the network as the function returns it.
        options: name -> value as it is written, those of unflow and those of the function.
        text: the string that was parsed; empty for a specification that was built or changed in code.
    """

    kind: str
    source: str
    weights: Path | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    text: str = field(default="", compare=False)

    def __str__(self) -> str:
        if self.text:
            return self.text
        weights = "" if self.weights is None else f"@{quote(str(self.weights))}"
        named = f"{self.kind}:{quote(self.source)}{weights}"
        return ",".join([named, *(f"{name}={value}" for name, value in self.options.items())])

    @property
    def what(self) -> str:
        """The older name of ``source``."""
        return self.source

    def take(self, known: Readers) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the options in ``known``, read by its functions, and the others, read by ``read_value``.

        Raises:
            InputError: for a value that cannot be read.
        """
        ours = {
            name: self._read(name, unquote(text), known[name])
            for name, text in self.options.items()
            if name in known
        }
        theirs = {
            name: self._read(name, text, read_value)
            for name, text in self.options.items()
            if name not in known
        }
        return ours, theirs

    def _read(self, name: str, text: str, read: Callable[[str], Any]) -> Any:
        try:
            return read(text)
        except InputError:
            raise
        except (ValueError, yaml.YAMLError) as error:
            expected = (
                "a whole number" if read is int else "a number" if read is float else "a value like 3 or a/b"
            )
            raise InputError(
                f"got {name}={text} for {self.kind}:{self.source}; expected {expected}"
            ) from error

    def take_all(self, known: Readers) -> dict[str, Any]:
        """Return the options, for a kind whose options are all in ``known`` and that has no weights.

        Raises:
            InputError: for another option, and for weights.
        """
        ours, others = self.take(known)
        if self.weights is not None:
            raise InputError(
                f"got @{self.weights} for {self.kind}:{self.source}, which takes no weights; expected none: "
                "leave it out"
            )
        if others:
            raise InputError(
                f"got {next(iter(others))}= for {self.kind}:{self.source}; expected one of {', '.join(known)}"
            )
        return ours

    def build_network(self, options: dict[str, Any], key: str | None, known: Readers) -> nn.Module:
        """Return the network with its weights, in evaluation mode.

        Args:
            options: of the function.
            key: as ``load_weights``.
            known: unflow's own options for the kind, to suggest one for a misspelt option.

        Raises:
            InputError: for a source that names no function, and options that the function does not take; as
                ``build_net`` and ``load_weights``.
        """
        self._check_options(self.find_function(), (), options, known)
        trust(self.source)
        config = {"builder": self.source, "options": options}
        net = build_net(config)
        check_rebuilt(net, config, self.source)
        check_weights(net, f"the network of {self.source}")
        if self.weights is not None:
            load_weights(net, self.weights, key)
        return net.eval()

    def find_function(self) -> Callable[..., Any]:
        """Return the function that ``source`` names.

        Raises:
            InputError: for a source that names no function, or a function that cannot be imported.
        """
        if not FUNCTION.fullmatch(self.source):
            raise InputError(
                f"got {self.kind}:{self.source}; expected {self.kind}:PACKAGE.MODULE:FUNCTION, which returns "
                f"{RETURNED.get(self.kind, 'the network, or the path of a bundle')}"
            )
        import_from_working_directory()
        return cast(Callable[..., Any], named_function(self.source))

    def call_function(self, arguments: Sequence[Any], options: dict[str, Any], known: Readers) -> Any:
        """Return the result of the function that ``source`` names.

        Args:
            arguments: positional arguments.
            options: keyword arguments.
            known: as ``build_network``.

        Raises:
            InputError: as ``find_function``, for options that the function does not take, and for any
                exception that it raises.
        """
        function = self.find_function()
        self._check_options(function, arguments, options, known)
        try:
            with guard_memory(self.source):
                return function(*arguments, **options)
        except InputError:
            raise
        except Exception as error:  # third-party code may raise any exception
            raise InputError(
                f"{self.source} fails ({explain(error)}); expected it to return a result"
            ) from error

    def _check_options(
        self, function: Callable[..., Any], arguments: Sequence[Any], options: dict[str, Any], known: Readers
    ) -> None:
        """Raise InputError for options that a function does not take, with the nearest known option."""
        try:
            inspect.signature(function).bind(*arguments, **options)
        except ValueError:
            return  # functions written in C have no signature
        except TypeError as error:
            close = [near for name in options for near in difflib.get_close_matches(name, known, 1, 0.7)]
            hint = f"; did you mean {close[0]}=?" if close else ""
            raise InputError(f"{self.source} does not take these options: {error}{hint}") from error


Source = str | Path | Specification
"""The folder of a bundle, its name on the Hugging Face Hub, or a specification as a string or parsed."""


def import_from_working_directory() -> None:
    """Let modules be imported from the current working directory, as ``python -m`` does."""
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))


def parse_specification(text: Source, kinds: tuple[str, ...] = KINDS) -> Specification | None:
    """Return a parsed specification; None for the path or name of a bundle.

    Args:
        text: the string; a specification that is parsed already is returned as it is.
        kinds: the kinds that are allowed here.

    Raises:
        InputError: for a specification of another kind, or options that are not name=value.
    """
    if isinstance(text, Specification):
        _check_kind(str(text), text.kind, kinds)
        return text
    text = str(text)
    found = FORM.fullmatch(text)
    if found is None or exists(text):
        return None
    if found["kind"] not in {*KINDS, *kinds}:
        _check_spelling(text, found["kind"])
        return None
    _check_kind(text, found["kind"], kinds)
    weights = None if found["weights"] is None else Path(unquote(found["weights"]))
    options = _parse_options(found["options"], text)
    return Specification(found["kind"], unquote(found["source"]), weights, options, text)


def _parse_options(written: str | None, text: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for part in filter(None, split_options(written or "")):
        name, equals, value = part.partition("=")
        if not (equals and name.isidentifier()):
            raise InputError(f"got {part!r} in {text!r}; expected name=value, separated by commas")
        if name in options:
            raise InputError(f"got {name}= twice in {text!r}; expected it once")
        options[name] = value
    return options


def split_options(text: str) -> list[str]:
    """Split at commas outside of brackets and quotes: "dim=[1, 8, 8],depth=2" holds two options."""
    return split_outside(text)


def _check_kind(text: str, kind: str, kinds: tuple[str, ...]) -> None:
    if kind not in kinds:
        raise InputError(
            f"got {text!r}, of the kind {kind}; expected {' or '.join(kinds)}: write {kinds[0]}:..."
        )


def _check_spelling(text: str, kind: str) -> None:
    """Raise InputError for a misspelt kind; any other string may be the path of a bundle."""
    near = difflib.get_close_matches(kind, KINDS, n=1, cutoff=0.7)
    if near:
        raise InputError(f"got {text!r}, and there is no kind {kind}; did you mean {near[0]}:...?")


# Values of options


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
        raise InputError(f"got the range {text!r}; expected the values of black and white, like 0:1")
    return found


Prior = tuple[Literal["normal", "uniform"], tuple[int, ...]]


def read_prior(text: str) -> Prior:
    """Return the prior in "normal:64": the name of the distribution, and the shape of one latent.

    Raises:
        InputError: for another distribution, or no shape.
    """
    name, _, shape = text.partition(":")
    if name not in ("normal", "uniform") or not shape:
        raise InputError(
            f"got the prior {text!r}; expected normal:64, or uniform:64 for numbers in [-1, 1], with the "
            "shape of one latent"
        )
    return cast(Prior, (name, read_shape(shape)))


def read_call(text: str) -> str:
    """Return the arguments of a network: "x, t, label" for "x/t/label", because commas separate options."""
    return ", ".join(part.strip() for part in text.split("/"))
