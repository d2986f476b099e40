"""`unflow split`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser

from unflow.commands.arguments import add_run
from unflow.commands.option_groups import DataOptions
from unflow.commands.sight import Findings
from unflow.ground.errors import InputError
from unflow.ground.locks import lock_file

if TYPE_CHECKING:  # the help of a command must not wait for torch
    from unflow.data import Split


def add_arguments(parser: ArgumentParser, arguments: Sequence[str]) -> list[str]:
    """Add the options."""
    add_run(parser, run, skip={"split"})
    return list(arguments)


def run(
    rows: DataOptions, out: Path, shares: tuple[float, float, float] = (0.5, 0.25, 0.25), seed: int = 0
) -> None:
    """Split labelled samples: which train the models, which train the judges, and which only measure.

    Args:
        rows: the samples to split.
        out: the file, split.json; a file that holds the same split stays unchanged.
        shares: shares of train (models and guide), judge and held_out (statistics): > 0, with sum 1.
        seed: random seed of the split, >= 0.
    """
    from unflow.data import read_split, split_data, write_split
    from unflow.ground.streams import check_seed

    check_seed(seed)
    if min(shares) <= 0 or abs(sum(shares) - 1) > 1e-9:
        raise InputError(f"got shares {list(shares)}; expected three numbers > 0 that sum to 1")
    data = rows.part("train")
    split = split_data(data, seed, shares)
    if not out.exists():
        out.parent.mkdir(parents=True, exist_ok=True)
        with lock_file(out):
            write_split(split, data, out)
    elif not _is_same(read_split(out), split):
        raise InputError(f"{out} holds another split; expected a new file: choose another --out")
    findings = Findings("split")
    findings.add_parts({name: data.rows(part) for name, part in split.parts.items()})
    findings.say()
    print(", ".join(f"{name} {len(part)}" for name, part in split.parts.items()))
    print(f"split: {out}")


def _is_same(found: Split, split: Split) -> bool:
    import torch

    parts = zip(found.parts.values(), split.parts.values(), strict=True)
    return found.fingerprint == split.fingerprint and all(torch.equal(a, b) for a, b in parts)
