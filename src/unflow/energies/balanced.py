"""An energy with offsets that keep the shares of the retained classes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unflow.energies.base import Energy, frozen
from unflow.ground.errors import InputError


class Balanced(Energy):
    r"""An energy with offsets that decide how much of each retained class the target keeps.

        F_b(x) = F(x) - sum_k b_k p(k | x, retained)

    A request removes most from those retained classes that look like the forgotten ones. The offsets with
    which every class keeps its share are Lagrange multipliers; ``calibration.balance_classes`` finds them.

    Args:
        energy: F.
        classifier: maps [batch, *shape] to logits [batch, num_classes].
        forget: classes to forget; p(k | x, retained) is the probability of k given that x is in none of them.
        offsets: b, in nats, one per retained class in increasing order.

    Raises:
        InputError: for offsets that are not finite, or (on the first call) not one per retained class.
    """

    offsets: Tensor

    def __init__(
        self, energy: Energy, classifier: nn.Module, forget: Sequence[int], offsets: Sequence[float]
    ) -> None:
        super().__init__()
        if not all(map(math.isfinite, offsets)):
            raise InputError(f"got the offsets {list(offsets)}; expected finite numbers")
        self.energy, self.classifier = energy, frozen(classifier)
        self.forget = tuple(int(k) for k in forget)
        self.register_buffer("offsets", torch.tensor(list(offsets), dtype=torch.float32))

    @property
    def lower_bound(self) -> float:
        """The inner bound minus the largest offset."""
        return self.energy.lower_bound - float(self.offsets.max())

    @property
    def differentiable(self) -> bool:
        """As the inner energy."""
        return self.energy.differentiable

    def forward(self, x: Float[Tensor, " batch *shape"]) -> Float[Tensor, " batch"]:
        """Return F(x) - sum_k b_k p(k | x, retained)."""
        probabilities = retained_probabilities(self.classifier(x), self.forget)
        if probabilities.shape[1] != len(self.offsets):
            raise InputError(
                f"got {len(self.offsets)} offsets for {probabilities.shape[1]} retained classes; expected "
                "one each"
            )
        F: Tensor = self.energy(x) - probabilities @ self.offsets.to(probabilities)
        return F if self.differentiable else F.detach()  # the offsets' gradient is not that of F

    def describe(self) -> str:
        """Return the inner request, marked as balanced."""
        return f"{self.energy.describe()}, balanced"


def retained_probabilities(
    logits: Float[Tensor, " batch classes"], forget: Sequence[int]
) -> Float[Tensor, " batch retained"]:
    """Return p(k | x, retained) for the classes that are not forgotten, [batch, retained classes]."""
    kept = [k for k in range(logits.shape[1]) if k not in set(forget)]
    return logits[:, kept].softmax(1)
