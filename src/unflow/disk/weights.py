"""Weights that somebody else saved, into a network of the same architecture and back."""

from __future__ import annotations

import copy
import io
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

from unflow.ground.errors import InputError, explain
from unflow.ground.files import read_tensors, write_bytes, write_tensors

WRAPPERS = ("module.", "_orig_mod.")
"""What DataParallel, DistributedDataParallel and ``torch.compile`` put into names, wherever they stand."""
ENDINGS = (".safetensors", ".pt", ".pth", ".ckpt", ".bin")
OPTIONAL = "num_batches_tracked"
"""A buffer that changes nothing outside training, and that older files lack."""


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Return all tensors in a file by name; names of nested dictionaries are joined by dots.

    Args:
        path: safetensors, or what ``torch.save`` wrote (.pt, .pth, .ckpt, .bin); read on the CPU.

    Raises:
        InputError: for a file that is missing or damaged, holds Python objects beside tensors (running a
            pickle runs whatever is in it), or holds no tensor.
    """
    found = dict(_flat(_content(Path(path)), ""))
    if not found:
        raise InputError(f"got no tensors in {path}; expected the state_dict of a model")
    return found


def _content(path: Path) -> Any:
    """Return what a file of weights holds, as it is nested there."""
    if path.suffix == ".safetensors":
        return read_tensors(path)[0]
    if not path.is_file():
        raise InputError(
            f"got no file {path}; expected weights: write the path of a .safetensors or .pth file"
        )
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise InputError(
            f"{path} holds more than tensors, or is no file of PyTorch ({_pickled(error)}); expected tensors "
            "alone: save `model.state_dict()` where the model's code is, by torch.save or safetensors"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path} is damaged ({_reason(error)}); expected what torch.save wrote: copy the file again"
        ) from error


def load_weights(net: nn.Module, path: str | Path, key: str | None = None, ema: bool = True) -> str:
    """Fill a network with the weights of a file, and return which of the file's names they had before them.

    Files nest a model's weights ("state_dict", "generator", "model.module", ...), and may hold several models
    of one architecture. The one is taken whose every name and shape is the network's; of a model and its
    moving average, the average.

    Args:
        net: filled in place; its precision stays.
        path: as ``read_weights``.
        key: take the weights below this name; None: find them.
        ema: take moving averages where there are both.

    Raises:
        InputError: as ``read_weights``; for a file without such a model, with what differs; for one with
            several, with their names.
    """
    own_state = net.state_dict()
    before, found = find_weights(own_state, path, type(net).__name__, key, ema)
    net.load_state_dict({name: found.get(_unwrapped(name), value) for name, value in own_state.items()})
    return before


def find_weights(
    state: Mapping[str, Tensor], path: str | Path, what: str, key: str | None = None, ema: bool = True
) -> tuple[str, dict[str, Tensor]]:
    """Return which names stand before a model's weights in a file, and the weights without them.

    Args:
        state: names and shapes that the weights must have; tensors on the meta device are enough.
        path: as ``read_weights``.
        what: the model, in messages.
        key: take the weights below this name; None: find them.
        ema: take moving averages where there are both.

    Raises:
        InputError: as ``load_weights``.
    """
    tensors = {_unwrapped(name): tensor for name, tensor in read_weights(path).items()}
    wanted = {_unwrapped(name): value for name, value in state.items()}
    found = {
        before: _below(tensors, before) for before in (_starts(tensors, wanted) if key is None else [key])
    }
    whole = [before for before, own in found.items() if not _differences(own, wanted)]
    chosen = _choose(whole, ema)
    if not chosen:
        raise InputError(f"{path} does not fit a {what}: {_nearest(found, tensors, wanted)}")
    if len(chosen) > 1:
        raise InputError(
            f"{path} holds several models of this shape ({', '.join(map(repr, chosen))}); expected one: "
            f"write key={chosen[0]}, for `unflow export` --weights_key {chosen[0]}"
        )
    return chosen[0], found[chosen[0]]


def write_weights(
    net: nn.Module, out: str | Path, like: str | Path | None = None, key: str | None = None
) -> Path:
    """Write a network's weights under the names, and in the nesting, of the file that they once came from.

    Everything else in that file is left out: averages, optimisers and copies remember what was forgotten.

    Args:
        net: whose weights are written.
        out: .safetensors for tensors by name; .pt, .pth, .ckpt or .bin for what ``torch.save`` writes.
        like: the file; None: the network's own names, nothing around them.
        key: as ``load_weights``.

    Raises:
        InputError: for another ending, a file that is there already, and as ``load_weights``.
    """
    out = Path(out)
    if out.suffix not in ENDINGS:
        raise InputError(f"got {out} for weights; expected a name that ends in {', '.join(ENDINGS)}")
    if out.exists():
        raise InputError(f"{out} is there already; expected a new file: choose another --out")
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in net.state_dict().items()}
    content: Any = state
    if like is not None:
        before = load_weights(copy.deepcopy(net), like, key)
        start = f"{before}." if before else ""
        content = _filled(_content(Path(like)), "", {f"{start}{_unwrapped(k)}": v for k, v in state.items()})
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix == ".safetensors":
        write_tensors(out, dict(_flat(content, "")))
    else:
        buffer = io.BytesIO()
        torch.save(content, buffer)
        write_bytes(out, buffer.getvalue())
    return out


def _filled(content: Any, path: str, state: Mapping[str, Tensor]) -> Any:
    """Return a file's content with a network's tensors in their places, and nothing else."""
    if isinstance(content, Tensor):
        return state.get(_unwrapped(path))
    if not isinstance(content, Mapping):
        return None
    pairs = (
        (name, _filled(each, f"{path}.{name}" if path else str(name), state))
        for name, each in content.items()
    )
    return {name: each for name, each in pairs if each is not None} or None


def _flat(content: Any, before: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(content, Tensor):
        yield before, content
    elif isinstance(content, Mapping):
        for name, value in content.items():
            yield from _flat(value, f"{before}.{name}" if before else str(name))


def _unwrapped(name: str) -> str:
    for wrapper in WRAPPERS:
        name = name.replace(f".{wrapper}", ".").removeprefix(wrapper)
    return name


def _starts(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> list[str]:
    """Return what stands before the network's first name, wherever a file has that."""
    first = next((name for name in wanted if not name.endswith(OPTIONAL)), "")
    found = [name.removesuffix(first) for name in tensors if name == first or name.endswith(f".{first}")]
    return [start.removesuffix(".") for start in found]


