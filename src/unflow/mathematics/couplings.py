"""Couplings: how the rows of a source batch are paired with the rows of a data batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unflow.ground.errors import InputError
from unflow.ground.progress import follow


class Coupling(ABC):
    """A permutation that pairs row i of the source with row pair(...)[i] of the data."""

    @property
    @abstractmethod
    def keeps_independence(self) -> bool:
        """Whether weighting a loss by a function of x1 leaves the law of the source unchanged."""

    @abstractmethod
    def pair(self, x0: Float[Tensor, " n *shape"], x1: Float[Tensor, " m *shape"]) -> Int[Tensor, " n"]:
        """Return the rows of x1 [batch, *shape] that are paired with those of x0 [batch, *shape]: [batch]."""


@dataclass(frozen=True)
class Independent(Coupling):
    """Row i of x0 is paired with row i of x1."""

    @property
    def keeps_independence(self) -> bool:
        """True."""
        return True

    def pair(self, x0: Float[Tensor, " n *shape"], x1: Float[Tensor, " m *shape"]) -> Int[Tensor, " n"]:
        """Return 0, 1, ..., batch - 1."""
        return torch.arange(len(x0), device=x0.device)


@dataclass(frozen=True)
class ExactOT(Coupling):
    """The permutation of least total squared distance in the batch (minibatch OT, arXiv 2302.00482)."""

    @property
    def keeps_independence(self) -> bool:
        """False: the plan makes x0 depend on x1, so a weight of x1 would change the marginal of x0."""
        return False

    def pair(self, x0: Float[Tensor, " n *shape"], x1: Float[Tensor, " m *shape"]) -> Int[Tensor, " n"]:
        """Return argmin over permutations of sum_i ||x0_i - x1_perm(i)||^2.

        Raises:
            InputError: if the two batches differ in size or hold NaN or infinite values.
        """
        from scipy.optimize import linear_sum_assignment  # its import takes a second

        if len(x0) != len(x1):
            raise InputError(
                f"got batches of {len(x0)} and {len(x1)} for an exact OT plan; expected equal sizes"
            )
        # Single precision finds a wrong plan for points that are far from the origin.
        a, b = (x.detach().flatten(1).cpu().double() for x in (x0, x1))
        cost = torch.cdist(a, b).square_().numpy()
        if cost.size and not bool((cost < float("inf")).all()):
            raise InputError("got NaN or infinite samples for an OT plan; expected finite numbers")
        _, columns = linear_sum_assignment(cost)
        return torch.as_tensor(columns, device=x0.device)


def plan_blocks(
    coupling: Coupling, x0: Float[Tensor, " n *shape"], x1: Float[Tensor, " n *shape"], block_size: int
) -> Int[Tensor, " n"]:
    """Return for each row of x0 the row of its partner in x1, paired in blocks of ``block_size`` rows."""
    blocks = list(zip(torch.split(x0, block_size), torch.split(x1, block_size), strict=True))
    first = range(0, len(x0), block_size)
    found = [
        start + coupling.pair(left, right)
        for start, (left, right) in zip(first, follow(blocks, "pair samples"), strict=True)
    ]
    return torch.cat(found)


def pair_blocks(
    coupling: Coupling, x0: Float[Tensor, " n *shape"], x1: Float[Tensor, " n *shape"], block_size: int
) -> Float[Tensor, " n *shape"]:
    """Return the rows of x1 in the order of their partners in x0 (``plan_blocks``)."""
    return x1[plan_blocks(coupling, x0, x1, block_size)]


COUPLINGS: dict[str, type[Coupling]] = {"independent": Independent, "exact_ot": ExactOT}
