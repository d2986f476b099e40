"""Third-party checkpoints: load weights into a network of the same architecture, and write them back."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

from unflow.disk.averages import OPTIONAL, Reading, find_unread_average, list_readings
from unflow.ground.errors import InputError, explain
from unflow.ground.files import read_tensors, write_bytes, write_tensors
from unflow.ground.locks import lock_file

WRAPPERS = ("module.", "_orig_mod.")
"""Prefixes that DataParallel, DistributedDataParallel and ``torch.compile`` add at any depth of a name."""
ENDINGS = (".safetensors", ".pt", ".pth", ".ckpt", ".bin")
DEEPEST = 100
"""Levels of nested dictionaries in a checkpoint."""


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Return all tensors in a file by name; names of nested dictionaries are joined by dots.

    Args:
        path: safetensors, or a file of ``torch.save`` (.pt, .pth, .ckpt, .bin); read on the CPU.

    Raises:
        InputError: for a file that is missing or damaged, holds Python objects beside tensors (loading a
            pickle can run any code), or holds no tensor.
    """
    found = dict(_flatten(_read_content(Path(path)), ""))
    if not found:
        raise InputError(f"got no tensors in {path}; expected the state_dict of a model")
    return found


def _read_content(path: Path) -> Any:
    """Return the nested content of a checkpoint."""
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
            f"{path} holds more than tensors, or is no file of PyTorch ({_describe_pickle(error)}); expected "
            "tensors alone: save `model.state_dict()` where the model's code is, by torch.save or safetensors"
        ) from error
    except Exception as error:  # a damaged pickle may raise anything
        raise InputError(
            f"{path} is damaged ({explain(error)[:160]}); expected a file of torch.save: copy it again"
        ) from error


def load_weights(net: nn.Module, path: str | Path, key: str | None = None, ema: bool = True) -> str:
    """Load a third-party checkpoint into a network; return the key of the state dict in the file.

    A checkpoint nests the state dict of a model below keys ("state_dict", "generator", "model.module", ...),
    and may hold several state dicts of one architecture. The function loads the state dict that has exactly
    the network's names and shapes. If there is a moving average beside the weights, in one of the common
    layouts (``disk.averages``), it loads the average.

    Args:
        net: the network, changed in place; its dtype stays.
        path: as ``read_weights``.
        key: the key of the state dict in the file; None: search for it.
        ema: prefer a moving average to the weights it was taken of.

    Raises:
        InputError: as ``read_weights``; for a file without a state dict that fits, with the differences; for
            one with several, with their keys; for one with an average that cannot be read.
    """
    reading, tensors = _find_reading(net, path, key, ema)
    found = {name: tensors[where] for name, where in reading.paths.items()}
    own_state = net.state_dict()
    net.load_state_dict({name: found.get(_strip_wrappers(name), value) for name, value in own_state.items()})
    return reading.key


def _find_reading(
    net: nn.Module, path: str | Path, key: str | None, ema: bool = True
) -> tuple[Reading, dict[str, Tensor]]:
    """Return the reading of a network's weights, and the tensors in the checkpoint."""
    tensors = _read_stripped(path)
    parameters = [name for name, _ in net.named_parameters()]
    return choose_reading(tensors, net.state_dict(), path, type(net).__name__, key, ema, parameters), tensors


def find_weights(
    state: Mapping[str, Tensor], path: str | Path, what: str, key: str | None = None, ema: bool = True
) -> tuple[str, dict[str, Tensor]]:
    """Return the key of a state dict in a checkpoint, and the state dict.

    Args:
        state: the names and shapes that it must have; tensors on the meta device are enough.
        path: as ``read_weights``.
        what: the name of the model in messages.
        key: as ``load_weights``.
        ema: as ``load_weights``.

    Raises:
        InputError: as ``load_weights``.
    """
    tensors = _read_stripped(path)
    reading = choose_reading(tensors, state, path, what, key, ema, None)
    return reading.key, {name: tensors[where] for name, where in reading.paths.items()}


