"""`unflow plan`."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser

from unflow.commands.arguments import add_batch_rows, add_run, list_methods
from unflow.commands.option_groups import DataOptions, ModelOptions, RequestOptions, TrainingOptions
from unflow.commands.sight import Findings
from unflow.ground.errors import InputError, choose
from unflow.ground.files import write_json
from unflow.ground.locks import lock_file

if TYPE_CHECKING:  # the help of a command must not wait for torch
    from unflow.data import LabelledData
    from unflow.unlearning.planning import Plan
    from unflow.unlearning.unlearn import RealSamples


def add_arguments(parser: ArgumentParser, arguments: Sequence[str]) -> list[str]:
    """Add the options."""
    add_run(parser, run, defaults={"data": None})
    parser.epilog = list_methods()
    add_batch_rows(parser)
    return list(arguments)


def run(
    original: ModelOptions,
    request: RequestOptions,
    rows: DataOptions,
    computing: TrainingOptions,
    methods: str | None = None,
    seed: int = 0,
    out: Path | None = None,
) -> None:
    """Say what a request would keep, which methods fit, and what each would cost on this machine.

    Args:
        original: the model.
        request: what to forget.
        rows: real samples, for methods that read them; with a split, those of its training part.
        computing: how the training would run.
        methods: names of methods, listed below, like uot_tilted,latent_transport; by default all of unflow's.
        seed: random seed, >= 0.
        out: file for the plan as JSON.
    """
    import torch

    from unflow.ground.streams import check_seed
    from unflow.methods import INSTALLED, UNLEARNERS
    from unflow.unlearning.planning import plan
    from unflow.unlearning.unlearn import RealSamples

    torch.set_num_threads(1)
    check_seed(seed)
    chosen = (
        UNLEARNERS
        if methods is None
        else {name: choose(INSTALLED, name, "method") for name in methods.split(",")}
    )
    if out is not None and out.exists():
        raise InputError(f"{out} exists already; expected a new file: choose another --out")
    if out is not None:
        check_folder(out.parent)
    request = request.with_numbers(rows)
    target = request.target(original.load(request.trust_code))
    findings = Findings("plan")
    findings.add_guide(target, seed, load_labelled(rows))
    found = plan(
        target,
        chosen,
        data=RealSamples() if rows.data is None else select_samples(request, rows),
        compute=computing.compute(),
        seed=seed,
        train_only=computing.patterns,
        adapters=computing.adapters,
        one_label=computing.one_label,
    )
    findings.say()
    print("\n".join(format_plan(found)))
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        with lock_file(out):
            write_json(out, dataclasses.asdict(found))
        print(f"plan: {out}")


def check_folder(folder: Path) -> None:
    """Raise InputError, before any trial, for a folder that cannot be made or written."""
    nearest = next(each for each in (folder, *folder.parents) if each.exists())
    if not (nearest.is_dir() and os.access(nearest, os.W_OK)):
        raise InputError(
            f"got --out in {folder}, and {nearest} is not a writable folder; choose another --out"
        )


def load_labelled(rows: DataOptions) -> LabelledData | None:
    """Return labelled samples that measure a guide: of a split, those that it was not trained on."""
    return None if rows.data is None else rows.part("held_out")


def select_samples(request: RequestOptions, rows: DataOptions) -> RealSamples:
    """Return the real samples of the classes to retain and to forget."""
    from unflow.unlearning.unlearn import RealSamples

    classes, samples = request.require_classes("--data"), rows.part("train")
    return RealSamples(retain=samples.without_classes(classes).x, forget=samples.of_classes(classes).x)


def format_plan(found: Plan) -> list[str]:
    """Return a plan as lines of text."""
    kept = "the energy has no lower bound, so rejection sampling cannot use it"
    if found.acceptance is not None:
        kept = f"rejection keeps {100 * found.acceptance:.1f} % of samples"
    head = [
        f"request: {found.request}; {kept}; "
        f"weights leave an effective sample size of {100 * found.effective_share:.1f} %",
        f"model: {found.parameters:,} weights, {found.trained:,} numbers in training: "
        f"{found.training_mb:.1f} MB without activations",
        "",
    ]
    fits = sorted((o for o in found.methods if o.obstacle is None), key=lambda o: o.seconds or 0.0)
    others = [o for o in found.methods if o.obstacle is not None]
    width = max(len(name) for name in ("method", *(o.method for o in found.methods)))
    body = [
        f"{o.method:{width}}  {o.steps:6d}  {o.seconds or 0.0:8.1f}  {o.peak_rss_mb or 0.0:7.0f}"
        for o in fits
    ]
    if fits:
        body = [f"{'method':{width}}  {'steps':>6}  {'seconds':>8}  process so far, MB, at most", *body]
    return [*head, *body, *(f"{o.method:{width}}  no: {o.obstacle}" for o in others)]
