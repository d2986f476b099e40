"""A probability of what is to be forgotten, whoever says it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from unflow.energies.base import frozen
from unflow.energies.opaque import Opaque
from unflow.energies.probabilities import FLOOR, check_floor, log_probabilities, two_probabilities
from unflow.ground.errors import InputError


class ScoreLogOdds(Opaque):
    r"""Log-odds of a score in [0, 1] that a sample is to be forgotten; no gradient.

        L(x) = log p(x) - log (1 - p(x)),    F = softplus(L + margin) >= 0

    Args:
        score: p, maps [batch, *shape] to [batch] in [0, 1]: a ``BlackBox``, or any function of tensors; a
            module is copied and frozen.
        margin: >= 0, in nats; None for the unbounded log-odds.
        floor: in (0, 0.5), of p and 1 - p.

    Raises:
        InputError: for numbers out of these ranges, and (on the first call) for scores that are not one
            number in [0, 1] per sample.
    """

    floor: Tensor

    def __init__(
        self, score: Callable[[Tensor], Tensor], margin: float | None = 0.0, floor: float = FLOOR
    ) -> None:
        super().__init__([1], margin)
        check_floor(floor)
        self.score = frozen(score) if isinstance(score, nn.Module) else score
        self.register_buffer("floor", torch.tensor(floor, dtype=torch.float64))

    def logits(self, x: Tensor) -> Tensor:
        """Return log (1 - p) and log p, [batch, 2]."""
        p = self.score(x)
        if p.shape != (len(x),):
            raise InputError(
                f"the score returned shape {list(p.shape)} for {len(x)} samples; expected [{len(x)}], one "
                "number per sample"
            )
        if bool(p.isnan().any()):
            raise InputError(
                f"got a score that is NaN for {int(p.isnan().sum())} of {len(p)} samples; expected a number "
                "in [0, 1] for each: mend the score"
            )
        if not bool(((p >= 0) & (p <= 1)).all()):
            raise InputError(
                f"got scores from {float(p.min()):.4g} to {float(p.max()):.4g}; expected numbers in [0, 1]: "
                "divide percents by 100, or in Python give others as an energy, "
                "CallableEnergy(score, differentiable=False)"
            )
        return log_probabilities(two_probabilities(p), float(self.floor))

    def describe(self) -> str:
        """Return the name of the score."""
        margin, name = self.log_odds.margin, getattr(self.score, "__name__", type(self.score).__name__)
        return f"score {name} ({'raw log-odds' if margin is None else f'margin {margin:g}'})"
