"""Eight labelled Gaussians: total variation of each method from the exact q*(x | c), condition by condition.

    python benchmarks/conditional_2d.py [--seeds 1 2 3] [--methods erfm_resample_prior latent_transport ...]

The originals are a class-conditional flow and a class-conditional flow map of the same eight Gaussians on a
circle, and the request forgets one of them by its place. The law q*(x | c) is that of exact samples
(``Target.sample``), counted on 32 cells: the nearest centre, and the quadrant around it. Sampling alone
causes the total variation in the column "floor" (two sets of exact samples).
"""

from __future__ import annotations

import argparse
import dataclasses
import math

import torch
from torch import Tensor

import unflow as uf
from unflow.energies import CallableEnergy
from unflow.ground.streams import stream
from unflow.methods import UNLEARNERS, Method
from unflow.models import Conditional, Flow, FlowMap, GenerativeModel
from unflow.nets import AdaptedAverageVelocity, AdaptedVelocity, new_net
from unflow.target import Target
from unflow.training.loop import fit
from unflow.training.losses import OutputLoss
from unflow.training.method import Problem
from unflow.training.originals import FlowMatching

K, FORGET, SIGMA = 8, 3, 0.1
ANGLES = 2 * math.pi * torch.arange(K) / K
CENTRES = torch.stack([ANGLES.cos(), ANGLES.sin()], 1)
NET = {"net": "mlp", "shape": [2], "width": 96, "depth": 3, "frequencies": 3, "num_classes": K}
SETTINGS: dict[str, dict[str, object]] = {
    "erfm": {"steps": 4000, "integration_steps": 16},
    "erfm_resample": {"steps": 4000, "integration_steps": 16},
    "erfm_prior": {"steps": 1500},
    "erfm_resample_prior": {"steps": 1500},
    "energy_guidance": {},
    "latent_transport": {"steps": 3000},
    "latent_transport_uot": {},
    "uot_tilted": {},
    "uot": {},
}


def make_flow(seed: int, steps: int = 2500) -> Conditional:
    """Train a class-conditional flow with a null condition."""
    labels = torch.randint(K, (20_000,), generator=stream(seed, 1))
    x = CENTRES[labels] + SIGMA * torch.randn(20_000, 2, generator=stream(seed, 2))
    net = AdaptedVelocity(new_net({**NET, "num_times": 1}, seed), (2,), "x, t, label", label=0, null_label=K)
    model = Conditional(Flow(net, (2,), steps=12), [1 / K] * K)
    problem = Problem(model=model, data=x, labels=labels)
    found = fit(FlowMatching(steps=steps, learning_rate=4e-3), problem, seed=seed).model
    assert isinstance(found, Conditional)
    return found.eval()


def make_flow_map(seed: int, steps: int = 1500) -> Conditional:
    """Regress a class-conditional one-step map on centre + sigma noise."""
    net = AdaptedAverageVelocity(
        new_net({**NET, "num_times": 2}, seed), (2,), "x, start, end, label", label=0
    )
    model = Conditional(FlowMap(net, (2,)), [1 / K] * K)
    loss, optimizer = OutputLoss(model), torch.optim.Adam(model.parameters(), 3e-3)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 3e-3 * (1 - step / steps)
        z = model.prior(256, stream(seed, 3, step))
        optimizer.zero_grad()
        loss(z, CENTRES[model.conditions(z)] + SIGMA * z[:, :2]).backward()
        optimizer.step()
    return model.eval()


def place(x: Tensor) -> Tensor:
    """Return how much nearer the forgotten centre is than every other one, in nats of a guide."""
    d = torch.cdist(x, CENTRES).square() / (2 * SIGMA**2)
    others = torch.cat([d[:, :FORGET], d[:, FORGET + 1 :]], 1)
    return torch.nn.functional.softplus((others.min(1).values - d[:, FORGET]).clamp(-20, 20))


def make_target(model: GenerativeModel, replace: str = "retained") -> Target:
    """Return the request to forget one Gaussian by its place."""
    return Target(model, CallableEnergy(place, 0.0), replace=replace)


def cells(x: Tensor) -> Tensor:
    """Return the shares of 32 cells: the nearest centre, and the quadrant around it."""
    k = torch.cdist(x, CENTRES).argmin(1)
    dx, dy = (x - CENTRES[k]).T
    cell = 4 * k + 2 * (dx > 0) + (dy > 0)
    return torch.bincount(cell, minlength=4 * K) / len(x)


def tv(x: Tensor, y: Tensor) -> float:
    """Return the total variation of two sets of samples on the cells."""
    return float((cells(x) - cells(y)).abs().sum() / 2)


def measure(target: Target, model: GenerativeModel, n: int = 4000) -> dict[str, tuple[float, float]]:
    """Return condition -> its total variation from the exact law, and that of two sets of exact samples."""
    asked: list[int | str] = [*range(K)]
    found = {}
    if target.model.conditional is not None and target.model.conditional.null is not None:
        asked.append("null")
    for label in asked:
        exact, again = (target.sample(n, stream(50, i), label=label).x for i in (0, 1))
        x = model.sample(n, stream(51), label=label)
        found[str(label)] = (tv(x, exact), tv(again, exact))
    return found


def main() -> None:
    """Print one row per method and seed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", nargs="+", type=int, default=[1])
    parser.add_argument("--methods", nargs="+", default=list(SETTINGS))
    parser.add_argument("--replace", default="retained")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for seed in given.seeds:
        originals: dict[bool, Conditional] = {}
        for name in given.methods:
            method: Method = dataclasses.replace(UNLEARNERS[name], **SETTINGS.get(name, {}))
            is_flow = "flow" in method.families
            if is_flow not in originals:
                originals[is_flow] = make_flow(seed) if is_flow else make_flow_map(seed)
            model = originals[is_flow]
            target = make_target(model, given.replace)
            result = uf.unlearn(target, method, name=name, seed=seed, self_measure=0)
            found = measure(target, result.model)
            worst = max(value for value, _ in found.values())
            floor = max(value for _, value in found.values())
            row = " ".join(f"{label}:{value:.3f}" for label, (value, _) in found.items())
            print(f"{name} seed {seed}: {row} | worst {worst:.3f} floor {floor:.3f}", flush=True)


if __name__ == "__main__":
    main()
