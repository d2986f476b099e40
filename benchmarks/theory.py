"""The figure of docs/theory.md: one request on a line, by the methods of both papers.

    python benchmarks/theory.py docs/images/theory-1d.png

q0 = N(0, 1), G(x) = 6 (x - 0.3) with a margin of 1. Left: trained ERFM and UOT (tau = 0), beside their common
target. Right: the optimum of UOT's objective for increasing tau, computed on a grid without training.
"""

from __future__ import annotations

import argparse
import math
import os
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import matplotlib.pyplot as plt
import torch
from torch import Tensor

import unflow as uf
from unflow.energies import CallableEnergy
from unflow.mathematics.grid import transport_law
from unflow.methods import ERFM, UOT
from unflow.models import Flow, FlowMap
from unflow.nets import MLP

CELLS = torch.linspace(-4, 4, 161)
CENTRES = (CELLS[1:] + CELLS[:-1]) / 2
TAUS = (0.0, 1.0, 3.0, 10.0)
NUM_SAMPLES = 100_000


def energy(x: Tensor) -> Tensor:
    """F = softplus(G + margin): ContinualFlow's weight is exp(-F) = sigmoid(-(G + margin))."""
    return torch.nn.functional.softplus(6 * (x[:, 0] - 0.3) + 1)


def histogram(model: uf.GenerativeModel) -> Tensor:
    x = model.sample(NUM_SAMPLES, uf.stream(0, 1))[:, 0]
    return torch.histc(x, len(CENTRES), -4, 4) / NUM_SAMPLES


def total_variation(p: Tensor, q: Tensor) -> float:
    return float((p.double() - q.double()).abs().sum() / 2)


def train_both() -> dict[str, Tensor]:
    """Return the laws that both methods learn from untrained models, whose law is N(0, 1)."""
    torch.manual_seed(0)  # for the initial weights
    F = CallableEnergy(energy, lower_bound=0.0)
    flow = Flow(MLP([1], width=64, depth=2), [1])
    flow_map = FlowMap(MLP([1], width=64, depth=2, num_times=2), [1])
    erfm = uf.unlearn(uf.Target(flow, F), ERFM(weighting="resample", coupling="exact_ot", thin=True), seed=0)
    uot = uf.unlearn(
        uf.Target(flow_map, F),
        UOT(
            steps=3000,
            batch_size=512,
            tau=0.0,
            r1=0.05,
            anneal_r1=True,
            width=64,
            learning_rate=2e-4,
            potential_rate=2e-3,
            average=0.995,
        ),
        seed=0,
    )
    return {"ERFM, trained": histogram(erfm.model), "UOT, τ = 0, trained": histogram(uot.model)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    torch.set_num_threads(1)
    q0 = torch.exp(-(CENTRES.double() ** 2) / 2)
    q0 /= q0.sum()
    cost = energy(CENTRES[:, None].double())
    target = q0 * torch.exp(-cost)
    target /= target.sum()
    print(f"q*: mass right of 0.3 {float(target[CENTRES > 0.3].sum()):.3f}")
    width = float(CELLS[1] - CELLS[0])
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), sharey=True, layout="constrained")
    for axes, title in (
        (left, "Both papers, one target"),
        (right, "UOT: the transport cost moves the optimum"),
    ):
        axes.fill_between(CENTRES, q0 / width, color="0.88", label="original q0")
        axes.plot(CENTRES, target / width, color="black", linestyle="--", label="target q*")
        axes.set_title(title, loc="left")
        axes.set_xlabel("x")
        axes.spines[["top", "right"]].set_visible(False)
    for (name, law), colour in zip(train_both().items(), ("#0f67a6", "#bf4d0d"), strict=True):
        distance = total_variation(law, target)
        print(f"{name}: total variation to q* {distance:.3f} (sampling alone {floor(target):.3f})")
        left.plot(CENTRES, law / width, color=colour, label=f"{name} (TV {distance:.3f})")
    for k, tau in enumerate(TAUS):
        law = transport_law(q0, CENTRES[:, None], cost, tau=tau, divergence=uf.divergences.KL())
        distance = total_variation(law, target)
        left_over = float(law[CENTRES > 0.3].sum())
        print(f"grid, tau = {tau:g}: total variation to q* {distance:.3f}, mass right of 0.3 {left_over:.3f}")
        label = f"τ = {tau:g} (TV {distance:.3f})"
        right.plot(CENTRES, law / width, color=plt.cm.viridis(k / len(TAUS)), label=label)
    left.set_ylabel("density")
    for axes in (left, right):
        axes.legend(frameon=False, fontsize=8)
    figure.savefig(out, dpi=110)


def floor(law: Tensor) -> float:
    """Return the expected total variation of as many exact samples (Gaussian approximation)."""
    return float((law * (1 - law) / NUM_SAMPLES).sqrt().sum() * math.sqrt(2 / math.pi) / 2)


if __name__ == "__main__":
    main()
