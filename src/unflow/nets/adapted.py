"""A network that somebody else trained: how it is called, and a trial of it."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from unflow.ground.errors import InputError
from unflow.nets.description import net_config
from unflow.nets.modes import evaluating
from unflow.nets.owned import Around

TIME_SHAPES = ("batch", "column", "scalar")
"""Shapes of a time that a network may ask for: [batch], [batch, 1], or []."""

Known = TypeVar("Known", bound="Adapted")


class Adapted(Around):
    """A network with the arguments that its owner gave it; the base of what adapts one to us.

    Args:
        net: the network; it returns [batch, *shape], or an object whose ``sample`` is that.
        shape: of one sample.
        arguments: how it is called, for example "x, t", "t, x, label" or "sample=x, timestep=t".
        known: what may stand there: all of one of these sets, with "label" where there is one.
        noise_at: which of its times, 0 or 1, is the noise; the data are at the other.
        time_scale: its times run from 0 to this.
        time_shape: a name in ``TIME_SHAPES``. A network of one time for all rows ("scalar") is called
            row by row where times differ, as they do in training.
        label: class index that every sample gets; None for a network without labels.

    Raises:
        InputError: for arguments, times or a label that cannot be.
    """

    trial: ClassVar[tuple[float, ...]]
    """Our times at which the network is tried on a few samples."""
    name: ClassVar[str]
    """Its key in ``nets.ADAPTERS``."""

    def __init__(
        self,
        net: nn.Module,
        shape: Sequence[int],
        arguments: str,
        known: Sequence[set[str]],
        *,
        noise_at: int,
        time_scale: float,
        time_shape: str,
        label: int | None,
    ) -> None:
        super().__init__()
        if noise_at not in (0, 1):
            raise InputError(f"got noise_at={noise_at!r}; expected 0 or 1: which of its times is the noise")
        if not (time_scale > 0 and math.isfinite(time_scale)):
            raise InputError(f"got time_scale={time_scale}; expected a finite number > 0")
        if time_shape not in TIME_SHAPES:
            raise InputError(f"got time_shape={time_shape!r}; expected one of {', '.join(TIME_SHAPES)}")
        if label is not None and (not isinstance(label, int) or label < 0):
            raise InputError(f"got label={label!r}; expected a class index >= 0, or None")
        self.net, self.shape, self.arguments = net, tuple(shape), arguments
        self.noise_at, self.time_scale, self.time_shape = noise_at, time_scale, time_shape
        self.label: int | Tensor | None = label
        _check_arguments(arguments, known, labelled=label is not None)

    @property
    def owned(self) -> nn.Module:
        """The network."""
        return self.net

    @property
    def config(self) -> dict[str, Any]:
        """The description from which ``build_net`` makes it again.

        Raises:
            InputError: for a network that has none itself.
        """
        return {"net": self.name, "of": net_config(self.net), **self.options}

    @property
    def options(self) -> dict[str, Any]:
        """What it was made with, but for the network."""
        return {
            "shape": list(self.shape),
            "arguments": self.arguments,
            "noise_at": self.noise_at,
            "time_scale": self.time_scale,
            "time_shape": self.time_shape,
            "label": self.label,
        }

    @property
    def sign(self) -> int:
        """-1 where the network's time runs against ours, and with it every derivative; else 1."""
        return -1 if self.noise_at == 1 else 1

    def own_time(self, t: Tensor) -> Tensor:
        """Return the network's name for our time t [batch]."""
        return self.time_scale * (1 - t if self.noise_at == 1 else t)

    def labels(self, x: Tensor) -> Tensor | None:
        """Return the label of each row, [batch]; None for a network without labels."""
        if isinstance(self.label, int):
            return torch.full((len(x),), self.label, device=x.device)
        return self.label

    def given(self: Known, labels: Tensor) -> Known:
        """Return this network at labels [batch] in place of its own one; the weights are shared."""
        other = copy.copy(self)
        other.label = labels
        return other

    def call(self, x: Tensor, times: Mapping[str, Tensor], labels: Tensor | None) -> Tensor:
        """Return the network's output [batch, *shape] at its own times, by name, each [batch]."""
        if self.time_shape != "scalar" or all(bool((t == t[0]).all()) for t in times.values()):
            return self._call(x, times, labels)
        rows = zip(x.split(1), *(t.split(1) for t in times.values()), strict=True)
        own = itertools.repeat(None, len(x)) if labels is None else labels.split(1)
        return torch.cat(
            [
                self._call(row, dict(zip(times, row_times, strict=True)), label)
                for (row, *row_times), label in zip(rows, own, strict=True)
            ]
        )

    def _call(self, x: Tensor, times: Mapping[str, Tensor], labels: Tensor | None) -> Tensor:
        values: dict[str, Any] = {"x": x, "label": labels}
        values |= {name: _shaped(t, self.time_shape) for name, t in times.items()}
        entries = [_entry(part) for part in self.arguments.split(",")]
        positional = [values[name] for keyword, name in entries if not keyword]
        return _tensor(
            self.net(*positional, **{keyword: values[name] for keyword, name in entries if keyword})
        )

    def check_runs(self) -> None:
        """Raise InputError, with the call that works if one does, unless it runs on a few samples."""
        reason = self._failure()
        if reason is None:
            return
        found = next((other for other in self._other_calls() if other._failure() is None), None)
        if found is None:
            mend = "check shape, arguments and time_shape" + ("" if self.label is None else ", and label")
        else:
            line = f"call={found.arguments.replace(', ', '/')},time_shape={found.time_shape}"
            mend = (
                f'write arguments="{found.arguments}", time_shape="{found.time_shape}" (in a line {line}), '
                "with which it does"
            )
        raise InputError(
            f"the {type(self.net).__name__} does not run as net({self.arguments}) with time_shape="
            f'"{self.time_shape}" ({reason}); expected samples of shape {list(self.shape)} in and out: {mend}'
        )

    def check_label(self, label: int) -> None:
        """Raise InputError unless the network runs with that label in place of its own."""
        other = copy.copy(self)
        other.label = label
        reason = other._failure()
        if reason is not None:
            raise InputError(
                f"the {type(self.net).__name__} does not run with label {label} ({reason}); expected no more "
                "labels than it knows"
            )

    def _failure(self) -> str | None:
        """Return what goes wrong on a few rows, or None."""
        first = next(self.net.parameters(), torch.zeros(()))
        # No side of a sample (nor twice as many, with guidance), or times may spread over a wrong axis.
        n = next(n for n in itertools.count(2) if n not in self.shape and 2 * n not in self.shape)
        x = torch.zeros(n, *self.shape).to(first)
        try:
            with torch.no_grad(), evaluating(self.net):
                found = self(x, *(x.new_full((n,), t) for t in self.trial)).shape
        except Exception as error:  # whatever somebody else's network raises
            return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"
        return None if found == x.shape else f"it makes {list(found)} of {list(x.shape)}"

    def _other_calls(self: Known) -> Iterator[Known]:
        """Yield it with the positional arguments in every order, and times of every shape."""
        entries = [part.strip() for part in self.arguments.split(",")]
        positional, named = ([e for e in entries if ("=" in e) == kind] for kind in (False, True))
        for order in itertools.permutations(positional):
            for time_shape in TIME_SHAPES:
                other = copy.copy(self)
                other.arguments, other.time_shape = ", ".join([*order, *named]), time_shape
                yield other


