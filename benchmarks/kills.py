"""Kill commands at random times, repeat them, and compare the results with those of undisturbed runs.

    python benchmarks/kills.py [--kills 20] [--seed 0] [--only train,unlearn,judge] [--out kills.jsonl]

A kill is SIGKILL after a random share of the undisturbed time. The repeated command must end with exit code 0
and with the same files in the same bits; recorded times, and pages that show them, are left out. Of two
processes (`two-devices`), one at random is killed, and the other must end by itself. Models are tiny and a
checkpoint is written after every step, so that kills hit files as often as steps. With `--out`, a kill adds
one JSON line to a file, and the same call continues with the kills that the file lacks; those that went wrong
are tried again. This needs os.fork.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import lightning_fabric  # noqa: F401  # before the forks, which then start at once
import torch

from unflow.commands import audit, demo, judge, plan, reproduce, sample, train, unlearn  # noqa: F401
from unflow.commands.cli import main
from unflow.evidence.reproduce import EXPERIMENTS, continualflow_2d, planar
from unflow.evidence.reproduce import demo as stages
from unflow.evidence.reproduce.study import Recipe
from unflow.training import loop

STEPS = "--settings.steps 40 --settings.batch_size 16"
REQUEST = "--model flow --energy classifier:guide --forget 3"
COMMANDS = {
    "train": f"train digits-flow --split split.json --out OUT {STEPS}",
    "unlearn": f"unlearn {REQUEST} --method erfm_resample --out OUT {STEPS} --settings.bank_size 512 "
    "--settings.block_size 64",
    "judge": "judge --split split.json --guide guide --steps 10 --out OUT",
    "sample": "sample flow --n 100 --out OUT",
    "audit": "audit other --original flow --judge judge --forget 3 --split split.json --n 100 --attack false "
    "--out OUT",
    "plan": f"plan {REQUEST} --methods latent_transport,uot_tilted --out OUT/plan.json",
    "split": "split --out OUT/split.json",
    "export": "export flow --out OUT/flow.pth",
    "demo": "demo --n 100 --out OUT",
    "reproduce": "reproduce continualflow-2d --seeds 1 --dataset moons --out OUT",
    "two-devices": f"train digits-flow --split split.json --out OUT {STEPS} --devices 2",
}
"""Name -> the command; OUT stands for its folder."""
BEFORE = [
    "split --out split.json",
    f"train digits-guide --split split.json --out guide {STEPS}",
    f"train digits-flow --split split.json --out flow {STEPS}",
    f"train digits-flow --split split.json --out other --seed 1 {STEPS}",
    "judge --split split.json --steps 10 --out judge",
]
PATIENCE = 300.0
"""Seconds after which a process hangs."""
TIMES = re.compile(rb'"(?:\w*seconds\w*|peak_rss_mb|inference_ms)": [-+.\w]+|[\d.]+ s\b')
TIMED = (".html", "table.json", "table.md")
"""Endings of files that show times in other ways; their names alone are compared."""


def shrink() -> None:
    """Make trainings tiny, and checkpoints frequent, in this process."""
    loop.CHECKPOINT_SECONDS = 0.0
    torch.set_num_threads(1)
    choose = stages.Demo.choose_method
    stages.Demo.choose_method = lambda self, *args: _small(choose(self, *args))  # type: ignore[method-assign]
    find = Recipe.find_method
    Recipe.find_method = lambda self, *args: _small(find(self, *args))  # type: ignore[method-assign]
    planar.NUM_POINTS = {"train": 400, "judge": 200, "held_out": 400}
    continualflow_2d.TRANSPORT = 100
    for kind in EXPERIMENTS.values():
        recipe = kind.default_recipe
        found = {name: getattr(recipe, name) for name in ("flow", "gan", "guide", "judge")}
        parts = {name: _small(method) for name, method in found.items() if method is not None}
        kind.default_recipe = replace(recipe, n=200, **parts)


def _small(method: Any) -> Any:
    wanted = {"steps": 5, "batch_size": 16, "bank_size": 512, "block_size": 64}
    return replace(method, **{name: value for name, value in wanted.items() if hasattr(method, name)})


def start(words: Sequence[str], log: Path) -> int:
    """Start a command in a forked process and return its id."""
    child = os.fork()
    if child:
        return child
    with log.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    code = 3
    try:
        code = main(words)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def wait(process: int, seconds: float) -> int | None:
    """Return the exit code of a process; None if it has not ended after so many seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found, status = os.waitpid(process, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    return None


def kill(process: int) -> None:
    """End a process that this program started, and wait for it."""
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)


