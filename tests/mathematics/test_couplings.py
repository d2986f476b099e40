"""Laws of pairings: permutations, least cost, and when a loss may be weighted after them."""

import math

import ot
import pytest
import torch
from torch import Tensor

from unflow.ground.errors import InputError
from unflow.mathematics.couplings import COUPLINGS, Coupling, ExactOT, Independent, pair_blocks


@pytest.fixture(params=COUPLINGS.values(), ids=list(COUPLINGS))
def coupling(request: pytest.FixtureRequest) -> Coupling:
    return request.param()


def batches(n: int, *shape: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(n)
    x0, x1 = torch.randn(2, n, *shape, generator=generator)
    return x0, 2 * x1 + 1


def cost(x0: Tensor, x1: Tensor) -> float:
    return float((x0.double() - x1.double()).square().sum())


@pytest.mark.parametrize("shape", [(2,), (1, 3, 3)])
def test_a_pairing_is_a_permutation(coupling: Coupling, shape: tuple[int, ...]) -> None:
    indices = coupling.pair(*batches(32, *shape))
    assert torch.equal(indices.sort().values, torch.arange(32))


def test_blocks_are_paired_one_by_one(coupling: Coupling) -> None:
    x0, x1 = batches(20, 2)
    parts = [right[coupling.pair(left, right)] for left, right in ((x0[:8], x1[:8]), (x0[8:16], x1[8:16]))]
    assert torch.equal(pair_blocks(coupling, x0[:16], x1[:16], 8), torch.cat(parts))
    assert pair_blocks(coupling, x0, x1, 8).shape == x1.shape  # the last block is smaller


def test_independent_pairs_stay_as_they_come() -> None:
    assert torch.equal(Independent().pair(*batches(5, 2)), torch.arange(5))


@pytest.mark.parametrize("n", [2, 17, 64])
def test_the_exact_plan_costs_what_linear_programming_finds(n: int) -> None:
    x0, x1 = batches(n, 3)
    M = torch.cdist(x0.double(), x1.double()).square().numpy()
    ours = cost(x0, x1[ExactOT().pair(x0, x1)]) / n
    assert ours == pytest.approx(float(ot.emd2([], [], M)), rel=1e-9)


def test_the_exact_plan_in_one_dimension_sorts() -> None:
    x0, x1 = batches(50, 1)
    paired = x1[ExactOT().pair(x0, x1)]
    assert torch.equal(paired[x0[:, 0].argsort(), 0], x1[:, 0].sort().values)


def test_the_exact_plan_finds_a_shuffled_batch_again() -> None:
    x0, _ = batches(40, 2)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    assert torch.equal(order[ExactOT().pair(x0, x0[order])], torch.arange(40))


def test_the_exact_plan_does_not_depend_on_where_the_origin_is() -> None:
    x0, x1 = batches(64, 2)
    near = 2**-6 * x0, 2**-6 * x1
    far = near[0] + 100, near[1] + 100
    best = ExactOT().pair(*(x.double() for x in far))
    assert cost(far[0], far[1][ExactOT().pair(*far)]) == pytest.approx(cost(far[0], far[1][best]), rel=1e-9)


def test_the_exact_plan_takes_samples_with_a_gradient_and_in_half_precision() -> None:
    x0, x1 = batches(8, 2)
    expected = ExactOT().pair(x0.bfloat16().float(), x1)
    assert torch.equal(ExactOT().pair(x0.bfloat16(), x1.clone().requires_grad_()), expected)


def test_only_independent_pairs_keep_the_source_when_the_loss_is_weighted() -> None:
    """The weights of x1, put on the pairs, leave the source's uniform masses for a product only."""
    x0, x1 = batches(6, 2)
    weight = torch.rand(6, generator=torch.Generator().manual_seed(2))
    weight = weight / weight.sum()
    product = torch.full((6, 6), 1 / 36)
    plan = torch.eye(6)[ExactOT().pair(x0, x1)] / 6
    assert Independent().keeps_independence
    assert not ExactOT().keeps_independence
    uniform = torch.full((6,), 1 / 6)
    torch.testing.assert_close(6 * (product * weight).sum(1), uniform)
    assert float((6 * (plan * weight).sum(1) - uniform).abs().max()) > 0.05


def test_batches_of_unequal_size_have_no_exact_plan() -> None:
    with pytest.raises(InputError, match=r"batches of 4 and 3 .*expected equal sizes"):
        ExactOT().pair(torch.zeros(4, 2), torch.zeros(3, 2))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_samples_that_are_not_finite_have_no_exact_plan(bad: float) -> None:
    x0, x1 = batches(4, 2)
    x1[2, 0] = bad
    with pytest.raises(InputError, match="NaN or infinite samples"):
        ExactOT().pair(x0, x1)