def _entry(part: str) -> tuple[str, str]:
    """Return keyword ("" for none) and name of one argument."""
    keyword, _, name = part.rpartition("=")
    return keyword.strip(), name.strip()


def _check_arguments(arguments: str, known: Sequence[set[str]], *, labelled: bool) -> None:
    entries = [_entry(part) for part in arguments.split(",")]
    names, keywords = [name for _, name in entries], [keyword for keyword, _ in entries]
    wanted = [names_known | ({"label"} if labelled else set()) for names_known in known]
    expected = " or ".join(f'"{", ".join(sorted(each, key=_place))}"' for each in wanted)
    if len(set(names)) != len(names) or set(names) not in wanted:
        why = "with a label" if labelled else "without a label"
        raise InputError(
            f'got arguments="{arguments}" {why}; expected {expected}, in the order that the network takes'
        )
    named = [bool(keyword) for keyword in keywords]
    if named != sorted(named) or not all(keyword.isidentifier() for keyword in keywords if keyword):
        raise InputError(
            f'got arguments="{arguments}"; expected what Python would take between the brackets of a call: '
            'positional ones first, then keywords, as in "x, timestep=t"'
        )


def _place(name: str) -> int:
    return ("x", "t", "start", "end", "span", "label").index(name)


def _shaped(t: Tensor, time_shape: str) -> Tensor:
    if time_shape == "column":
        return t[:, None]
    return t[0] if time_shape == "scalar" else t


def _tensor(output: Any) -> Tensor:
    found = output if isinstance(output, Tensor) else getattr(output, "sample", None)
    if not isinstance(found, Tensor):
        raise TypeError(f"it returns a {type(output).__name__}, no tensor and no object whose sample is one")
    return found