def _below(tensors: Mapping[str, Tensor], before: str) -> dict[str, Tensor]:
    start = f"{before}." if before else ""
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


def _differences(own: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> list[str]:
    """Return what a model's tensors lack, have too much, or have in another shape."""
    missing = [f"{name} is missing" for name in wanted if name not in own and not name.endswith(OPTIONAL)]
    shapes = [
        f"{name} is {list(own[name].shape)}, not {list(value.shape)}"
        for name, value in wanted.items()
        if name in own and own[name].shape != value.shape
    ]
    return [*missing, *shapes, *(f"{name} is unknown" for name in own if name not in wanted)]


def _choose(names: list[str], ema: bool) -> list[str]:
    averages = [name for name in names if _is_average(name.lower())]
    if averages and len(averages) < len(names):
        return averages if ema else [name for name in names if name not in averages]
    return names


def _is_average(name: str) -> bool:
    """Whether a name says so; "online" is the network in training that some keep beside its average."""
    return ("ema" in name or "average" in name) and "online" not in name


def _nearest(
    found: Mapping[str, Mapping[str, Tensor]], tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]
) -> str:
    if not found:
        return (
            f"its names are {', '.join(list(tensors)[:3])}, ...; expected {', '.join(list(wanted)[:3])}, ..."
        )
    before, own = min(found.items(), key=lambda pair: len(_differences(pair[1], wanted)))
    differing = _differences(own, wanted)
    more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
    where = f" below {before!r}" if before else ""
    return f"{'; '.join(differing[:3])}{more}{where}; expected the weights of this architecture"


def _pickled(error: Exception) -> str:
    """Return which object a file holds beside tensors, as PyTorch says it."""
    found = re.search(r"(?:Unsupported global: GLOBAL|Unsupported class|class) ([\w.]+)", str(error))
    return f"a {found[1]} is in it" if found else _reason(error)


def _reason(error: Exception) -> str:
    return explain(error)[:160]
