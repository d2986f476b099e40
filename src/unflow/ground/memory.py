"""The memory of this process and of this machine, on Linux, macOS and Windows."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from unflow.ground.errors import InputError, explain, shorten

if TYPE_CHECKING:  # the help of the command line imports this file, and must not wait for torch
    from torch import Tensor
    from torch.utils.hooks import RemovableHandle

SHARE = 0.9
"""Share of the free memory that a third-party function may take: other programs need some."""
RENEWED = 2**26
"""Bytes of new weights after which the free memory is measured again."""
_MESSAGES = (
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "invalid array size",
    "Storage size",
)
_GROUPS = (
    ("memory.max", "memory.current", "inactive_file", "active_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file", "total_active_file"),
)
"""Files of a control group (versions 2 and 1): limit, usage, and the lines of memory.stat with its caches."""


def measure_peak_memory() -> int:
    """Return the largest resident memory of this process so far, in bytes.

    It is 0 on a system that has neither Python's module ``resource`` nor the Windows API.
    """
    status = Path("/proc/self/status")
    if status.is_file():  # Linux, whose ru_maxrss begins with that of the process that has started this one
        found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
        if found:
            return 1024 * int(found[1])
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return _ask_windows()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _ask_windows() -> int:
    """Return PeakWorkingSetSize of GetProcessMemoryInfo; 0 where there is no such function."""
    import ctypes
    from ctypes import wintypes

    libraries = getattr(ctypes, "windll", None)
    if libraries is None:
        return 0

    class Counters(ctypes.Structure):
        """PROCESS_MEMORY_COUNTERS of psapi.h."""

        _fields_ = (
            ("size", wintypes.DWORD),
            ("page_faults", wintypes.DWORD),
            ("peak_working_set", ctypes.c_size_t),
            *((f"other_{k}", ctypes.c_size_t) for k in range(7)),
        )

    counters = Counters(size=ctypes.sizeof(Counters))
    current = libraries.kernel32.GetCurrentProcess
    current.restype = wintypes.HANDLE
    libraries.psapi.GetProcessMemoryInfo(
        wintypes.HANDLE(current()), ctypes.byref(counters), wintypes.DWORD(counters.size)
    )
    return int(counters.peak_working_set)


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an error says that the memory of this machine or of its accelerator does not suffice."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in _MESSAGES)
    )


@contextmanager
def guard_memory(name: str) -> Iterator[None]:
    """Within this context, allocations beyond the free memory fail, instead of a kill by the system.

    On Linux, the soft limit RLIMIT_DATA is the memory of this process and ``SHARE`` of the free memory of the
    machine, or of its container. It counts every private writable page, also of a file that is mapped for
    copy-on-write, and no memory of an accelerator. macOS does not enforce this limit and swaps to its disk;
    Windows promises no memory that it lacks. There, only the system's own refusals become a sentence.

    Args:
        name: of the function that runs within, for the message.

    Raises:
        InputError: if the memory does not suffice.
    """
    free = measure_free_memory()
    try:
        with _LIMIT.hold():
            yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        has = "" if free is None else f", which has {free / 1e9:.1f} GB left"
        raise InputError(
            f"{name} needs more memory than this machine can give{has} ({shorten(explain(error))}); expected "
            "a network that fits: write smaller sizes among its options, or end other programs"
        ) from error


def measure_free_memory() -> int | None:
    """Return the memory that this process can still get, in bytes; None on systems without /proc/meminfo.

    It is MemAvailable and SwapFree, or less inside a control group with a limit, as containers are.
    """
    try:
        found = dict(re.findall(r"(\w+):\s+(\d+) kB", Path("/proc/meminfo").read_text()))
        free = 1024 * (int(found["MemAvailable"]) + int(found["SwapFree"]))
    except (OSError, KeyError):
        return None
    return min([free, *_measure_groups()])


def _measure_groups() -> Iterator[int]:
    """Yield the free memory of each control group of this process that has a limit."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    named = (line.split(":", 2) for line in lines)
    paths = {path.strip("/") for _, kind, path in named if kind in ("", "memory")}
    for root in (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/memory")):
        for path in {"", *paths}:
            yield from _measure_group(root / path)


def _measure_group(folder: Path) -> list[int]:
    """Return the free memory of a control group, where caches count as free; none for one without a limit."""
    found = []
    for limit, usage, *caches in _GROUPS:
        try:
            most, used = int((folder / limit).read_text()), int((folder / usage).read_text())
            stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            found.append(max(0, most - used + sum(int(stat[name]) for name in caches)))
        except (OSError, ValueError, KeyError):  # no such group, or "max"
            continue
    return found


class _DataLimit:
    """The soft limit RLIMIT_DATA of this process, which threads may hold at the same time."""

    def __init__(self) -> None:
        self._lock, self._holders, self._before, self._new = threading.Lock(), 0, 0, 0
        self._hook: RemovableHandle | None = None

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Limit this process to its memory and the free memory; do nothing where they are unknown."""
        with self._lock:
            size = _measure_most()
            if size is not None:
                self._holders += 1
                if self._holders == 1:
                    self._before, self._new, self._hook = _set_limit(size), 0, self._watch()
        try:
            yield
        finally:
            if size is not None:
                self._release()

    def _release(self) -> None:
        with self._lock:
            self._holders -= 1
            if self._holders == 0:
                assert self._hook is not None
                self._hook.remove()
                _set_limit(self._before)

    def _watch(self) -> RemovableHandle:
        """Set the limit again after each ``RENEWED`` bytes of new weights, as other programs take memory."""
        from torch.nn.modules import module as hooks

        def renew(_: object, __: str, weight: Tensor | None) -> None:
            self._new += 0 if weight is None else weight.nbytes
            size = _measure_most() if self._new >= RENEWED else None
            if size is not None:
                self._new = 0
                _set_limit(size)

        return hooks.register_module_parameter_registration_hook(renew)


_LIMIT = _DataLimit()


def _measure_most() -> int | None:
    """Return the memory of this process and ``SHARE`` of the free memory, in bytes; None where unknown.

    It is also None without Python's module ``resource``, which Windows lacks.
    """
    try:
        import resource  # noqa: F401
    except ModuleNotFoundError:
        return None
    free, used = measure_free_memory(), _measure_data()
    return None if free is None or used is None else used + int(SHARE * free)


def _measure_data() -> int | None:
    """Return the private writable memory of this process in bytes; None on systems without /proc."""
    try:
        found = re.search(r"VmData:\s+(\d+) kB", Path("/proc/self/status").read_text())
    except OSError:
        return None
    return None if found is None else 1024 * int(found[1])


def _set_limit(size: int) -> int:
    """Set the soft limit RLIMIT_DATA, at most to the hard one, and return the one before."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    unlimited = resource.RLIM_INFINITY
    if unlimited not in (size, hard):
        size = min(size, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (size, hard))
    return soft