def list_children(process: int) -> list[int]:
    """Return the processes that a process started."""
    text = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(process)], capture_output=True, text=True, check=False
    )
    return [int(word) for word in text.stdout.split()]


def is_running(process: int) -> bool:
    """Return whether a process, of which this program is not the parent, is still running."""
    text = subprocess.run(
        ["ps", "-o", "stat=", "-p", str(process)], capture_output=True, text=True, check=False
    )
    return text.stdout.strip() != "" and not text.stdout.startswith("Z")


def read_results(folder: Path) -> dict[str, bytes]:
    """Return the content of every file in a folder, hidden ones too, without times."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir():
            found[f"{name}/"] = b""
        else:
            found[name] = b"" if name.endswith(TIMED) else _without_times(path)
    return found


def _without_times(path: Path) -> bytes:
    content = path.read_bytes()
    return TIMES.sub(b"", content) if path.suffix in (".json", ".jsonl", ".md", ".yaml") else content


def run_one(words: list[str], log: Path, begin: Callable[[Sequence[str], Path], int] = start) -> float:
    """Run a command to its end and return its seconds.

    Raises:
        RuntimeError: if it fails or hangs.
    """
    started = time.monotonic()
    process = begin(words, log)
    code = wait(process, PATIENCE)
    if code is None:
        kill(process)
    if code != 0:
        raise RuntimeError(f"{' '.join(words)}: exit code {code}\n{log.read_text()[-2000:]}")
    return time.monotonic() - started


def kill_alone(words: list[str], log: Path, delay: float, _: random.Random) -> str:
    """Start a command and kill it after a delay; return what happened."""
    process = start(words, log)
    if wait(process, delay) is not None:
        return "had ended"
    kill(process)
    return "killed"


def kill_one_of_two(words: list[str], log: Path, delay: float, chance: random.Random) -> str:
    """Start a command with two processes and kill one of them; the other must end by itself.

    Raises:
        RuntimeError: if it hangs.
    """
    process = start_shell(words, log)
    end = time.monotonic() + PATIENCE
    while not (children := list_children(process)) and time.monotonic() < end:
        time.sleep(0.1)
    if wait(process, delay / 2) is not None:  # the second process starts about in the middle
        return "had ended"
    if children and chance.random() < 0.5:
        os.kill(children[0], signal.SIGKILL)
        code = wait(process, PATIENCE)
        if code is None:
            kill(process)
            raise RuntimeError(f"rank 0 hangs after rank 1 was killed at {delay:.2f} s")
        return f"rank 1 killed, rank 0 ended with {code}"
    kill(process)
    end = time.monotonic() + PATIENCE
    while any(map(is_running, children)):
        if time.monotonic() > end:
            for child in filter(is_running, children):
                os.kill(child, signal.SIGKILL)
            raise RuntimeError(f"rank 1 hangs after rank 0 was killed at {delay:.2f} s")
        time.sleep(0.1)
    return "rank 0 killed" + (", rank 1 ended" if children else "")


def start_shell(words: Sequence[str], log: Path) -> int:
    """Start a command as the shell does, which `--devices` needs, and return its process id."""
    child = os.fork()
    if child:
        return child
    with log.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.execv(sys.executable, [sys.executable, "-m", "unflow", *words])


def try_command(
    name: str, points: Sequence[int], seed: int, report: Callable[[int, str, str], None]
) -> list[str]:
    """Kill a command at some points, each time in a new folder, and return what went wrong.

    Args:
        name: of the command.
        points: numbers of the kills; a moment depends on the seed, the command and this number alone.
        seed: of the moments.
        report: is called with the number, the event and the fault ("": none) of each kill.
    """
    log = Path("log.txt")
    shell = name == "two-devices"

    def words(out: str) -> list[str]:
        Path(out).mkdir()
        return COMMANDS[name].replace("OUT", f"{out}/out" if "OUT/" not in COMMANDS[name] else out).split()

    def finish(command: list[str]) -> float:
        if not shell:
            return run_one(command, log)
        return run_one(command, log, start_shell)

    seconds = finish(words(f"{name}-whole"))
    expected = read_results(Path(f"{name}-whole"))
    wrong = []
    for k in points:
        chance = random.Random(f"{seed} {name} {k}")
        delay, out = chance.uniform(0.05, 1.0) * seconds, f"{name}-{k}"
        command, event, fault = words(out), "", ""
        try:
            event = (kill_one_of_two if shell else kill_alone)(command, log, delay, chance)
            if not ("OUT/" in COMMANDS[name] and any(each.is_file() for each in Path(out).glob("[!.]*"))):
                finish(command)  # a command that refuses an existing file has written it completely
            differing = find_differing(expected, read_results(Path(out)), out, name)
            fault = f"{', '.join(differing)} differ" if differing else ""
        except RuntimeError as error:
            fault = str(error)
        if fault:
            wrong.append(f"{name} at {delay:.2f} s ({event}): {fault}")
        report(k, f"{delay:.2f} of {seconds:.2f} s: {event}", fault)
        shutil.rmtree(out)
    return wrong


def find_differing(expected: dict[str, bytes], found: dict[str, bytes], out: str, name: str) -> list[str]:
    """Return the names of files that differ, by more than the name of their folder."""
    found = {key.replace(out, f"{name}-whole"): value for key, value in found.items()}
    return sorted(
        key
        for key in expected.keys() | found.keys()
        if found.get(key) != expected.get(key)
        and not _only_names(found.get(key), expected.get(key), out, name)
    )


def _only_names(found: bytes | None, expected: bytes | None, out: str, name: str) -> bool:
    """Return whether two files differ only in the folder that they name."""
    if found is None or expected is None:
        return False
    return found.replace(out.encode(), f"{name}-whole".encode()) == expected


def read_record(file: Path | None, seed: int) -> set[tuple[str, int]]:
    """Return the kills of a seed that a file records as passed, as (command, number)."""
    if file is None or not file.is_file():
        return set()
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    return {(line["command"], line["k"]) for line in lines if line["seed"] == seed and not line["fault"]}


def run(names: Sequence[str], kills: int, seed: int, record: Path | None = None) -> dict[str, object]:
    """Kill each command so often in a temporary folder, and return the counts and all that went wrong.

    Args:
        names: of the commands.
        kills: of each command.
        seed: of the moments.
        record: file with a line of JSON for each kill; those that it records as passed are not repeated.
    """
    home, wrong = Path.cwd(), []
    record = None if record is None else record.absolute()
    passed = read_record(record, seed)
    missing = {name: [k for k in range(kills) if (name, k) not in passed] for name in names}
    source = str(Path(loop.__file__).parents[2])
    os.environ["PYTHONPATH"] = os.pathsep.join([source, os.environ.get("PYTHONPATH", "")])
    shrink()

    def report(name: str, k: int, event: str, fault: str) -> None:
        print(f"{name:12} {k:3} {event}; {fault or 'same'}", flush=True)
        if record is not None:
            line = {"command": name, "k": k, "seed": seed, "event": event, "fault": fault}
            with record.open("a") as file:
                file.write(json.dumps(line) + "\n")

    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            wanted = {word for name in names if missing[name] for word in re.split(r"[ :]", COMMANDS[name])}
            for command in BEFORE:
                if command.split("--out ")[1].split()[0] in wanted | {"split.json"}:
                    run_one(command.split(), Path("log.txt"))
            for name in names:
                if missing[name]:
                    wrong += try_command(name, missing[name], seed, partial(report, name))
        finally:
            os.chdir(home)
    return {"kills": kills * len(names), "passed": kills * len(names) - len(wrong), "wrong": wrong}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=4, help="kills of each command")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default=",".join(COMMANDS), help=f"some of {', '.join(COMMANDS)}")
    parser.add_argument("--out", type=Path, help="file that records each kill; the same call continues it")
    given = parser.parse_args()
    result = run(given.only.split(","), given.kills, given.seed, given.out)
    print(json.dumps(result, indent=2))
    sys.exit(1 if result["wrong"] else 0)
