"""Print what the guide and the judge of a command see, and warnings, before anything is trained."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from torch import Tensor

from unflow.commands.run_folders import is_first_process
from unflow.data import LabelledData
from unflow.data.parts import find_in_parts
from unflow.energies import Energy
from unflow.energies.base import evaluate
from unflow.target import Target
from unflow.unlearning.sight import Sight, Voter, compare_names, draw_for_sight, find_guide, inspect


def show_guide(command: str, target: Target, seed: int, labelled: LabelledData | None = None) -> None:
    """Print the classes that the guide of a request gives to the model's samples, and what is wrong with it.

    Raises:
        InputError: as ``inspect`` and ``compare_names``.
    """
    x = draw_for_sight(target.model, seed)
    guide = find_guide(target.energy)
    if guide is None:
        print_lines(command, [_describe_energy(target.energy, x)], [])
        return
    show_voter(command, guide, x, labelled)


def show_voter(
    command: str,
    voter: Voter,
    x: Tensor,
    labelled: LabelledData | None = None,
    others: Sequence[tuple[str, Sequence[str] | None]] = (),
    of: str = "the model",
) -> None:
    """Print the classes that a classifier gives to samples, and what is wrong with it.

    Args:
        command: its name, for warnings.
        voter: the classifier.
        x: samples.
        labelled: real samples for the accuracy.
        others: other classifiers, with their class names.
        of: the origin of the samples, in words.

    Raises:
        InputError: as ``inspect`` and ``compare_names``.
    """
    data = [] if labelled is None else [("data", labelled.class_names)]
    named = [] if voter.is_score else [(voter.who, voter.names), *others, *data]
    differences = compare_names(named, voter.forget)
    found: Sight = inspect(voter, x, labelled, of)
    print_lines(command, [found.line], [*differences, *found.warnings])


def show_parts(command: str, parts: Mapping[str, LabelledData]) -> None:
    """Print what makes the parts of a split unfit for training or statistics, as warnings."""
    print_lines(command, [], find_in_parts(parts))


def print_lines(command: str, lines: Sequence[str], warnings: Sequence[str]) -> None:
    """Print lines, and warnings on standard error; only in the first process of several."""
    if not is_first_process():
        return
    for line in lines:
        print(line)
    for warning in warnings:
        print(f"unflow {command}: warning: {warning}", file=sys.stderr)


def _describe_energy(energy: Energy, x: Tensor) -> str:
    F = evaluate(energy, x).double()
    low, middle, high = (float(F.quantile(q)) for q in (0.05, 0.5, 0.95))
    return (
        f"the guide sees: no classes; the energy of {energy.describe()} is {middle:.3g} in the median of "
        f"{len(x)} samples of the model, and {low:.3g} to {high:.3g} in nine of ten"
    )
