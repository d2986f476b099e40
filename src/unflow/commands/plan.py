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
    from unflow.unlearning.planning import Outlook, Plan
    from unflow.unlearning.problems import RealSamples

COLUMNS = (
    "method",
    "bounds missed",
    "FD / floor",
    "left over target, points",
    "steps",
    "seconds",
    "MB, at most",
    "",
)
"""Means over runs on third-party models (three columns), and estimates for this model and machine."""
MEASURED = (
    "bounds missed, FD / floor and left over target are means over runs on third-party models; steps, "
    "seconds and MB are for this model and machine"
)
TRIAL_WORDS = {"diverged": "diverged", "did not move": "did not move", "blurred": "was blurred"}


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
    """Say what a request would keep, and rank the methods by expected quality and time on this machine.

    A method is tried with 5 % of its steps. Methods that fit come first, by the bounds that they missed on
    third-party models, then by their distance to the exact target, then by time.

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
    from unflow.unlearning.problems import RealSamples

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
    from unflow.unlearning.problems import RealSamples

    classes, samples = request.require_classes("--data"), rows.part("train")
    retained = samples.without_classes(classes)
    return RealSamples(retain=retained.x, retain_labels=retained.labels, forget=samples.of_classes(classes).x)


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
    fits = [o for o in found.methods if o.obstacle is None]
    others = [o for o in found.methods if o.obstacle is not None]
    width = max(len(name) for name in ("method", *(o.method for o in found.methods)))
    table = align_columns([COLUMNS, *map(format_outlook, fits)], width) if fits else []
    if any(o.measured for o in fits):
        head.insert(2, MEASURED)
    return [*head, *table, *(f"{o.method:{width}}  no: {o.obstacle}" for o in others)]


def format_outlook(outlook: Outlook) -> list[str]:
    """Return the row of a method that fits."""
    found = outlook.measured
    numbers = ["–", "–", "–"]
    if found is not None:
        values = (found.misses, found.distance, found.left)
        numbers = ["–" if value is None else f"{value:.2f}" for value in values]
    notes = [] if found is not None else ["not measured"]
    notes += [f"its trial {TRIAL_WORDS[fault]}" for fault in outlook.faults]
    if found is not None and found.original_inside:
        notes.append("the original stays inside")
    return [
        outlook.method,
        *numbers,
        f"{outlook.steps}",
        "–" if outlook.seconds is None else f"{outlook.seconds:.1f}",
        "–" if outlook.peak_rss_mb is None else f"{outlook.peak_rss_mb:.0f}",
        "; ".join(notes),
    ]


def align_columns(rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """Return rows as lines: names on the left, numbers on the right, notes last."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            [f"{name:{width}}", *(f"{x:>{w}}" for x, w in zip(numbers, widths[1:-1], strict=True)), notes]
        ).rstrip()
        for name, *numbers, notes in rows
    ]
