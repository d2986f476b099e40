"""`unflow reproduce NAME`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser

from unflow.commands.arguments import add_run, flag_first_word, parse_classes
from unflow.commands.run_folders import run_folder
from unflow.commands.settings import ATTACKS, settings_class
from unflow.ground.errors import InputError, choose

if TYPE_CHECKING:  # the help of a command must not wait for torch
    from unflow.evidence.auditing import Attacks


def add_arguments(parser: ArgumentParser, arguments: Sequence[str]) -> list[str]:
    """Add the options; a first positional argument is the name of the experiment."""
    add_run(parser, run, settings={"attacks": settings_class(ATTACKS)})
    return flag_first_word("name", arguments)


def run(
    name: str,
    out: Path,
    seeds: int = 3,
    seed: int = 1,
    dataset: str | None = None,
    classes: str | None = None,
    data: Path | None = None,
    device: str = "cpu",
    jobs: int = 1,
    attack: bool = False,
    conditional: bool = False,
    extractor: str | None = None,
    *,
    attacks: Attacks,
) -> None:
    """Reproduce a paper's table and figures, with our rows beside the paper's.

    Args:
        name: continualflow-2d, continualflow-mnist, continualflow-cifar10, uot-2d, uot-mnist, uot-cifar10.
        out: run folder; the same command continues a run that was stopped.
        seeds: number of runs, with seed, seed+1, ...
        seed: first seed of data, training and judge; the figures show it.
        dataset: one of the experiment's datasets or requests; all by default.
        classes: classes to forget one at a time, like 0,1 (uot-mnist, uot-cifar10); all by default.
        data: folder with the files of MNIST or CIFAR-10.
        device: cpu, cuda or mps.
        jobs: number of studies (seeds, and datasets in two dimensions) made in parallel, one thread each.
        attack: also attack every row of one request, with every seed; works on a finished run too.
        conditional: true for a class-conditional original, whose rows are asked for each label (images only).
        extractor: imagenet for distances in the features of EfficientNet-Lite0 too (extra imagenet; images).
        attacks: settings of the attacks.
    """
    import torch

    from unflow.evidence.extractors import EXTRACTORS
    from unflow.evidence.reproduce import CONDITIONAL, EXPERIMENTS
    from unflow.ground.streams import check_seed
    from unflow.training.compute import check_device

    torch.set_num_threads(1)
    kind = choose(EXPERIMENTS, name, "experiment")
    if conditional and name not in CONDITIONAL:
        raise InputError(
            f"got --conditional for {name}, which has no conditional original; expected one of "
            f"{', '.join(CONDITIONAL)}"
        )
    kind = CONDITIONAL[name] if conditional else kind
    if seeds < 1:
        raise InputError(f"got seeds={seeds}; expected 1 or more")
    if jobs < 1:
        raise InputError(f"got jobs={jobs}; expected 1 or more")
    check_seed(seed)
    check_device(device)
    if dataset is not None and dataset not in kind.datasets:
        raise InputError(f"got the dataset {dataset!r}; expected one of {', '.join(kind.datasets)}")
    if dataset is not None and classes is not None:
        raise InputError("got --dataset and --classes; expected only one of them")
    if attack and not kind.can_be_attacked:
        able = ", ".join(known for known, each in EXPERIMENTS.items() if each.can_be_attacked)
        raise InputError(f"got --attack for {name}, which has no images to relearn; expected one of {able}")
    if extractor is not None:
        if not kind.can_be_attacked:
            raise InputError(f"got --extractor for {name}, which has no images; expected it for images only")
        choose(EXTRACTORS, extractor, "extractor")()  # without its packages, refuse before any training
    only: tuple[str, ...] = () if dataset is None else (dataset,)
    if classes is not None:
        only = kind.choose_requests(parse_classes(classes, "--classes"))
    experiment = kind(
        out=out,
        seeds=range(seed, seed + seeds),
        only=only,
        data=data,
        device=device,
        jobs=jobs,
        attacks=attacks if attack else None,
        extractor=extractor,
    )
    experiment.check()
    record = {"command": "reproduce", "name": name, "seeds": seeds, "seed": seed, "dataset": dataset}
    if classes is not None:
        record |= {"classes": classes}
    if conditional:
        record |= {"conditional": True}
    if extractor is not None:
        record |= {"extractor": extractor}
    started = time.perf_counter()
    with run_folder(out, record):
        experiment.run()
    print((out / "table.md").read_text())
    print(f"table:  {out / 'table.json'}, {out / 'table.md'}")
    print(f"report: {out / 'report.html'}")
    print(f"done in {time.perf_counter() - started:.0f} s")
