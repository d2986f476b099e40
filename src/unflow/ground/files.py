"""Atomic writes, JSON lines and hashes: a file is either complete or absent."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import stat
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from unflow.ground.errors import InputError, convert_errors, explain, shorten

if TYPE_CHECKING:  # the help of a command must not wait for torch
    import numpy as np
    import torch
    from torch import Tensor


MAX_YAML, MAX_ENTRIES, MAX_NESTED = 1_000_000, 100_000, 100
"""Bytes of a YAML file, its entries once aliases are expanded, and its nested brackets."""
MAX_UNPACKED, MAX_BYTES = 500, 500_000_000
"""How much larger than packed a member of an archive may be, if it has more than so many bytes."""


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``content`` atomically: a reader, also after a crash, sees the old file or the new one."""
    partial = path.with_name(f".{path.name}.partial")
    with removed_on_error(partial, path):
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)


@contextmanager
def removed_on_error(partial: Path, path: Path) -> Iterator[None]:
    """Remove a partly written file if the writing within fails, as on a full disk; name the whole file."""
    try:
        yield
    except BaseException as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None:
            error.filename = str(path)
        raise


def check_regular(path: Path, expected: str) -> None:
    """Raise InputError unless a path is a regular file: pipes and devices may never end.

    Args:
        path: of the file.
        expected: the kind of file, for the message.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        if isinstance(error, FileNotFoundError):
            raise InputError(f"{path} is missing; expected {expected}") from error
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{path} cannot be read ({reason}); expected {expected}") from error
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe, a device or a socket"
        raise InputError(f"{path} is {kind}; expected {expected}")


def read_yaml(path: Path, loader: type[yaml.SafeLoader] = yaml.SafeLoader) -> Any:
    """Return the plain data in a YAML file.

    Args:
        path: of the file, in UTF-8 with or without a byte order mark.
        loader: of the values; ``values.PlainLoader`` for files that people write.

    Raises:
        InputError: if the file is missing, no UTF-8, not YAML, or larger than ``MAX_ENTRIES`` once aliases
            are expanded.
    """
    check_regular(path, "a YAML file")
    if path.stat().st_size > MAX_YAML:
        raise InputError(f"{path} has {path.stat().st_size} bytes; expected at most {MAX_YAML} of YAML")
    try:
        text = path.read_bytes().decode("utf-8-sig")
        check_nesting(text)
        return yaml.load(text, loader)
    except InputError as error:
        raise InputError(f"{path} {error}") from error
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        reason = " ".join(explain(error).split() + _find_mark(error))
        raise InputError(
            f"{path} is not valid YAML in UTF-8 ({reason}); expected lines like `seed: 3`: indent by spaces"
        ) from error


def check_nesting(text: str) -> None:
    """Raise InputError for YAML with brackets or aliases that would take minutes or fill the memory.

    Raises:
        YAMLError: for a text that is not YAML.
    """
    steps = accumulate((bracket in "[{") - (bracket in "]}") for bracket in text if bracket in "[{]}")
    if max(steps, default=0) > MAX_NESTED:
        raise InputError(
            f"has more than {MAX_NESTED} brackets within each other; expected the options of a command: "
            "write them without brackets"
        )
    _count_entries(yaml.compose(text, yaml.SafeLoader), {})


def _find_mark(error: Exception) -> list[str]:
    mark = getattr(error, "problem_mark", None)
    return [] if mark is None else [f"{getattr(error, 'problem', '')}, line {mark.line + 1}"]


def _count_entries(node: Any, known: dict[int, float]) -> float:
    """Return the number of entries below a YAML node with aliases expanded; nan within a cycle."""
    if node is None or isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) not in known:
        known[id(node)] = math.nan
        children = node.value if isinstance(node, yaml.SequenceNode) else [x for p in node.value for x in p]
        known[id(node)] = 1 + sum(_count_entries(child, known) for child in children)
    if not known[id(node)] <= MAX_ENTRIES:
        raise InputError(
            f"has aliases that contain themselves or expand to more than {MAX_ENTRIES} entries; expected the "
            "options of a command: write the values out"
        )
    return known[id(node)]


def write_json(path: Path, value: Any) -> None:
    """Write plain data as indented JSON; NaN raises ``ValueError``, because it is not JSON."""
    write_bytes(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """Return the plain data in a JSON file.

    Raises:
        InputError: if the file is missing or not JSON.
    """
    check_regular(path, "a file that unflow wrote")
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
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
    import torch
    from safetensors.torch import save

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
    from safetensors import SafetensorError, safe_open

    check_regular(path, "a safetensors file")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = (file.metadata() or {}).get("unflow", "null")
            return {name: file.get_tensor(name) for name in file.keys()}, json.loads(metadata)  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, TypeError, OverflowError, RuntimeError) as error:
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
    import numpy as np

    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    write_bytes(path, buffer.getvalue())
    return path


def starts_as_array(path: Path) -> bool:
    """Return whether a file begins as NumPy's files of one array do."""
    import numpy as np

    with path.open("rb") as file:
        return file.read(len(np.lib.format.MAGIC_PREFIX)) == np.lib.format.MAGIC_PREFIX


