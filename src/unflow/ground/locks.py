"""Locks: only one process at a time writes into a folder of results.

The operating system holds the lock and releases it when its process ends, however it ends. A lock file that a
killed process left behind is therefore free. Where the system or disk has no such locks, nothing is locked.
"""

from __future__ import annotations

import inspect
import os
import platform
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

from unflow.ground.errors import InputError

LOCK = ".lock"
"""The name of the lock file in a folder."""
_HELD: dict[Path, int] = {}
"""Lock file -> the thread of this process that holds it."""
_BYTE = 1 << 30
"""The byte that is locked on Windows; the text before it can be read by others."""
PAUSE = 0.05
"""Seconds between two attempts of a process that waits."""
P = ParamSpec("P")
R = TypeVar("R")


def is_first_process() -> bool:
    """Return whether this is the process that writes and prints, and not one that `--devices` started."""
    return int(os.environ.get("LOCAL_RANK", "0")) == 0


def locks_output(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function hold the lock of the folder in its argument ``out``, unless that is None."""
    signature = inspect.signature(function)

    @wraps(function)
    def locked(*args: P.args, **kwargs: P.kwargs) -> R:
        out = signature.bind_partial(*args, **kwargs).arguments.get("out")
        with lock_folder(out):
            return function(*args, **kwargs)

    return locked


@contextmanager
def lock_folder(folder: str | Path | None) -> Iterator[None]:
    """Within this context, no other process may write into a folder; None locks nothing.

    The folder is made if needed, and removed at the end if it is still empty. The thread that holds the lock
    may take it again, and so may the processes that `--devices` started.

    Raises:
        InputError: if another process, or another thread, writes into the folder.
    """
    if folder is None or not is_first_process():
        yield
        return
    path = Path(folder)
    made = [each for each in (path, *path.parents) if not each.exists()]
    if made:
        path.mkdir(parents=True, exist_ok=True)
    try:
        with _hold(path / LOCK, path):
            yield
    finally:
        for each in made:
            with suppress(OSError):  # it holds results by now
                each.rmdir()


@contextmanager
def lock_file(file: str | Path | None, wait: bool = False) -> Iterator[None]:
    """Within this context, no other process may write a file, whose folder must exist; None locks nothing.

    Args:
        file: the file.
        wait: whether to wait for another process that writes it.

    Raises:
        InputError: as ``lock_folder``.
    """
    path = None if file is None else Path(file)
    if path is None or not is_first_process() or not path.parent.is_dir():
        yield
        return
    with _hold(path.with_name(f".{path.name}{LOCK}"), path, wait):
        yield


@contextmanager
def _hold(file: Path, output: Path, wait: bool = False) -> Iterator[None]:
    key, thread = file.absolute(), threading.get_ident()
    if _HELD.get(key) == thread:
        yield
        return
    while wait and key in _HELD:
        time.sleep(PAUSE)
    if key in _HELD:
        raise _refuse(output, str(os.getpid()))
    opened = _open_locked(file, output, wait)
    if opened is None:
        yield
        return
    _HELD[key] = thread
    try:
        yield
    finally:
        del _HELD[key]
        _release(opened, file)


def _open_locked(file: Path, output: Path, wait: bool) -> int | None:
    """Return the opened and locked file; None for a disk on which no file can be made or locked.

    Raises:
        InputError: if another process holds the lock.
    """
    while True:
        try:
            opened = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError:
            return None  # nothing can be written here; the first file of the result says so
        try:
            has_locks = _lock(opened)
        except BlockingIOError:
            holder = os.read(opened, 200).decode(errors="replace").strip()
            os.close(opened)
            if not wait:
                raise _refuse(output, holder) from None
            time.sleep(PAUSE)
            continue
        if not has_locks:
            os.close(opened)
            file.unlink(missing_ok=True)
            return None
        if _is_still(opened, file):
            os.ftruncate(opened, 0)
            os.write(opened, f"{os.getpid()} on {platform.node()}\n".encode())
            return opened
        os.close(opened)  # its holder removed the file between the two calls


def _refuse(output: Path, holder: str) -> InputError:
    return InputError(
        f"{output} is in use by the process {holder or 'of another command'}; expected one command at a "
        "time: wait until it ends, or choose another --out"
    )


def _is_still(opened: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(opened), file.stat())
    except FileNotFoundError:
        return False


def _lock(opened: int) -> bool:
    """Lock an opened file; return False where locks do not exist.

    Raises:
        BlockingIOError: if another process has locked it.
    """
    try:
        if sys.platform == "win32":
            import msvcrt

            os.lseek(opened, _BYTE, os.SEEK_SET)
            try:
                msvcrt.locking(opened, msvcrt.LK_NBLCK, 1)
            except PermissionError as error:
                raise BlockingIOError from error
            finally:
                os.lseek(opened, 0, os.SEEK_SET)
        else:
            import fcntl

            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except (ImportError, OSError):
        return False
    return True


def _release(opened: int, file: Path) -> None:
    """Remove a lock file and end its lock; Windows removes no file that is open."""
    if sys.platform == "win32":
        os.close(opened)
        with suppress(OSError):  # the next process has opened it
            file.unlink()
    else:
        file.unlink(missing_ok=True)
        os.close(opened)
