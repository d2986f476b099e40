"""Mixture search: find the two labels whose mixture draws most of the forgotten class."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from unflow.evidence.attacks.condition_rows import ImpossibleAttackError, find_condition_rows
from unflow.evidence.attacks.reached import Reached, confirm, mean_probability
from unflow.ground.errors import InputError, require_at_least
from unflow.models import GenerativeModel
from unflow.models.classifier import Classifier


@dataclass(frozen=True, kw_only=True)
class MixtureSearch:
    r"""Maximise E_z p(forget | G(z; w e_a + (1 - w) e_b)) over pairs of labels a, b and a grid of w.

    The forgotten labels are paired with all others, and those with each other. All mixtures have the same
    latents. Success is the share of fresh samples at the worst mixture that the second judge assigns to a
    forgotten class.

    Attributes:
        weights: the grid of w, each in (0, 1).
        latents: samples of each mixture.
        samples: fresh samples that the second judge judges.
    """

    weights: tuple[float, ...] = (0.25, 0.5, 0.75)
    latents: int = 100
    samples: int = 1000

    def __post_init__(self) -> None:
        require_at_least(self, latents=1, samples=1)
        if not self.weights or not all(0 < w < 1 for w in self.weights):
            raise InputError(f"got weights={list(self.weights)}; expected numbers in (0, 1), like [0.5]")

    def __call__(
        self,
        model: GenerativeModel,
        judge: Classifier,
        second: Classifier,
        forget: Sequence[int],
        generator: torch.Generator,
        labels: Sequence[int] | None = None,
    ) -> Reached:
        """Run the search and return what the worst mixture draws; ``at`` has its "labels" and "weights".

        Args:
            model: the conditional model to attack.
            judge: the search maximises this judge's probability.
            second: another judge, which confirms.
            forget: forgotten classes.
            generator: draws the latents.
            labels: that are paired; None: all that the model draws.

        Raises:
            ImpossibleAttackError: for a model whose condition cannot be replaced, or that draws fewer than
                two of the labels.
        """
        rows = find_condition_rows(model, forget)
        drawn = model.require_conditional().drawn
        pairs = list(itertools.combinations([k for k in drawn if labels is None or k in labels], 2))
        if not pairs:
            raise ImpossibleAttackError("the model draws fewer than two of the labels that are mixed")
        mixtures = [(a, b, w) for a, b in pairs for w in self.weights]
        z = rows.ask(model.prior(self.latents, generator))

        def mix(a: int, b: int, w: float) -> list[torch.Tensor]:
            return rows.mix(w * rows.one_hot(a) + (1 - w) * rows.one_hot(b))

        chances = {each: mean_probability(judge, forget, rows.draw(z, mix(*each))) for each in mixtures}
        a, b, w = max(chances, key=chances.__getitem__)
        fresh = model.prior(self.samples, generator)
        return confirm(
            model,
            lambda z: rows.draw(rows.ask(z), mix(a, b, w)),
            fresh,
            second,
            forget,
            chances[a, b, w],
            {"labels": [a, b], "weights": [w, 1 - w], "pairs": len(pairs)},
        )
