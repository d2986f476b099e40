"""Who is paired with whom: the plan between a batch of the source and a batch of the data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from unflow.ground.errors import InputError


class Coupling(ABC):
    """A permutation that pairs row i of the source with row pair(...)[i] of the data."""

    @property
    @abstractmethod
    def keeps_independence(self) -> bool:
        """Whether a loss may be multiplied by a weight of x1 without changing the source's law."""

    @abstractmethod
    def pair(self, x0: Tensor, x1: Tensor) -> Tensor:
        """Return indices [batch] into x1 for x0, x1 of shape [batch, *shape]."""


@dataclass(frozen=True)
class Independent(Coupling):
    """x0 and x1 as they come."""

    @property
    def keeps_independence(self) -> bool:
        """True."""
        return True

    def pair(self, x0: Tensor, x1: Tensor) -> Tensor:
        """Return 0, 1, ..., batch - 1."""
        return torch.arange(len(x0), device=x0.device)


@dataclass(frozen=True)
class ExactOT(Coupling):
    """The permutation of least total squared distance in the batch (minibatch OT, arXiv 2302.00482)."""

    @property
    def keeps_independence(self) -> bool:
        """False: weighting the loss after the plan would change the marginal of x0."""
        return False

    def pair(self, x0: Tensor, x1: Tensor) -> Tensor:
        """Return argmin over permutations of sum_i ||x0_i - x1_perm(i)||^2.

        Raises:
            InputError: if the two batches differ in size or have NaN.
        """
        if len(x0) != len(x1):
            raise InputError(
                f"got batches of {len(x0)} and {len(x1)} for an exact OT plan; expected equal sizes"
            )
        # In double precision: single loses the plan of points that are far from the origin.
        a, b = (x.detach().flatten(1).cpu().double() for x in (x0, x1))
        cost = torch.cdist(a, b).square_().numpy()
        if cost.size and not bool((cost < float("inf")).all()):
            raise InputError("got NaN or infinite samples for an OT plan; expected finite numbers")
        _, columns = linear_sum_assignment(cost)
        return torch.as_tensor(columns, device=x0.device)


def pair_blocks(coupling: Coupling, x0: Tensor, x1: Tensor, block_size: int) -> Tensor:
    """Return the rows of x1 in the order of their partners in x0, paired block by block."""
    blocks = zip(x0.split(block_size), x1.split(block_size), strict=True)
    return torch.cat([right[coupling.pair(left, right)] for left, right in blocks])


COUPLINGS: dict[str, type[Coupling]] = {"independent": Independent, "exact_ot": ExactOT}