def choose_reading(
    tensors: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    path: str | Path,
    what: str,
    key: str | None,
    ema: bool,
    parameters: Sequence[str] | None,
) -> Reading:
    """Return how a network is read from the tensors of a checkpoint.

    Args:
        tensors: of the checkpoint, without the names of wrappers.
        state: as ``find_weights``.
        path: of the checkpoint, for messages.
        what: as ``find_weights``.
        key: as ``load_weights``.
        ema: as ``load_weights``.
        parameters: names of the parameters in ``state``, in order; averages may lack the others.

    Raises:
        InputError: as ``load_weights``.
    """
    wanted = {_strip_wrappers(name): value for name, value in state.items()}
    own = None if parameters is None else [_strip_wrappers(name) for name in parameters]
    whole = list_readings(tensors, wanted, own)
    if key is not None:
        whole = [each for each in whole if each.key == key] or [
            each for each in whole if each.key.startswith(f"{key}.")
        ]
    chosen = _prefer_average(whole, ema)
    if not chosen:
        found = {
            prefix: _select_prefix(tensors, prefix)
            for prefix in (_find_prefixes(tensors, wanted) if key is None else [key])
        }
        raise InputError(f"{path} does not fit a {what}: {_describe_mismatch(found, tensors, wanted)}")
    if len(chosen) > 1:
        keys = [each.key for each in chosen]
        raise InputError(
            f"{path} holds several models of this shape ({', '.join(map(repr, keys))}); expected one: "
            f"write key={keys[0]}, for `unflow export` --weights_key {keys[0]}"
        )
    unread = find_unread_average(tensors, wanted, own) if ema and key is None else None
    if unread is not None and not chosen[0].is_average:
        raise InputError(
            f"{path} holds an average of these weights below {unread!r}, whose names are not those of a "
            f"{what}; expected to know which to load: write key={chosen[0].key} for the weights without it, "
            "or rename the average's entries"
        )
    read = {name: tensors[where] for name, where in chosen[0].paths.items()}
    check_numbers(read, str(path))
    check_types(read, wanted, str(path))
    return chosen[0]


def check_numbers(tensors: Mapping[str, Tensor], where: str) -> None:
    """Raise InputError unless all weights are in memory and finite; buffers may be whole numbers.

    Args:
        tensors: weights by name.
        where: their file, for the message.
    """
    for name, tensor in tensors.items():
        if tensor.layout is not torch.strided or tensor.is_meta or tensor.is_quantized:
            kind = "meta" if tensor.is_meta else "quantised" if tensor.is_quantized else str(tensor.layout)
            raise InputError(
                f"{name} in {where} is a {kind} tensor; expected plain numbers: save `tensor.to_dense()`"
            )
        if not bool(torch.isfinite(tensor.float() if tensor.itemsize == 1 else tensor).all()):
            raise InputError(
                f"{name} in {where} holds NaN or infinite numbers; expected the weights of a trained model: "
                "take an earlier checkpoint"
            )


def check_types(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], where: str) -> None:
    """Raise InputError for whole, truth or complex values where floats belong, or the reverse."""
    for name, tensor in found.items():
        other = expected.get(name, tensor)
        if (
            tensor.is_floating_point() != other.is_floating_point()
            or tensor.is_complex() != other.is_complex()
        ):
            raise InputError(
                f"{name} in {where} is of the type {tensor.dtype}; expected {other.dtype}: save the weights "
                "as the network holds them"
            )


def write_weights(
    net: nn.Module, out: str | Path, like: str | Path | None = None, key: str | None = None
) -> Path:
    """Write a network's weights with the names and the nesting of the checkpoint that they were loaded from.

    Everything else in the checkpoint is left out: averages, optimisers and copies still hold the forget set.

    Args:
        net: the network.
        out: a new file: .safetensors for a flat state dict; .pt, .pth, .ckpt or .bin for ``torch.save``.
        like: the checkpoint; None: write the network's own names, without nesting.
        key: as ``load_weights``.

    Raises:
        InputError: for another file ending, a file that exists, and as ``load_weights``.
    """
    out = Path(out)
    if out.suffix not in ENDINGS:
        raise InputError(f"got {out} for weights; expected a name that ends in {', '.join(ENDINGS)}")
    if out.exists():
        raise InputError(f"{out} is there already; expected a new file: choose another --out")
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in net.state_dict().items()}
    content: Any = state
    if like is not None:
        reading, _ = _find_reading(net, like, key)
        own = {_strip_wrappers(name): tensor for name, tensor in state.items()}
        places = {where: own[name] for name, where in reading.paths.items() if name in own}
        content = _fill(_read_content(Path(like)), "", places)
    out.parent.mkdir(parents=True, exist_ok=True)
    with lock_file(out):
        if out.suffix == ".safetensors":
            write_tensors(out, dict(_flatten(content, "")))
        else:
            buffer = io.BytesIO()
            torch.save(content, buffer)
            write_bytes(out, buffer.getvalue())
    return out


