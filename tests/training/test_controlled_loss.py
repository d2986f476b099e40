"""The controlled loss of a velocity has the gradient of the weighted loss, with less noise."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

import unflow as uf
from unflow.ground.errors import InputError
from unflow.methods import ERFM
from unflow.nets import AdaptedVelocity, initial_weights
from unflow.training.losses import ControlledVelocityLoss, VelocityLoss


class Exact(nn.Module):
    """E[x1 - x0 | x_t] of independent standard normal x0, x1, plus a bend of size theta."""

    def __init__(self, theta: float) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.tensor(theta, dtype=torch.float64))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        s = t[:, None]
        return (2 * s - 1) / (s**2 + (1 - s) ** 2) * x + self.theta * torch.tanh(x + s)


def draw(n: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x0, x1 = (torch.randn(n, 1, generator=generator, dtype=torch.float64) for _ in range(2))
    t = torch.rand(n, generator=generator, dtype=torch.float64)
    return x0, x1, t, torch.sigmoid(-4 * (x1[:, 0] - 1.6))


def gradients(controlled: bool, theta: float) -> Tensor:
    """Return the gradient by theta of 200 batches of 1,000 samples."""
    found = []
    for seed in range(200):
        net = Exact(theta)
        loss = ControlledVelocityLoss(net, Exact(0.0)) if controlled else VelocityLoss(net)
        loss(*draw(1000, seed)).backward()
        assert net.theta.grad is not None
        found.append(net.theta.grad)
    return torch.stack(found)


@pytest.mark.parametrize("theta", [0.0, 0.5, -0.7])
def test_both_losses_have_one_gradient(theta: float) -> None:
    plain, controlled = gradients(False, theta), gradients(True, theta)
    error = (plain - controlled).std() / math.sqrt(len(plain))
    assert abs(float((plain - controlled).mean())) < 4 * float(error)
    if theta == 0:
        assert controlled.std() < 0.7 * plain.std()


def test_the_loss_is_0_at_the_original() -> None:
    assert ControlledVelocityLoss(Exact(0.0), Exact(0.0))(*draw(100, 1)) == 0


def test_without_a_loss_of_weight_only_the_distance_to_the_original_is_left() -> None:
    x0, x1, t, w = draw(1000, 2)
    x_t = (1 - t)[:, None] * x0 + t[:, None] * x1
    bend = (0.3 * torch.tanh(x_t + t[:, None])).square().mean()
    loss = ControlledVelocityLoss(Exact(0.3), Exact(0.0))(x0, x1, t, torch.ones_like(w))
    assert float(loss.detach()) == pytest.approx(float(bend))


def test_a_flow_of_points_forgets_by_the_controlled_loss() -> None:
    """The exact velocity of a normal law moves to the half on the left."""

    class Velocity(Exact):
        def __init__(self) -> None:
            super().__init__(0.0)
            with initial_weights(0):  # else they depend on the tests that ran before
                first, last = nn.Linear(2, 64), nn.Linear(64, 1)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
            self.more = nn.Sequential(first, nn.SiLU(), last).double()

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            more: Tensor = self.more(torch.cat([x, t[:, None]], 1))
            return super().forward(x, t) + more

    flow = uf.Flow(Velocity(), (1,), "midpoint", 16)
    energy = uf.energies.CallableEnergy(lambda x: nn.functional.softplus(4 * (x[:, 0] - 0.5)), 0.0)
    target = uf.Target(flow, energy)
    method = ERFM(place="prior", control=True, steps=300, batch_size=256, learning_rate=1e-2, bank_size=8192)
    result = uf.unlearn(target, method, self_measure=0).model
    x = result.sample(8000, uf.stream(3))
    exact = target.sample(8000, uf.stream(4)).x
    grid = torch.linspace(-2.5, 2.5, 26, dtype=torch.float64)
    one, other = (torch.histogram(each[:, 0], grid).hist / len(each) for each in (x, exact))
    assert (one - other).abs().sum() / 2 < 0.06


class Denoiser(nn.Module):
    """E[x1 | x_t] of the same law, plus a bend."""

    def __init__(self) -> None:
        super().__init__()
        self.bend = nn.Parameter(torch.tensor(0.1, dtype=torch.float64))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        s = t[:, None]
        return s / (s**2 + (1 - s) ** 2) * x + self.bend


@pytest.mark.parametrize("controlled", [False, True])
def test_a_network_that_predicts_data_is_trained_by_its_own_error(controlled: bool) -> None:
    x0, x1, t, w = draw(1000, 3)
    x_t = (1 - t)[:, None] * x0 + t[:, None] * x1
    velocity = AdaptedVelocity(Denoiser(), (1,), predicts="data")
    if controlled:
        loss = ControlledVelocityLoss(velocity, copy.deepcopy(velocity))(x0, x1, t, w)
        assert loss == 0
        return
    loss = VelocityLoss(velocity)(x0, x1, t)
    with torch.no_grad():
        own = (velocity.net(x_t, t) - x1).square().mean()
    assert loss.item() == pytest.approx(own.item())


@pytest.mark.parametrize("settings", [{}, {"place": "prior", "weighting": "resample"}, {"place": "chain"}])
def test_it_needs_importance_weights_in_place(settings: dict[str, str]) -> None:
    with pytest.raises(InputError, match="control=True; expected it with place=prior"):
        ERFM(control=True, **settings)  # type: ignore[arg-type]
