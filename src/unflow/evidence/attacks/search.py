"""Search: the common signature of the attacks that one judge chooses and another confirms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from unflow.mathematics.shares import Interval
from unflow.models import GenerativeModel
from unflow.models.classifier import Classifier


class Success(Protocol):
    """The result of a search: samples, and the share of them that the second judge confirms."""

    @property
    def x(self) -> Tensor:
        """Samples where the search ended, [n, *sample_shape]."""
        ...

    @property
    def success_share(self) -> float:
        """Share of the samples that are of a forgotten class, in [0, 1]."""
        ...

    @property
    def interval(self) -> Interval:
        """The 95 % interval of the share."""
        ...


Result_co = TypeVar("Result_co", bound=Success, covariant=True)


class Search(Protocol[Result_co]):
    """A search for samples of a forgotten class: ``LatentSearch`` and the searches over the condition."""

    def __call__(
        self,
        model: GenerativeModel,
        judge: Classifier,
        second: Classifier,
        forget: Sequence[int],
        generator: torch.Generator,
    ) -> Result_co:
        """Run the search and return what it reaches.

        Args:
            model: the model to attack; it is not changed.
            judge: the search maximises this judge's probability of the forgotten classes.
            second: another judge, which confirms.
            forget: forgotten classes.
            generator: draws the latents.

        Raises:
            InputError: for a model on which the search is impossible.
        """
        ...