def _fill(content: Any, path: str, state: Mapping[str, Tensor]) -> Any:
    """Return the content of a checkpoint with its tensors replaced by a network's, and the rest left out."""
    if isinstance(content, Tensor):
        return state.get(_strip_wrappers(path))
    if isinstance(content, list | tuple):
        filled = [_fill(each, f"{path}.{k}", state) for k, each in enumerate(content)]
        return [each for each in filled if each is not None] or None
    if not isinstance(content, Mapping):
        return None
    pairs = (
        (name, _fill(each, f"{path}.{name}" if path else str(name), state)) for name, each in content.items()
    )
    return {name: each for name, each in pairs if each is not None} or None


def _flatten(content: Any, prefix: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(content, Tensor):
        yield prefix, content
    elif isinstance(content, Mapping):
        if prefix.count(".") > DEEPEST:
            raise InputError(
                f"got a checkpoint whose entries contain themselves ({prefix[:60]} ...); expected none"
            )
        for name, value in content.items():
            yield from _flatten(value, f"{prefix}.{name}" if prefix else str(name))
    elif isinstance(content, list | tuple) and all(isinstance(value, Tensor) for value in content):
        yield from ((f"{prefix}.{k}", value) for k, value in enumerate(content))


def _strip_wrappers(name: str) -> str:
    for wrapper in WRAPPERS:
        name = name.replace(f".{wrapper}", ".").removeprefix(wrapper)
    return name


def _find_prefixes(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> list[str]:
    """Return every prefix of the network's first name in a checkpoint."""
    first = next((name for name in wanted if not name.endswith(OPTIONAL)), "")
    found = [name.removesuffix(first) for name in tensors if name == first or name.endswith(f".{first}")]
    return [start.removesuffix(".") for start in found]


def _select_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    start = f"{prefix}." if prefix else ""
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


def _list_differences(own: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> list[str]:
    """Describe the tensors that are missing, unknown or of another shape."""
    missing = [f"{name} is missing" for name in wanted if name not in own and not name.endswith(OPTIONAL)]
    shapes = [
        f"{name} is {list(own[name].shape)}, not {list(value.shape)}"
        for name, value in wanted.items()
        if name in own and own[name].shape != value.shape
    ]
    return [*missing, *shapes, *(f"{name} is unknown" for name in own if name not in wanted)]


def _read_stripped(path: str | Path) -> dict[str, Tensor]:
    """Return ``read_weights`` without the names of wrappers."""
    return {_strip_wrappers(name): tensor for name, tensor in read_weights(path).items()}


def _prefer_average(readings: list[Reading], ema: bool) -> list[Reading]:
    averages = [each for each in readings if each.is_average]
    if averages and len(averages) < len(readings):
        return averages if ema else [each for each in readings if not each.is_average]
    return readings


def _describe_mismatch(
    found: Mapping[str, Mapping[str, Tensor]], tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]
) -> str:
    if not found:
        return (
            f"its names are {', '.join(list(tensors)[:3])}, ...; expected {', '.join(list(wanted)[:3])}, ..."
        )
    prefix, own = min(found.items(), key=lambda pair: len(_list_differences(pair[1], wanted)))
    differing = _list_differences(own, wanted)
    more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
    where = f" below {prefix!r}" if prefix else ""
    return f"{'; '.join(differing[:3])}{more}{where}; expected the weights of this architecture"


def _describe_pickle(error: Exception) -> str:
    """Return the name of the Python object that PyTorch found in a file."""
    found = re.search(r"(?:Unsupported global: GLOBAL|Unsupported class|class) ([\w.]+)", str(error))
    return f"a {found[1]} is in it" if found else explain(error)[:160]
