"""Time of a training step in unflow's loop and in a plain PyTorch loop with the same network and batch.

    python benchmarks/step_overhead.py [--steps 300] [--rounds 5]

The two loops alternate within one run, on one thread; the ratio is that of the median times per step. The
plain loop draws batches of the same size from torch's global stream, and has the same loss, Adam step and
weight average.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import time
from collections.abc import Callable

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import torch
from torch import nn

from unflow.data import digits
from unflow.energies import ClassLogOdds
from unflow.methods import UOT
from unflow.models import Flow, FlowMap
from unflow.nets import MLP
from unflow.target import Target
from unflow.training.loop import fit
from unflow.training.method import Problem
from unflow.training.originals.flow_matching import FlowMatching
from unflow.training.originals.mean_flow import MeanFlow

SHAPE, BATCH = (1, 8, 8), 128


def adam(net: nn.Module, rate: float, betas: tuple[float, float] = (0.9, 0.999)) -> torch.optim.Adam:
    return torch.optim.Adam(net.parameters(), rate, betas, fused=True)


def averager(net: nn.Module, decay: float) -> Callable[[], None]:
    average = copy.deepcopy(net).requires_grad_(False)
    old: list[torch.Tensor] = list(average.parameters())
    new: list[torch.Tensor] = list(net.parameters())

    def update() -> None:
        with torch.no_grad():
            torch._foreach_lerp_(old, new, 1 - decay)

    return update


def bare_flow(x: torch.Tensor, steps: int) -> None:
    net = MLP(SHAPE, 256, 4)
    optimizer, update = adam(net, 2e-3), averager(net, 0.999)
    for _ in range(steps):
        x1 = x[torch.randint(len(x), (BATCH,))]
        x0, t = torch.randn_like(x1), torch.rand(BATCH)
        dx = x1 - x0
        loss = (net(x0 + t[:, None, None, None] * dx, t) - dx).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        update()


def bare_mean_flow(x: torch.Tensor, steps: int) -> None:
    net = MLP(SHAPE, 256, 4, num_times=2)
    optimizer, update = adam(net, 1e-3), averager(net, 0.999)
    for _ in range(steps):
        x1 = x[torch.randint(len(x), (BATCH,))]
        x0, a, b = torch.randn_like(x1), torch.rand(BATCH), torch.rand(BATCH)
        s = torch.minimum(a, b)
        e = torch.where(torch.rand(BATCH) < 0.5, torch.maximum(a, b), s)
        v = x1 - x0
        x_s = x0 + s[:, None, None, None] * v
        U, dU = torch.func.jvp(net, (x_s, s, e), (v, torch.ones_like(s), torch.zeros_like(e)))[:2]
        target = (v + (e - s)[:, None, None, None] * dU).detach()
        error = (U - target).square().flatten(1).mean(1)
        loss = (error / (error.detach() + 1e-3)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        update()


def bare_uot(bank: tuple[torch.Tensor, ...], energy: nn.Module, model: FlowMap, steps: int) -> None:
    z, origin, pool, scale = bank
    G, v = copy.deepcopy(model).requires_grad_(True), MLP(SHAPE, 256, 2, 0, 1)
    opt_G, opt_v = adam(G, 2e-4, (0.5, 0.9)), adam(v, 2e-4, (0.5, 0.9))
    update = averager(G, 0.99)
    for _ in range(steps):
        rows, others = torch.randint(len(z), (BATCH,)), torch.randint(len(pool), (BATCH,))
        moved = G.push(z[rows])
        cost = 2.0 * (origin[rows] - moved).square().flatten(1).sum(1) / scale + energy(moved)
        v.requires_grad_(False)
        loss = (cost - v(moved)[:, 0]).mean()
        v.requires_grad_(True)
        opt_G.zero_grad()
        loss.backward()
        opt_G.step()
        update()
        loss = (v(moved.detach())[:, 0] - cost.detach()).mean() + torch.expm1(-v(pool[others])[:, 0]).mean()
        opt_v.zero_grad()
        loss.backward()
        opt_v.step()


def seconds(job: Callable[[], object]) -> float:
    started = time.perf_counter()
    job()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    steps, x = options.steps, digits().x
    flow, flow_map = Flow(MLP(SHAPE, 256, 4), SHAPE), FlowMap(MLP(SHAPE, 256, 4, 2), SHAPE)
    guide = MLP(SHAPE, 256, 2, 0, 10)
    nn.init.normal_(guide.last.weight, std=0.1)
    energy = ClassLogOdds(guide, [3])
    target = Target(flow_map, energy)
    uot = UOT(steps=steps, bank_size=1024)
    problem = Problem(model=flow_map, target=target)
    prepared = uot.prepare(problem, torch.Generator().manual_seed(0))
    bank = (prepared["z"], prepared["origin"], prepared["pool"], prepared["scale"])

    def time_unflow(method: FlowMatching | MeanFlow | UOT, problem: Problem) -> float:
        """Return the time of the steps alone; both loops make the bank before them."""
        marks: list[float] = []
        fit(method, problem, on_step=lambda _: marks.append(time.perf_counter()))
        return (marks[-1] - marks[0]) / (len(marks) - 1) * steps

    jobs: dict[str, tuple[Callable[[], float], Callable[[], float]]] = {
        "flow": (
            lambda: time_unflow(FlowMatching(steps=steps), Problem(model=flow, data=x)),
            lambda: seconds(lambda: bare_flow(x, steps)),
        ),
        "mean_flow": (
            lambda: time_unflow(MeanFlow(steps=steps), Problem(model=flow_map, data=x)),
            lambda: seconds(lambda: bare_mean_flow(x, steps)),
        ),
        "uot": (
            lambda: time_unflow(uot, problem),
            lambda: seconds(lambda: bare_uot(bank, energy, flow_map, steps)),
        ),
    }
    result = {}
    for name, (first, second) in jobs.items():
        pairs = [(first(), second()) for _ in range(options.rounds)]
        own, bare = (statistics.median(times) / steps * 1000 for times in zip(*pairs, strict=True))
        result[name] = {
            "unflow_ms": round(own, 3),
            "bare_ms": round(bare, 3),
            "ratio": round(own / bare, 3),
            "ratios": [round(a / b, 3) for a, b in pairs],
        }
        print(name, json.dumps(result[name]), flush=True)


if __name__ == "__main__":
    main()
