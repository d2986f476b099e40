"""Linux, macOS and Windows: the source uses nothing that only Unix offers without asking for it first."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from unflow.ground.memory import measure_peak_memory

SOURCE = Path(__file__).parents[1] / "src" / "unflow"
UNIX_MODULES = ("resource", "fcntl", "pwd", "grp", "termios", "tty", "pty", "syslog", "readline", "curses")
UNIX_NAMES = {
    "os": {
        "fork",
        "getuid",
        "geteuid",
        "getpgid",
        "killpg",
        "setsid",
        "uname",
        "mkfifo",
        "mknod",
        "chown",
        "lchown",
        "sched_getaffinity",
        "getloadavg",
        "statvfs",
        "wait4",
        "posix_fallocate",
        "O_NOFOLLOW",
        "O_DIRECTORY",
        "O_NONBLOCK",
        "O_CLOEXEC",
        "sync",
        "nice",
        "pread",
        "pwrite",
        "WNOHANG",
    },
    "signal": {"SIGKILL", "SIGHUP", "SIGALRM", "SIGUSR1", "SIGUSR2", "alarm", "setitimer", "pause"},
    "time": {"tzset", "pthread_getcpuclockid", "clock_gettime"},
}  # names that Python on Windows lacks

HIDE = """
import builtins
whole = builtins.__import__
def hide(name, globals=None, locals=None, fromlist=(), level=0):
    asker = str((globals or {}).get("__name__", ""))
    if name.partition(".")[0] in HIDDEN and asker.partition(".")[0] == "unflow":
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    return whole(name, globals, locals, fromlist, level)
builtins.__import__ = hide
"""
IMPORT_ALL = """
import importlib, pkgutil, unflow
for found in pkgutil.walk_packages(unflow.__path__, "unflow."):
    if not found.name.endswith("__main__"):
        importlib.import_module(found.name)
"""
TRAIN = """
import sys
from unflow.commands.cli import main
code = main("train digits-guide --settings.steps 2 --out guide".split())
code = code or main("sample guide --out samples".split()) - 2  # a classifier: refused in a sentence
sys.exit(code)
"""


def run_without_unix(script: str, folder: Path) -> None:
    """Run a script in a process in which unflow's modules cannot import what only Unix has."""
    words = [sys.executable, "-c", f"HIDDEN = {UNIX_MODULES!r}\n{HIDE}\n{script}"]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_module_is_imported_without_what_only_unix_has(tmp_path: Path) -> None:
    run_without_unix(IMPORT_ALL, tmp_path)


def test_a_training_runs_without_what_only_unix_has(tmp_path: Path) -> None:
    run_without_unix(TRAIN, tmp_path)
    assert (tmp_path / "guide" / "model.safetensors").is_file()


def test_the_hidden_modules_are_hidden(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="No module named 'fcntl'"):
        run_without_unix("__name__ = 'unflow.of_this_test'\nimport fcntl", tmp_path)


@pytest.mark.parametrize("file", sorted(SOURCE.rglob("*.py")), ids=lambda file: str(file.relative_to(SOURCE)))
def test_no_name_that_windows_lacks_is_used_unasked(file: Path) -> None:
    """``getattr(os, name, None)`` asks; ``os.name`` does not."""
    used = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Attribute)]
    bare = {(node.value.id, node.attr) for node in used if isinstance(node.value, ast.Name)}
    assert not {f"{module}.{name}" for module, name in bare if name in UNIX_NAMES.get(module, set())}


def test_the_peak_memory_is_that_of_the_process() -> None:
    before = measure_peak_memory()
    kept = bytearray(64 * 2**20)
    kept[::4096] = b"x" * len(kept[::4096])
    assert 0 < before <= measure_peak_memory() < 2**40
