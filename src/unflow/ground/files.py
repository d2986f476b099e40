"""Atomic writes, JSON lines and hashes: a file is either complete or absent."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from unflow.ground.errors import InputError


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``content`` atomically: a reader, also after a crash, sees the old file or the new one."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def write_json(path: Path, value: Any) -> None:
    """Write plain data as indented JSON; NaN raises ``ValueError``, because it is not JSON."""
    write_bytes(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """Return the plain data in a JSON file.

    Raises:
        InputError: if the file is missing or not JSON.
    """
    try:
        return json.loads(path.read_text())
    except OSError as error:
        raise InputError(f"{path} is missing; expected a file that unflow wrote") from error
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON ({error}); write it again") from error


def stage(file: Path, make: Callable[[], Any]) -> Any:
    """Return the plain data in a JSON file; if the file is missing, compute the data and write it first."""
    if not file.is_file():
        value = make()
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, value)
    return read_json(file)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Any = None) -> None:
    """Write tensors as one safetensors file, with plain metadata in its header."""
    plain = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    write_bytes(path, save(plain, {"unflow": json.dumps(metadata)}))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], Any]:
    """Return the tensors and metadata of a file that ``write_tensors`` wrote.

    Raises:
        InputError: if the file is missing, truncated, or in another format (a pickle is never read).
    """
    if not path.is_file():
        raise InputError(f"{path} is missing; expected a safetensors file")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = (file.metadata() or {}).get("unflow", "null")
            return {name: file.get_tensor(name) for name in file.keys()}, json.loads(metadata)  # noqa: SIM118
    except SafetensorError as error:
        with path.open("rb") as raw:
            start = raw.read(8)
        # A safetensors file may start with these bytes too: its length in 8 bytes, of which the last are 0.
        magic = start.startswith((b"\x80\x02", b"\x80\x04", b"\x80\x05", b"PK"))
        kind = "a pickle" if magic and not start.endswith(b"\0\0\0\0") else "truncated"
        raise InputError(
            f"{path} is {kind} or damaged; expected a whole safetensors file "
            "(unflow never reads pickles: convert weights with safetensors first)"
        ) from error


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> Path:
    """Write arrays as a compressed .npz atomically; create its folder if needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    write_bytes(path, buffer.getvalue())
    return path


def append_json_line(path: Path, record: Mapping[str, Any]) -> None:
    """Append one record to a JSON-lines file."""
    with path.open("a") as file:
        file.write(json.dumps(record) + "\n")


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Return the records of a JSON-lines file without a last line that a crash has truncated."""
    records = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            records.append(json.loads(line))
        except ValueError:
            break
    return records


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's content."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def sha256_text(text: str) -> str:
    """Return the SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def sha256_tensors(*tensors: Tensor) -> str:
    """Return one SHA-256 of the types, shapes and contents of tensors: the fingerprint of a dataset."""
    digest = hashlib.sha256()
    for tensor in tensors:
        plain = tensor.detach().cpu()
        known = plain.dtype != torch.bfloat16  # NumPy has no such type
        array = np.ascontiguousarray((plain if known else plain.view(torch.int16)).numpy())
        digest.update(f"{array.dtype if known else 'bfloat16'}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def sha256_module(module: torch.nn.Module) -> str:
    """Return one SHA-256 of a module's parameters and buffers, sorted by name."""
    state = module.state_dict()
    names = sorted(state)
    return sha256_tensors(
        torch.tensor(list("\n".join(names).encode()), dtype=torch.uint8), *(state[k] for k in names)
    )
