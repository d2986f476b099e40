"""Adapters of third-party networks: the call with their own arguments, and a trial call."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from unflow.ground.errors import InputError
from unflow.nets.adapters import Wrapper
from unflow.nets.description import net_config
from unflow.nets.dtypes import check_weights
from unflow.nets.modes import evaluating

TIME_SHAPES = ("batch", "column", "scalar")
"""Shapes of a time that a network may expect: [batch], [batch, 1], or []."""

Known = TypeVar("Known", bound="Adapted")


class Adapted(Wrapper):
    """A third-party network with arguments of its own; the base class of the adapters.

    Args:
        net: the network; it returns [batch, *shape], or an object whose ``sample`` is that.
        shape: of one sample.
        arguments: how it is called, for example "x, t", "t, x, label" or "sample=x, timestep=t".
        known: the sets of valid argument names: one of them, and "label" if there is a label.
        noise_at: its time of the noise, 0 or 1; the data are at the other.
        time_scale: its times run from 0 to this number.
        time_shape: a name in ``TIME_SHAPES``. A network with one time for all rows ("scalar") is called
            row by row if the times of the rows differ, as in training.
        label: class index for every sample; None for a network without labels.
        table: what the network takes for each class index, [classes, ...], such as text embeddings or one-hot
            vectors; or the shape of the table, for one of zeros; None: the index itself.

    Raises:
        InputError: for invalid arguments, times or labels.
    """

    table: Tensor | None

    trial: ClassVar[tuple[float, ...]]
    """The times, in unflow's convention, of the trial on a few samples."""
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
        table: Tensor | Sequence[int] | None = None,
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
        self.register_buffer("table", read_table(table, label))
        _check_arguments(arguments, known, labelled=label is not None)

    @property
    def wrapped(self) -> nn.Module:
        """The network."""
        return self.net

    @property
    def config(self) -> dict[str, Any]:
        """The description from which ``build_net`` rebuilds it.

        Raises:
            InputError: for a network without a description.
        """
        return {"net": self.name, "of": net_config(self.net), **self.options}

    @property
    def options(self) -> dict[str, Any]:
        """The arguments of its constructor except the network."""
        return {
            "shape": list(self.shape),
            "arguments": self.arguments,
            "noise_at": self.noise_at,
            "time_scale": self.time_scale,
            "time_shape": self.time_shape,
            "label": self.label,
            **({} if self.table is None else {"table": list(self.table.shape)}),
        }

    @property
    def sign(self) -> int:
        """-1 if the network's time runs from data to noise, which changes the sign of derivatives; else 1."""
        return -1 if self.noise_at == 1 else 1

    def own_time(self, t: Tensor) -> Tensor:
        """Convert a time t [batch] of unflow to the network's own time."""
        return self.time_scale * (1 - t if self.noise_at == 1 else t)

    def labels(self, x: Tensor) -> Tensor | None:
        """Return the label of each row, [batch]; None for a network without labels."""
        if isinstance(self.label, int):
            return torch.full((len(x),), self.label, device=x.device)
        return self.label

    def with_labels(self: Known, labels: Tensor) -> Known:
        """Return a copy, with shared weights, that uses other labels in place of its own.

        Args:
            labels: class indices [batch], or rows like those of the table, [batch, ...].
        """
        other = copy.copy(self)
        other.label = labels
        return other

    given = with_labels  # its former name

    def call(self, x: Tensor, times: Mapping[str, Tensor], labels: Tensor | None) -> Tensor:
        """Return the network's output [batch, *shape] at its own times: name -> [batch]."""
        if self.time_shape != "scalar" or all(bool((t == t[0]).all()) for t in times.values()):
            return self._call(x, times, labels)
        rows = zip(*(torch.split(each, 1) for each in (x, *times.values())), strict=True)
        own = itertools.repeat(None, len(x)) if labels is None else torch.split(labels, 1)
        return torch.cat(
            [
                self._call(row, dict(zip(times, row_times, strict=True)), label)
                for (row, *row_times), label in zip(rows, own, strict=True)
            ]
        )

    def _call(self, x: Tensor, times: Mapping[str, Tensor], labels: Tensor | None) -> Tensor:
        values: dict[str, Any] = {"x": x, "label": look_up(self.table, labels)}
        values |= {name: _reshape_time(t, self.time_shape) for name, t in times.items()}
        entries = [parse_argument(part) for part in self.arguments.split(",")]
        positional = [values[name] for keyword, name in entries if not keyword]
        return _get_tensor(
            self.net(*positional, **{keyword: values[name] for keyword, name in entries if keyword})
        )

    def check_runs(self) -> None:
        """Raise InputError unless it runs on a few samples; the message names a call that works, if any."""
        check_weights(self.net, f"the {type(self.net).__name__}")
        reason = self._find_failure()
        if reason is None:
            return
        found = next((other for other in self._other_calls() if other._find_failure() is None), None)
        if found is None:
            remedy = "check shape, arguments and time_shape" + ("" if self.label is None else ", and label")
        else:
            line = f"call={found.arguments.replace(', ', '/')},time_shape={found.time_shape}"
            remedy = (
                f'write arguments="{found.arguments}", time_shape="{found.time_shape}" (in a line {line}), '
                "with which it does"
            )
        raise InputError(
            f"the {type(self.net).__name__} does not run as net({self.arguments}) with time_shape="
            f'"{self.time_shape}" ({reason}); expected samples of shape {list(self.shape)} '
            f"in and out: {remedy}"
        )

    def check_label(self, label: int) -> None:
        """Raise InputError unless the network runs with this label in place of its own."""
        other = copy.copy(self)
        other.label = label
        reason = other._find_failure()
        if reason is not None:
            raise InputError(
                f"the {type(self.net).__name__} does not run with label {label} ({reason}); expected the "
                "index of one of its classes"
            )

    def _find_failure(self) -> str | None:
        """Return the error on a few rows, or None."""
        first = next(self.net.parameters(), torch.zeros(()))
        # n and 2 n (with guidance) are no side of a sample: times cannot broadcast over a wrong axis.
        n = next(n for n in itertools.count(2) if n not in self.shape and 2 * n not in self.shape)
        x = torch.zeros(n, *self.shape).to(first)
        try:
            with torch.no_grad(), evaluating(self.net):
                found = self(x, *(x.new_full((n,), t) for t in self.trial)).shape
        except Exception as error:  # third-party code may raise any exception
            return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"
        return None if found == x.shape else f"it makes {list(found)} of {list(x.shape)}"

    def _other_calls(self: Known) -> Iterator[Known]:
        """Yield copies with the positional arguments in every order and times of every shape."""
        entries = [part.strip() for part in self.arguments.split(",")]
        positional, named = ([e for e in entries if ("=" in e) == kind] for kind in (False, True))
        for order in itertools.permutations(positional):
            for time_shape in TIME_SHAPES:
                other = copy.copy(self)
                other.arguments, other.time_shape = ", ".join([*order, *named]), time_shape
                yield other


