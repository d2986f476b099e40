"""Guidance search: find the guidance scale at which the forgotten label draws most of the forgotten class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from unflow.evidence.attacks.condition_rows import ImpossibleAttackError
from unflow.evidence.attacks.reached import Reached, ask_forgotten, confirm, mean_probability
from unflow.ground.errors import InputError, require_at_least
from unflow.models import GenerativeModel
from unflow.models.classifier import Classifier


@dataclass(frozen=True, kw_only=True)
class GuidanceSearch:
    r"""Maximise E_z p(forget | G_g(z; c)) over the guidance scale g, for the forgotten labels c.

    The velocity v_null + g (v_c - v_null) leads away from the label at g < 0, and beyond it at g > 1. The
    search tries a grid of scales, and then, with half the spacing each time, the two neighbours of the best
    scale. All scales have the same latents. Success is the share of fresh samples at the best scale that the
    second judge assigns to a forgotten class.

    Attributes:
        low: the smallest scale.
        high: the largest scale.
        points: scales of the first grid, 2 or more.
        rounds: number of times that the spacing is halved.
        latents: samples at each scale.
        samples: fresh samples that the second judge judges.
    """

    low: float = -4.0
    high: float = 8.0
    points: int = 13
    rounds: int = 3
    latents: int = 200
    samples: int = 1000

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise InputError(f"got guidance from {self.low} to {self.high}; expected finite low < high")
        require_at_least(self, points=2, rounds=0, latents=1, samples=1)

    def __call__(
        self,
        model: GenerativeModel,
        judge: Classifier,
        second: Classifier,
        forget: Sequence[int],
        generator: torch.Generator,
    ) -> Reached:
        """Run the search and return what the best scale draws; ``at`` has the scale "guidance".

        Args:
            model: the conditional model to attack.
            judge: the search maximises this judge's probability.
            second: another judge, which confirms.
            forget: forgotten classes, each a label of the model.
            generator: draws the latents.

        Raises:
            ImpossibleAttackError: for a model without guidance, or one that draws no forgotten label.
        """
        require_forgotten(model, forget)
        _require_guidance(model)
        z = ask_forgotten(model, model.prior(self.latents, generator), forget)
        chances: dict[float, float] = {}

        def best_of(scales: Sequence[float]) -> float:
            for g in scales:
                if g not in chances and self.low <= g <= self.high:
                    x = model.with_guidance(g).push_batches(z)
                    chances[g] = mean_probability(judge, forget, x)
            return max(chances, key=chances.__getitem__)

        spacing = (self.high - self.low) / (self.points - 1)
        best = best_of([self.low + i * spacing for i in range(self.points)])
        for _ in range(self.rounds):
            spacing /= 2
            best = best_of([best - spacing, best + spacing])
        guided, fresh = model.with_guidance(best), model.prior(self.samples, generator)
        return confirm(
            model,
            lambda z: guided.push_batches(ask_forgotten(guided, z, forget)),
            fresh,
            second,
            forget,
            chances[best],
            {"guidance": best},
        )


def require_forgotten(model: GenerativeModel, forget: Sequence[int]) -> None:
    """Raise ImpossibleAttackError for a model that does not draw each forgotten label."""
    drawn = model.require_conditional().drawn
    if missing := [k for k in forget if k not in drawn]:
        raise ImpossibleAttackError(f"the model draws no label {missing[0]}, so it cannot be asked for it")


def _require_guidance(model: GenerativeModel) -> None:
    if model.require_conditional().null is None:
        raise ImpossibleAttackError("the model has no null condition, and so no guidance")
    try:
        model.with_guidance(2.0)
    except InputError:
        raise ImpossibleAttackError(f"the model is a {model.family}, which has no guidance") from None
