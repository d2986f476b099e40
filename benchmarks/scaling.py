"""Memory and time of large models: computed for ImageNet's XL/2, measured at reduced depth.

    python benchmarks/scaling.py memory           memory of UOT on XL/2, with and without each saving
    python benchmarks/scaling.py micro_batches    peak memory and time of a step, each in its own process
    python benchmarks/scaling.py compile          time of a step with torch.compile, relative to eager mode

The first computes its figures without a measurement; the others train on the CPU, on one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from itertools import pairwise
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import torch
from dit_memory import DiTMemory, mlp_parameters, uot_bytes
from torch import nn

from unflow.models import Flow
from unflow.nets import DIT_SIZES, MLP, DiT
from unflow.training.loop import fit, peak_rss_mb
from unflow.training.low_rank import LowRank
from unflow.training.method import Method, Problem
from unflow.training.originals.flow_matching import FlowMatching

SHAPE, BANK, BATCH, RANK = (4, 32, 32), 8192, 32, 8
REDUCED: dict[str, Any] = {"patch": 2, "width": 192, "depth": 4, "heads": 3}


# Arithmetic


def memory() -> None:
    plain, again = (
        DiTMemory(shape=SHAPE, **DIT_SIZES["XL/2"], num_classes=1000, checkpoint=flag)
        for flag in (False, True)
    )
    potential = mlp_parameters(4096, 256, 2)
    print(f"all weights: {plain.parameters:,}; of rank {RANK}: {plain.low_rank(RANK):,}")
    print("| XL/2, GiB | states, banks, sums | batch of 32 | 4 micro-batches of 8 | 32 of 1 |")
    print("|---|---:|---:|---:|---:|")
    for name, net, rank in (
        ("all weights", plain, None),
        ("all weights, checkpoint", again, None),
        (f"rank {RANK}", plain, RANK),
        (f"rank {RANK}, checkpoint", again, RANK),
    ):
        cells = [
            sum(uot_bytes(net, rows, BANK, rank=rank, potential=potential).values()) / 2**30
            for rows in (0, BATCH, BATCH // 4, 1)
        ]
        print(f"| {name} | " + " | ".join(f"{cell:.1f}" for cell in cells) + " |")


# Measurements


def make_network(name: str) -> tuple[nn.Module, tuple[int, ...], int]:
    """Return a network, the shape of its samples, and a batch size."""
    if name == "mlp":
        return MLP((1, 8, 8), 256, 4), (1, 8, 8), 128
    return DiT(SHAPE, **REDUCED, checkpoint="checkpoint" in name), SHAPE, BATCH


def time_steps(name: str, count: int, rank: int | None = None, **how: Any) -> list[float]:
    """Return the seconds of each step of flow matching except the first."""
    torch.manual_seed(0)
    net, shape, batch_size = make_network(name)
    method: Method = FlowMatching(steps=count, batch_size=batch_size)
    problem = Problem(
        model=Flow(net, shape),
        data=torch.randn(batch_size, *shape),
        adapters=None if rank is None else LowRank(rank),
    )
    times: list[float] = []
    fit(method, problem, on_step=lambda _: times.append(time.perf_counter()), **how)
    return [b - a for a, b in pairwise(times)]


def measure_here(arguments: list[str]) -> None:
    """Measure in this process, and print JSON."""
    torch.set_num_threads(1)
    name, count, how = arguments[0], int(arguments[1]), json.loads(arguments[2])
    seconds = time_steps(name, count, **how) if count else []
    print(json.dumps({"peak": peak_rss_mb(), "seconds": statistics.median(seconds) if seconds else 0.0}))


def measure(name: str, count: int, **how: Any) -> dict[str, float]:
    words = [sys.executable, __file__, "one", name, str(count), json.dumps(how)]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def micro_batches() -> None:
    idle = measure("dit", 1, micro_batches=BATCH)["peak"]
    print(f"peak resident memory in MB, beside {idle:.0f} of a process that takes one step row by row")
    print("| micro-batches | rank | above that, MB | a step, s |\n|---:|---:|---:|---:|")
    for k, rank in (1, None), (2, None), (4, None), (8, None), (1, RANK), (4, RANK):
        found = measure("dit", 4, micro_batches=k, rank=rank)
        print(f"| {k} | {rank or '–'} | {found['peak'] - idle:.0f} | {found['seconds']:.2f} |")


def compare_compiled() -> None:
    print("| network | eager, ms | compiled, ms | ratio |\n|---|---:|---:|---:|")
    for name, count in ("mlp", 300), ("dit", 12):
        eager, fast = (1e3 * measure(name, count, compile=flag)["seconds"] for flag in (False, True))
        print(f"| {name} | {eager:.1f} | {fast:.1f} | {fast / eager:.2f} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["memory", "micro_batches", "compile", "one"])
    what, rest = parser.parse_known_args()
    if what.what == "one":
        measure_here(rest)
    else:
        {"memory": memory, "micro_batches": micro_batches, "compile": compare_compiled}[what.what]()
