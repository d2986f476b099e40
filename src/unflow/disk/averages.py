"""The state dicts in a checkpoint that fit a network, moving averages among them, by names and shapes.

Averages of weights are stored in four layouts: a state dict below a key, that of torch's ``AveragedModel``
with a count beside it, names without dots (Stable Diffusion's ``LitEma``), and a list of tensors in the order
of ``net.parameters()`` (``shadow_params`` of torch_ema and diffusers). Most of them hold no buffers.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

OPTIONAL = "num_batches_tracked"
"""A buffer that is used only in training, and that older files lack."""
COUNTERS = ("n_averaged", "num_updates", "decay", "initted", "step", "optimization_step")
"""Numbers that averages keep beside the weights."""
AVERAGES = {"ema", "average", "averaged", "averages", "avg", "swa", "shadow", "polyak"}
NO_AVERAGES = {"online", "collected", "backup", "student", "raw", "exp", "optimizer", "optim", "temp"}
"""Words of a key, split at dots, underscores, digits and capitals, that name averages; and words that name
the
averaged weights or the moments of an optimizer."""


@dataclass(frozen=True)
class Reading:
    """One way to read the weights of a network from a checkpoint.

    Attributes:
        key: of the state dict, or list, in the checkpoint.
        paths: own name -> name in the checkpoint.
        is_average: whether the checkpoint says that it is a moving average.
    """

    key: str
    paths: dict[str, str]
    is_average: bool


def list_readings(
    tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor], parameters: Sequence[str] | None
) -> list[Reading]:
    """Return all readings that have every name of a network with its shape, and no other.

    Args:
        tensors: of the checkpoint.
        wanted: of the network.
        parameters: names of the network's parameters, in order; None: all names. An average may lack the
        other
            names, which are then read from the one state dict that has them.
    """
    needed = [name for name in wanted if not name.endswith(OPTIONAL)]
    own = set(needed if parameters is None else parameters)
    found = [*_read_nested(tensors, wanted), *_read_joined(tensors, wanted)]
    found += _read_lists(tensors, wanted, own)
    whole = [_fill(reading, found, needed) for reading in found if own <= reading.paths.keys()]
    return [reading for reading in whole if set(needed) <= reading.paths.keys()]


def find_unread_average(
    tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor], parameters: Sequence[str] | None
) -> str | None:
    """Return the key of an average that has tensors of all shapes of a network's weights, or None."""
    shapes = Counter(tuple(wanted[name].shape) for name in (parameters if parameters is not None else wanted))
    groups: dict[str, Counter[tuple[int, ...]]] = {}
    for name, tensor in tensors.items():
        parts = name.split(".")
        starts = (".".join(parts[: k + 1]) for k in range(len(parts)) if is_average_key(parts[k]))
        start = next(starts, None)
        if start is not None:
            groups.setdefault(start, Counter())[tuple(tensor.shape)] += 1
    return next((start for start, own in groups.items() if shapes and not shapes - own), None)


def is_average_key(key: str) -> bool:
    """Return whether a key names a moving average, by whole words."""
    words = {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", key)}
    return bool(words & AVERAGES) and not words & NO_AVERAGES


def _fill(reading: Reading, found: Sequence[Reading], needed: Sequence[str]) -> Reading:
    """Return a reading with the buffers that it lacks, from the one state dict that has them, if there is "
    "one."""
    missing = [name for name in needed if name not in reading.paths]
    others = [each for each in found if each is not reading and set(missing) <= each.paths.keys()]
    plain = [each for each in others if not each.is_average]
    if not missing or len(plain) != 1:
        return reading
    return Reading(
        reading.key, reading.paths | {name: plain[0].paths[name] for name in missing}, reading.is_average
    )


# Layouts


def _read_nested(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> Iterator[Reading]:
    """Yield state dicts below a key, with the network's own names, whole or without some of them."""
    prefixes = {name.removesuffix(own) for name in tensors for own in _list_ends(name) if own in wanted}
    for prefix in sorted(prefixes):
        below = {name.removeprefix(prefix): name for name in tensors if name.startswith(prefix)}
        paths = {name: path for name, path in below.items() if name in wanted}
        others = {name for name in below.keys() - paths.keys() if not _is_counter(name, tensors[below[name]])}
        counted = "n_averaged" in below
        if not others and _fits(paths, tensors, wanted):
            key = prefix.removesuffix(".")
            yield Reading(key, paths, counted or is_average_key(key))


def _read_joined(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> Iterator[Reading]:
    """Yield averages whose names have no dots, or underscores instead."""
    dotted = [name for name in wanted if "." in name and not name.endswith(OPTIONAL)]
    for separator in ("", "_"):
        joined = {name: name.replace(".", separator) for name in dotted}
        first = next(iter(joined.values()), None)
        starts = {name.removesuffix(first) for name in tensors if first is not None and name.endswith(first)}
        for start in sorted(starts):
            paths = {
                name: start + joined.get(name, name)
                for name in wanted
                if start + joined.get(name, name) in tensors
            }
            if _fits(paths, tensors, wanted):
                key = start.removesuffix(".").removesuffix("_")
                yield Reading(key, paths, is_average_key(start))


def _read_lists(
    tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor], own: Collection[str]
) -> Iterator[Reading]:
    """Yield averages that are lists in the order of the network's parameters."""
    names = [name for name in wanted if name in own]
    lists = {match[1] for match in (re.fullmatch(r"(.+)\.0", name) for name in tensors) if match is not None}
    for key in sorted(lists):
        paths = {name: f"{key}.{k}" for k, name in enumerate(names)}
        is_list = all(path in tensors for path in paths.values()) and f"{key}.{len(names)}" not in tensors
        if is_list and is_average_key(key) and _fits(paths, tensors, wanted):
            yield Reading(key, paths, True)


def _list_ends(name: str) -> Iterator[str]:
    """Yield "a.b.c", "b.c" and "c" for "a.b.c"."""
    parts = name.split(".")
    return (".".join(parts[k:]) for k in range(len(parts)))


def _fits(paths: Mapping[str, str], tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> bool:
    return bool(paths) and all(tensors[path].shape == wanted[name].shape for name, path in paths.items())


def _is_counter(name: str, tensor: Tensor) -> bool:
    return name in COUNTERS and tensor.numel() == 1
