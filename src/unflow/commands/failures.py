"""The wall of the command line: an error that no check has foreseen becomes one sentence and an exit code."""

from __future__ import annotations

import errno
import re
from pathlib import Path

from unflow.ground.errors import explain, locate, shorten
from unflow.ground.memory import is_out_of_memory

BAD_NAMES = frozenset(
    {
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.EEXIST,
        errno.ENAMETOOLONG,
        errno.ELOOP,
        errno.EINVAL,
        errno.ENXIO,
        errno.ESPIPE,
    }
)
"""Errors of the operating system that another name on the command line corrects."""
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def explain_failure(error: Exception) -> tuple[int, str]:
    """Return the exit code and the sentence for an error that no check has foreseen."""
    if isinstance(error, OSError):
        return _explain_system(error)
    if is_out_of_memory(error):
        return 1, (
            f"the memory does not suffice ({_measure(error)}); expected smaller numbers: write a smaller "
            "n, size, width, bank_size or batch_size, or --batch_rows"
        )
    file = find_file(error)
    subject = "the command" if file is None else str(file)
    return 2, (
        f"{subject} cannot be used ({shorten(explain(error))}, at {locate(error)}); expected values and "
        "files as the documentation describes them: write --traceback to see where it fails"
    )


def _measure(error: Exception) -> str:
    """Return how much memory was asked for, in words."""
    found = re.search(r"tried to allocate (\d+) bytes", str(error))
    return (
        shorten(explain(error)) if found is None else f"{int(found[1]) / 1e9:.1f} GB were asked for at once"
    )


def find_file(error: Exception) -> Path | None:
    """Return the file that the innermost function with such an argument was reading when it failed."""
    frames, trace = [], error.__traceback__
    while trace is not None:
        frames.append(trace.tb_frame)
        trace = trace.tb_next
    values = (value for frame in reversed(frames) for value in frame.f_locals.values())
    return next((value for value in values if isinstance(value, Path) and value.is_file()), None)


def _explain_system(error: OSError) -> tuple[int, str]:
    """Return the exit code and the sentence for an error of the operating system."""
    name = find_file(error) if error.filename is None else error.filename
    what = (
        f"{shorten(str(name))} cannot be read or written"
        if name is not None
        else "a file cannot be read or written"
    )
    reason = error.strerror or explain(error)
    if error.errno in BAD_NAMES:
        return 2, f"{what} ({reason}); expected a file or folder that can be: choose another name"
    remedy = (
        "free some space, or choose another disk"
        if error.errno in NO_ROOM
        else "change its rights, or choose another"
    )
    return 1, f"{what} ({reason}); expected a disk with room and the right to use it: {remedy}"