def read_table(table: Tensor | Sequence[int] | None, label: int | None) -> Tensor | None:
    """Return a table of labels as a tensor of its own.

    Raises:
        InputError: for a table without a label, or without rows of numbers.
    """
    if table is None:
        return None
    given = table.detach().clone() if isinstance(table, Tensor) else torch.zeros(tuple(table))
    if label is None or given.ndim < 2 or not given.is_floating_point():
        raise InputError(
            f"got a table of shape {list(given.shape)} with label={label}; expected a row of numbers for "
            "each label, and a label: write label=0 and table=torch.eye(10) for one-hot vectors"
        )
    return given


def look_up(table: Tensor | None, labels: Tensor | None) -> Tensor | None:
    """Return the rows of a table at labels [batch]; labels without a table, and rows, as they are."""
    if table is None or labels is None or labels.is_floating_point():
        return labels
    return table[labels]


def parse_argument(part: str) -> tuple[str, str]:
    """Return the keyword ("" if positional) and the name of one argument."""
    keyword, _, name = part.rpartition("=")
    return keyword.strip(), name.strip()


def _check_arguments(arguments: str, known: Sequence[set[str]], *, labelled: bool) -> None:
    entries = [parse_argument(part) for part in arguments.split(",")]
    names, keywords = [name for _, name in entries], [keyword for keyword, _ in entries]
    wanted = [names_known | ({"label"} if labelled else set()) for names_known in known]
    expected = " or ".join(f'"{", ".join(sorted(each, key=_rank_name))}"' for each in wanted)
    if len(set(names)) != len(names) or set(names) not in wanted:
        why = "with a label" if labelled else "without a label"
        raise InputError(
            f'got arguments="{arguments}" {why}; expected {expected}, in the order that the network takes'
        )
    named = [bool(keyword) for keyword in keywords]
    if named != sorted(named) or not all(keyword.isidentifier() for keyword in keywords if keyword):
        raise InputError(
            f'got arguments="{arguments}"; expected the arguments of a call in '
            'Python: positional ones first, then keywords, as in "x, timestep=t"'
        )


def _rank_name(name: str) -> int:
    return ("x", "t", "start", "end", "span", "label").index(name)


def _reshape_time(t: Tensor, time_shape: str) -> Tensor:
    if time_shape == "column":
        return t[:, None]
    return t[0] if time_shape == "scalar" else t


def _get_tensor(output: Any) -> Tensor:
    found = output if isinstance(output, Tensor) else getattr(output, "sample", None)
    if not isinstance(found, Tensor):
        raise TypeError(f"it returns a {type(output).__name__}, no tensor and no object whose sample is one")
    return found
