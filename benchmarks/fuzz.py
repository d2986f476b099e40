"""Malformed inputs over all entry points: `python benchmarks/fuzz.py --n 1000`.

Each input is a damaged file or a wrong value, and a command line that reads it. The command runs in this
process. It must end with an exit code, within 20 s and 1 GB; a refusal is one sentence and leaves the folder
as it was; a failure leaves either no folder of results or one that the same command continues.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import io
import os
import random
import re
import resource
import shlex
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fuzz_inputs import KINDS, Case

SECONDS, MEGABYTES = 20, 1000
"""Limits of one input."""
SMALL = """--net '{"net": "mlp", "width": 8, "depth": 1}' --settings.steps 2"""
MAKE = (
    "split --out split.json",
    f"train digits-guide --split split.json {SMALL} --out guide",
    f"train digits-guide --split split.json {SMALL} --seed 1000 --out judge",
    f"train digits-flow --split split.json {SMALL} --out flow",
    f"train digits-mean-flow --split split.json {SMALL} --out map",
    "audit map --original map --judge judge --forget 3 --split split.json --n 100 --attack false "
    "--out audited",
)
"""The commands that make the sound inputs."""


@dataclass(frozen=True)
class Outcome:
    """How one input ended."""

    case: Case
    code: int | None
    faults: tuple[str, ...]
    message: str
    seconds: float
    megabytes: float


class Hang(BaseException):
    """Raised by the alarm; no code of the project may catch it."""


def make_sound(folder: Path) -> Path:
    """Write the sound inputs that the generator damages."""
    with inside(folder):
        for line in MAKE:
            code, text, _ = call(shlex.split(line))
            assert code == 0, f"{line}: {text}"
    return folder


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Make a folder the current one."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def call(words: list[str]) -> tuple[int | None, str, str]:
    """Run a command in this process; return its code (None: an exception left it), errors, and the trace."""
    from unflow.commands.cli import main

    out, err, shown = io.StringIO(), io.StringIO(), warnings.showwarning
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            return main(words), err.getvalue(), ""
    except Hang:
        return None, err.getvalue(), "hang: " + innermost()
    except BaseException:
        return None, err.getvalue(), innermost()
    finally:
        warnings.showwarning = shown


def innermost() -> str:
    """Return the last line of the current exception and where the project raised it."""
    lines = traceback.format_exc().strip().splitlines()
    where = [
        m[1] + ":" + m[2] for line in lines if (m := re.search(r"(unflow/[\w/]+\.py)\", line (\d+)", line))
    ]
    return f"{lines[-1][:150]} at {where[-1] if where else '?'}"


def contents(folder: Path) -> dict[str, bytes | None]:
    """Return every file and folder within a folder, with its bytes."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def run_case(case: Case, sound: Path, seed: int) -> Outcome:
    """Damage a copy of the sound inputs, run the command of the case, and judge how it ended."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "here"
        shutil.copytree(sound, folder)
        with inside(folder):
            case.damage(folder, random.Random(seed))
        before, idle = contents(folder), reset_peak()
        started = time.perf_counter()
        with inside(folder), alarm(SECONDS), limited_files(case.file_bytes):
            code, text, trace = call(list(case.words))
        seconds, megabytes = time.perf_counter() - started, peak_megabytes() - idle
        faults = tuple(find_faults(case, code, text, trace, before, contents(folder), folder))
    if megabytes > MEGABYTES:
        faults += (f"memory of {megabytes:.0f} MB",)
    return Outcome(case, code, faults, trace or text.strip(), seconds, megabytes)


def find_faults(
    case: Case,
    code: int | None,
    text: str,
    trace: str,
    before: dict[str, bytes | None],
    after: dict[str, bytes | None],
    folder: Path,
) -> Iterator[str]:
    """Yield what is wrong with the end of a command."""
    if code is None:
        yield "hang" if trace.startswith("hang") else "traceback"
        return
    sentences = [line for line in text.splitlines() if ": warning: " not in line]
    if code not in (0, 1, 2):
        yield f"exit code {code}"
    if code and (len(sentences) != 1 or not sentences[0].startswith("unflow") or "Traceback" in text):
        yield "no single sentence"
    if code == 0 and case.refused:
        yield "accepted"
    if code == 2 and after != before:
        changed = sorted(name for name in after if after.get(name) != before.get(name))
        yield f"refused, but wrote {', '.join(changed)[:200]}"
    new = [name for name in after if name not in before]
    if any(name.endswith(".partial") for name in new):
        yield "half-written"
    if code == 1 and any(Path(name).name == "config.yaml" for name in new):
        kept = any("checkpoint" in name for name in new)
        if not kept:
            yield "poisoned folder"


@contextlib.contextmanager
def alarm(seconds: int) -> Iterator[None]:
    """Raise ``Hang`` after some seconds."""

    def ring(*_: object) -> None:
        raise Hang

    old = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, old)


@contextlib.contextmanager
def limited_files(size: int | None) -> Iterator[None]:
    """Let no file grow above a size: a full disk, as a process meets it."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    if size is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


def reset_peak() -> float:
    """Let the peak of the resident memory start anew; return the resident memory in MB."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return read_status("VmRSS")


def peak_megabytes() -> float:
    """Return the largest resident memory since ``reset_peak``, in MB."""
    return read_status("VmHWM")


def read_status(name: str) -> float:
    """Return a line of this process's status in MB; 0 where the system has none."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return 0.0
    found = re.search(rf"{name}:\s+(\d+)", status)
    return int(found[1]) / 1024 if found else 0.0


def limit_memory(megabytes: int) -> None:
    """Refuse this process memory beyond what it has and some more, so that no input fills the machine."""
    size = int((read_status("VmSize") + megabytes) * 2**20)
    resource.setrlimit(resource.RLIMIT_AS, (size, resource.getrlimit(resource.RLIMIT_AS)[1]))


def draw_cases(n: int, seed: int = 0) -> list[Case]:
    """Return n cases; the kinds take turns, and everything about a case depends on the seed alone."""
    rng = random.Random(seed)
    kinds = list(KINDS.values())
    return [kinds[k % len(kinds)](rng) for k in range(n)]


def run_all(n: int, seed: int, sound: Path, verbose: bool = False) -> list[Outcome]:
    """Run n cases."""
    outcomes = []
    for k, case in enumerate(draw_cases(n, seed)):
        outcome = run_case(case, sound, seed * 1_000_003 + k)
        outcomes.append(outcome)
        if verbose or outcome.faults:
            line = (
                f"{k} [{outcome.code}] {'; '.join(outcome.faults) or 'ok'} | {case} | {outcome.message[:400]}"
            )
            print(line.encode("ascii", "backslashreplace").decode(), flush=True)
    return outcomes


def main() -> int:
    """Run the cases and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    limit_memory(4000)
    with tempfile.TemporaryDirectory() as folder:
        outcomes = run_all(options.n, options.seed, make_sound(Path(folder)), options.verbose)
    faults = collections.Counter(
        re.sub(r"(wrote|memory).*", r"\1 ...", f) for o in outcomes for f in o.faults
    )
    codes = collections.Counter(outcome.code for outcome in outcomes)
    print(f"{len(outcomes)} inputs; exit codes {dict(sorted(codes.items(), key=str))}")
    print(
        f"faults: {dict(faults) or 'none'}; slowest {max(o.seconds for o in outcomes):.1f} s; "
        f"largest {max(o.megabytes for o in outcomes):.0f} MB; "
        f"{sum(o.seconds for o in outcomes):.0f} s in all"
    )
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
