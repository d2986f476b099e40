"""Lines about what the guide and the judge of a command see, and warnings; said once nothing is refused."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from unflow.ground.locks import is_first_process

if TYPE_CHECKING:  # the help of a command must not wait for torch
    from torch import Tensor

    from unflow.data import LabelledData
    from unflow.energies import Energy
    from unflow.target import Target
    from unflow.unlearning.sight import Voter


class Findings:
    """Lines and warnings of a command, kept until ``say``: a refusal is one sentence, with nothing before it.

    Args:
        command: its name, for warnings.
    """

    def __init__(self, command: str) -> None:
        self.command = command
        self.lines: list[str] = []
        self.warnings: list[str] = []

    def say(self) -> None:
        """Print the lines, and the warnings on standard error, once; only the first of several processes."""
        if is_first_process():
            for line in self.lines:
                print(line, flush=True)
            for warning in dict.fromkeys(self.warnings):
                print(f"unflow {self.command}: warning: {warning}", file=sys.stderr)
        self.lines, self.warnings = [], []

    def add_guide(self, target: Target, seed: int, labelled: LabelledData | None = None) -> None:
        """Add the classes that the guide of a request gives to the model's samples, and its faults.

        Raises:
            InputError: as ``probe_problem``, ``inspect`` and ``compare_names``.
        """
        from unflow.energies import ConditionEnergy
        from unflow.training.derivatives import probe_problem
        from unflow.unlearning.problems import NO_SAMPLES, make_problem
        from unflow.unlearning.sight import draw_for_sight, find_guide

        probe_problem(make_problem(target, NO_SAMPLES, None))
        if isinstance(target.energy, ConditionEnergy):
            return
        x = draw_for_sight(target.model, seed)
        guide = find_guide(target.energy)
        if guide is None:
            self.lines.append(_describe_energy(target.energy, x))
        else:
            self.add_voter(guide, x, labelled)

    def add_voter(
        self,
        voter: Voter,
        x: Tensor,
        labelled: LabelledData | None = None,
        others: Sequence[tuple[str, Sequence[str] | None]] = (),
        of: str = "the model",
    ) -> None:
        """Add the classes that a classifier gives to samples, and what is wrong with it.

        Args:
            voter: the classifier.
            x: samples.
            labelled: real samples for the accuracy.
            others: other classifiers, with their class names.
            of: the origin of the samples, in words.

        Raises:
            InputError: as ``inspect`` and ``compare_names``.
        """
        from unflow.unlearning.sight import compare_names, inspect

        data = [] if labelled is None else [("data", labelled.class_names)]
        named = [] if voter.is_score else [(voter.who, voter.names), *others, *data]
        self.warnings += compare_names(named, voter.forget)
        found = inspect(voter, x, labelled, of)
        self.lines.append(found.line)
        self.warnings += found.warnings

    def add_parts(self, parts: Mapping[str, LabelledData]) -> None:
        """Add what makes the parts of a split unfit for training or statistics."""
        from unflow.data.parts import find_in_parts

        self.warnings += find_in_parts(parts)


def _describe_energy(energy: Energy, x: Tensor) -> str:
    from unflow.energies.base import evaluate

    F = evaluate(energy, x).double()
    low, middle, high = (float(F.quantile(q)) for q in (0.05, 0.5, 0.95))
    return (
        f"the guide sees: no classes; the energy of {energy.describe()} is {middle:.3g} in the median of "
        f"{len(x)} samples of the model, and {low:.3g} to {high:.3g} in nine of ten"
    )