def list_arrays(path: Path) -> list[str]:
    """Return the names of the members of a .npz file.

    Raises:
        InputError: if the file is damaged.
    """
    with convert_errors(f"{path} is no .npz file", "one that np.savez wrote"), zipfile.ZipFile(path) as file:
        return [name.removesuffix(".npy") for name in file.namelist()]


def read_arrays(path: Path, names: Collection[str], expected: str) -> dict[str, np.ndarray]:
    """Return those of the named arrays that a .npz file holds; nothing else is read.

    Args:
        path: of the file.
        names: of the arrays.
        expected: the kind of file, for messages.

    Raises:
        InputError: if the file is missing or damaged, is no .npz file, or holds a named member that is no
            array of numbers or texts, or one larger than its packed size allows (``MAX_UNPACKED``).
    """
    check_regular(path, expected)
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            return {name: _read_member(archive, members[name]) for name in names if name in members}
    except MemoryError as error:
        raise InputError(f"{path} needs more memory than there is; expected {expected}") from error
    except InputError as error:
        raise InputError(f"{path} {error}; expected {expected}") from error
    except Exception as error:  # zipfile, zlib and NumPy raise a dozen kinds for damaged files
        raise InputError(
            f"{path} is damaged, or no .npz file ({explain(error)}); expected {expected}"
        ) from error


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    """Return the array in a member; its declared size is checked before memory is used."""
    import numpy as np

    name = info.filename
    if info.file_size > max(MAX_BYTES, MAX_UNPACKED * info.compress_size):
        raise InputError(f"unpacks {name} from {info.compress_size} to {info.file_size} bytes")
    with archive.open(info) as file:
        if file.read(len(np.lib.format.MAGIC_PREFIX)) != np.lib.format.MAGIC_PREFIX:
            raise InputError(f"holds {name}, which is no array")
    with archive.open(info) as file:
        version = np.lib.format.read_magic(file)
        read = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        shape, _, dtype = read(file)
        declared = math.prod(shape) * dtype.itemsize
        if dtype.hasobject or min(shape, default=0) < 0 or declared != info.file_size - file.tell():
            raise InputError(
                f"declares {name} as {dtype} {shorten(str(list(shape)))}, and holds "
                f"{info.file_size - file.tell()} bytes of it"
            )
    with archive.open(info) as file:
        array: np.ndarray = np.lib.format.read_array(file, allow_pickle=False)
    return array


def append_json_line(path: Path, record: Mapping[str, Any]) -> None:
    """Append one record to a JSON-lines file."""
    with path.open("a") as file:
        file.write(json.dumps(record) + "\n")


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Return the records of a JSON-lines file without a last line that a crash has truncated."""
    records = []
    for line in path.read_bytes().splitlines() if path.is_file() else []:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            break
        if not isinstance(record, dict):
            break
        records.append(record)
    return records


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's content."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def sha256_text(text: str) -> str:
    """Return the SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def sha256_tensors(*tensors: Tensor) -> str:
    """Return one SHA-256 of the types, shapes and contents of tensors: the fingerprint of a dataset."""
    import numpy as np
    import torch

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
    import torch

    state = module.state_dict()
    names = sorted(state)
    return sha256_tensors(
        torch.tensor(list("\n".join(names).encode()), dtype=torch.uint8), *(state[k] for k in names)
    )
