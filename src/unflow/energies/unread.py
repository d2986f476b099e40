"""The energy of a request for a method that reads none."""

from __future__ import annotations

import math

from jaxtyping import Float
from torch import Tensor

from unflow.energies.base import Energy
from unflow.ground.errors import InputError


class Unread(Energy):
    """Names what to forget for a method that reads only real samples, such as retraining.

    Args:
        words: the request, like "class 3".
    """

    def __init__(self, words: str) -> None:
        super().__init__()
        self.words = words

    @property
    def lower_bound(self) -> float:
        """-inf: no bound is known."""
        return -math.inf

    def forward(self, x: Float[Tensor, " batch *shape"]) -> Float[Tensor, " batch"]:
        """Raise InputError: the request has no energy."""
        raise InputError(
            f"got a request ({self.words}) without an energy for {len(x)} samples; expected one: write "
            "--energy classifier:DIR"
        )

    def describe(self) -> str:
        """Return the words of the request."""
        return self.words
