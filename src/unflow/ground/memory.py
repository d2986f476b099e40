"""The memory of this process, on Linux, macOS and Windows."""

from __future__ import annotations

import re
import sys
from pathlib import Path


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
