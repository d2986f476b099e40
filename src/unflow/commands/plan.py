"""`unflow plan`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from jsonargparse import ArgumentParser

from unflow.base_models import load_rows
from unflow.commands.options import parse_classes
from unflow.divergences import DIVERGENCES
from unflow.errors import InputError, choose
from unflow.files import write_json
from unflow.foreign import load_energy, load_model, with_options
from unflow.methods import INSTALLED, UNLEARNERS
from unflow.planning import Plan, plan
from unflow.target import Target
from unflow.training import check_device, check_seed


def add_arguments(parser: ArgumentParser, arguments: Sequence[str]) -> list[str]:
    """Add the options."""
    parser.add_function_arguments(run)
    return list(arguments)


def run(
    model: str,
    energy: str,
    forget: str,
    weights: Path | None = None,
    prior: str | None = None,
    methods: str | None = None,
    margin: float = 4.0,
    strength: float = 1.0,
    divergence: Literal["kl", "softplus", "chi2"] = "kl",
    data: str | None = None,
    split: Path | None = None,
    seed: int = 0,
    device: str = "cpu",
    trust_code: bool = False,
    out: Path | None = None,
) -> None:
    """Say what a request would leave, which methods fit, and what each would take on this machine.

    Args:
        model: bundle of the model, or a line that names one of somebody else's, as for `unflow unlearn`.
        energy: as for `unflow unlearn`.
        forget: classes, like 3 or 3,5.
        weights: of a model that is no bundle, as @WEIGHTS behind it.
        prior: of a model that is no bundle, like normal:64, as prior= behind it.
        methods: row names, like uot_tilted,latent_transport; by default all but those of installed packages.
        margin: of the energy, >= 0.
        strength: lam, >= 0.
        divergence: what holds the target near the original.
        data: digits, mnist:DIR, folder:DIR@32, npz:FILE, ..., for methods that need real samples.
        split: split.json, to use its training part only.
        seed: >= 0.
        device: cpu, cuda or mps.
        trust_code: whether bundles may run the functions that they name for networks of somebody else's.
        out: file for the plan as JSON.
    """
    torch.set_num_threads(1)
    check_seed(seed)
    check_device(device)
    classes = parse_classes(forget)
    chosen = UNLEARNERS if methods is None else {
        name: choose(INSTALLED, name, "method") for name in methods.split(",")
    }  # fmt: skip
    if out is not None and out.exists():
        raise InputError(f"{out} is there already; expected a new file: choose another --out")
    original = load_model(with_options(model, weights, prior), trust_code)
    F = load_energy(energy, classes, margin, original, trust_code)
    target = Target(original, F, strength, DIVERGENCES[divergence]())
    rows = None if data is None else load_rows(data, split, "train")
    found = plan(
        target, chosen, seed=seed, device=device,
        retain=None if rows is None else rows.without_classes(classes).x,
        forget=None if rows is None else rows.of_classes(classes).x,
    )  # fmt: skip
    print("\n".join(lines(found)))
    if out is not None:
        write_json(out, dataclasses.asdict(found))
        print(f"plan: {out}")


def lines(found: Plan) -> list[str]:
    """Return a plan as lines of a terminal."""
    kept = "an energy without a lower bound: nothing can be rejected by it"
    if found.acceptance is not None:
        kept = f"rejection keeps {100 * found.acceptance:.1f} % of samples"
    head = [
        f"request: {found.request}; {kept}; weights leave {100 * found.effective_share:.1f} % of a bank",
        f"model: {found.parameters:,} weights, {found.training_mb:.1f} MB in training (without activations)",
        "",
    ]
    fits = sorted((o for o in found.methods if o.obstacle is None), key=lambda o: o.seconds or 0.0)
    others = [o for o in found.methods if o.obstacle is not None]
    width = max(len(o.method) for o in found.methods)
    body = [
        f"{o.method:{width}}  {o.steps:6d} steps  about {o.seconds or 0.0:8.1f} s  "
        f"{o.peak_rss_mb or 0.0:7.0f} MB"
        for o in fits
    ]
    return [*head, *body, *(f"{o.method:{width}}  no: {o.obstacle}" for o in others)]
