"""Critics by the shape of a sample, and the loss of a critic: its optimum, its value there, its penalty."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from unflow.nets import MLP
from unflow.training.critics import ConvCritic, CriticLoss, PairLoss, deceive, make_critic, mark_penalised

ALL = torch.ones(4000, dtype=torch.bool)


def quantiles(mean: float) -> Tensor:
    """Return 4,000 equally likely points of N(mean, 1), [4000, 1]."""
    share = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    return torch.special.ndtri(share)[:, None] + mean


def linear(slope: float) -> nn.Linear:
    """Return D(x) = slope x."""
    critic = nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(critic.weight, slope)
    return critic


def jensen_shannon(m: float) -> float:
    """Return JS(N(m, 1), N(-m, 1)) on a fine grid, in nats."""
    x = torch.linspace(-12, 12, 24001, dtype=torch.float64)
    p, q = (torch.exp(-(x - c).square() / 2) / math.sqrt(2 * math.pi) for c in (m, -m))
    middle = (p + q) / 2
    return float(((p * (p / middle).log() + q * (q / middle).log()) / 2).sum() * (x[1] - x[0]))


@pytest.mark.parametrize("m", [0.3, 1.0])
def test_the_log_density_ratio_is_the_best_critic_and_its_loss_tells_the_divergence(m: float) -> None:
    """D* = log p/q = 2 m x for p = N(m, 1) and q = N(-m, 1), and L(D*) = 2 log 2 - 2 JS(p, q)."""
    critic = linear(2 * m)
    loss = CriticLoss(critic)(quantiles(-m), quantiles(m), ALL, 0.0)
    assert loss.item() == pytest.approx(2 * math.log(2) - 2 * jensen_shannon(m), abs=1e-3)
    loss.backward()
    assert critic.weight.grad is not None
    assert abs(critic.weight.grad.item()) < 1e-3
    for other in (1.8 * m, 2.2 * m):
        assert CriticLoss(linear(other))(quantiles(-m), quantiles(m), ALL, 0.0) > loss


def test_a_generator_is_pulled_towards_the_data_and_leaves_no_gradient_in_the_critic() -> None:
    """d/dx softplus(-D(x)) = -D'(x) sigmoid(-D(x)), and for D = 2 m x at x = 0: -m."""
    critic, x = linear(2.0), torch.zeros(5, 1, dtype=torch.float64, requires_grad=True)
    loss = deceive(critic, x)
    assert loss.item() == pytest.approx(math.log(2))
    loss.backward()
    torch.testing.assert_close(x.grad, torch.full_like(x, -1.0 / 5))
    assert critic.weight.grad is None
    assert critic.weight.requires_grad


@pytest.mark.parametrize("m", [0.3, 1.0])
def test_the_best_critic_of_pairs_is_the_log_density_ratio_up_to_a_constant(m: float) -> None:
    """D* = 2 m x + c; L(D*) = log 2 - JS of the two orders of a pair, whose log ratio is N(4 m^2, 8 m^2)."""
    x, y = quantiles(-m), quantiles(m)
    pairs = (x.roll(shift, 0) for shift in range(0, 4000, 40))
    x, y = torch.cat(list(pairs)), y.repeat(100, 1)
    none = torch.zeros(len(x), dtype=torch.bool)
    critic = linear(2 * m)
    loss = PairLoss(critic)(x, y, none, 0.0)
    # The difference D(y) - D(x) has the law N(a^2 / 2, a^2) and a = 2 m sqrt(2), as N(+-a/2, 1) has.
    assert loss.item() == pytest.approx(math.log(2) - jensen_shannon(m * math.sqrt(2)), abs=2e-3)
    loss.backward()
    assert critic.weight.grad is not None
    assert abs(critic.weight.grad.item()) < 3e-3
    shifted = nn.Linear(1, 1).double()
    shifted.load_state_dict({"weight": critic.weight, "bias": torch.tensor([3.0])})
    assert PairLoss(shifted)(x, y, none, 0.0).item() == pytest.approx(loss.item())


def test_a_generator_of_pairs_is_pulled_towards_the_data() -> None:
    """d/dx softplus(D(y) - D(x)) = -D'(x) sigmoid(D(y) - D(x)), and for D = 2 x at x = y: -1."""
    critic, x = linear(2.0), torch.ones(5, 1, dtype=torch.float64, requires_grad=True)
    deceive(critic, x, torch.ones(5, 1, dtype=torch.float64)).backward()
    torch.testing.assert_close(x.grad, torch.full_like(x, -1.0 / 5))
    assert critic.weight.grad is None


def test_a_quarter_of_a_batch_is_penalised() -> None:
    assert mark_penalised(8).tolist() == [True, False, False, False] * 2


def silent_critic() -> nn.Module:
    """D(x) = 0, with weights that could change it."""
    return make_critic((2,), seed=0, silent=True)


def test_a_critic_of_equal_laws_that_says_nothing_has_no_gradient() -> None:
    critic = silent_critic().double()
    x = torch.randn(64, 2, generator=torch.Generator().manual_seed(0)).double()
    loss = CriticLoss(critic)(x, x.flip(0), torch.ones(64, dtype=torch.bool), 0.0)
    assert loss.item() == pytest.approx(2 * math.log(2))
    loss.backward()
    assert all(weight.grad is None or weight.grad.abs().max() < 1e-14 for weight in critic.parameters())


@pytest.mark.parametrize("r1", [0.5, 2.0])
def test_the_penalty_is_half_the_squared_slope(r1: float) -> None:
    critic = nn.Linear(3, 1, bias=False)
    x = torch.zeros(8, 3)
    value = CriticLoss(critic)(x, x, torch.arange(8) % 4 == 0, r1)
    assert value.item() == pytest.approx(2 * math.log(2) + r1 / 2 * critic.weight.square().sum().item())


def test_the_penalty_of_pairs_is_on_both_laws() -> None:
    critic = nn.Linear(3, 1, bias=False)
    x = torch.zeros(8, 3)
    value = PairLoss(critic)(x, x, mark_penalised(8), 0.5)
    assert value.item() == pytest.approx(math.log(2) + 0.5 * critic.weight.square().sum().item())


# Sizes


@pytest.mark.parametrize(
    "shape", [(1, 8, 8), (3, 32, 32), (1, 28, 28), (4, 9, 30), (1, 64, 8), (28, 28), (784,)]
)
def test_images_have_a_convolutional_critic(shape: tuple[int, ...]) -> None:
    critic = make_critic(shape, seed=0)
    assert isinstance(critic, ConvCritic)
    assert critic(torch.randn(2, *shape)).shape == (2, 1)


@pytest.mark.parametrize("shape", [(2,), (16,), (4, 4, 4), (65,)])
def test_points_and_small_latents_have_an_mlp(shape: tuple[int, ...]) -> None:
    critic = make_critic(shape, seed=0)
    assert isinstance(critic, MLP)
    assert critic(torch.randn(2, *shape)).shape == (2, 1)


@pytest.mark.parametrize("shape", [(1, 8, 8), (784,), (2,)])
def test_a_silent_critic_is_0_everywhere(shape: tuple[int, ...]) -> None:
    critic = make_critic(shape, seed=0, silent=True)
    assert not critic(torch.randn(4, *shape)).any()


def test_critics_of_one_seed_are_equal() -> None:
    one, other = (make_critic((1, 8, 8), seed=3).state_dict() for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)
