"""Residual matching: the stationary point of its losses, critics by shape, rates by weights, its law."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unflow.energies import CallableEnergy
from unflow.ground.errors import InputError
from unflow.ground.streams import stream
from unflow.mathematics.sharpness import edge_contrast
from unflow.methods import UOT, LatentTransport, ResidualMatching
from unflow.methods.residual_matching import HeldLoss, draw_law
from unflow.models import FlowMap, Generator
from unflow.nets import MLP
from unflow.target import Target
from unflow.training.checks import check_method
from unflow.training.critics import ConvCritic, make_critic
from unflow.training.loop import fit
from unflow.training.method import Problem
from unflow.training.rates import scale_rate

SMALL: dict[str, Any] = {"steps": 12, "batch_size": 16, "bank_size": 256, "start_steps": 6, "width": 1}


SIDE = torch.linspace(-1, 1, 8)


def centre(x: Tensor) -> Tensor:
    """Return the horizontal position of the spot in each image, [n], in [-1, 1]."""
    light = x.reshape(len(x), 8, 8).clamp(min=-0.9) + 0.9
    return (light * SIDE).sum((1, 2)) / light.sum((1, 2)).clamp(min=1e-6)


def right(x: Tensor) -> Tensor:
    return nn.functional.softplus(12 * centre(x))


def far_right(x: Tensor) -> Tensor:
    return nn.functional.softplus(40 * (centre(x) - 0.55))


def spots(z: Tensor) -> Tensor:
    """Return images [n, 1, 8, 8] of one spot each, at 0.4 z."""
    x, y = (0.4 * z[:, i].clamp(-2, 2)[:, None, None] for i in (0, 1))
    distance = (SIDE - x).square() + (SIDE[:, None] - y).square()
    return (2 * torch.exp(-distance / 0.1) - 1)[:, None]


@cache
def generator(flat: bool = False) -> Generator:
    """A network of two latents that draws spots; a flat one draws vectors of 64 pixels."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))
        optimizer = torch.optim.Adam(net.parameters(), 3e-3)
        for _ in range(400):
            z = torch.randn(128, 2)
            optimizer.zero_grad()
            (net(z) - spots(z).flatten(1)).square().mean().backward()
            optimizer.step()
    whole = (
        nn.Sequential(net, nn.Tanh()) if flat else nn.Sequential(net, nn.Tanh(), nn.Unflatten(1, (1, 8, 8)))
    )
    return Generator(whole, (2,)).eval().requires_grad_(False)


def problem(energy: Any = right, strength: float = 1.0, flat: bool = False) -> Problem:
    """Spots, of which those on the right are to be forgotten."""
    model = generator(flat)
    return Problem(model=model, target=Target(model, CallableEnergy(energy, 0.0, False), strength))


def test_it_obeys_the_laws_of_methods(tmp_path: Path) -> None:
    """Among them: stopped in every stage and resumed, it ends in the same bits."""
    check_method(ResidualMatching(**SMALL), problem(), tmp_path)


def test_points_are_moved_by_latent_transport_alone() -> None:
    model = FlowMap(MLP((2,), 8, 1, num_times=2), (2,))
    points = Problem(model=model, target=Target(model, CallableEnergy(lambda x: x[:, 0].exp(), 0.0, False)))
    assert ResidualMatching(steps=7).training(points, 0) == (
        LatentTransport(steps=7, batch_size=64, bank_size=16384, average=0.995),
        points,
    )


def test_pixels_in_a_vector_are_an_image() -> None:
    assert isinstance(make_critic(generator(flat=True).sample_shape, seed=0), ConvCritic)


# The stationary point


def silent_critic() -> nn.Module:
    """D(x) = 0, with weights that could change it."""
    critic = make_critic((2,), seed=0)
    assert isinstance(critic, MLP)
    nn.init.zeros_(critic.last.weight)
    nn.init.zeros_(critic.last.bias)
    return critic


def test_a_generator_before_that_critic_has_no_gradient() -> None:
    model = FlowMap(MLP((2,), 8, 1, num_times=2), (2,))
    z = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
    loss, moved = HeldLoss(model, silent_critic(), None, 0.0, 10.0)(z, z[:, None], z[:, None])
    assert torch.equal(moved, z)
    loss.backward()
    assert all(weight.grad is None or not weight.grad.any() for weight in model.parameters())


# Sizes


@pytest.mark.parametrize(
    ("network", "flat", "kind"),
    [
        ("auto", False, ConvCritic),
        ("auto", True, ConvCritic),
        ("mlp", False, MLP),
        ("convolutional", True, ConvCritic),
    ],
)
def test_the_potential_of_uot_fits_the_samples(network: Any, flat: bool, kind: type[nn.Module]) -> None:
    request = problem(flat=flat)
    assert request.target is not None
    energy = CallableEnergy(right, 0.0)
    request = Problem(model=request.model, target=Target(request.target.model, energy))
    method = UOT(bank_size=128, network=network)
    parts = method.init(request, method.prepare(request, stream(0)), 0)
    potential = parts["potential"].net
    assert isinstance(potential, kind)
    assert not potential(torch.randn(4, *generator(flat).sample_shape)).any()


def test_a_convolutional_potential_of_points_is_refused() -> None:
    model = FlowMap(MLP((2,), 8, 1, num_times=2), (2,))
    points = Problem(model=model, target=Target(model, CallableEnergy(lambda x: x[:, 0].exp(), 0.0)))
    with pytest.raises(InputError, match=r"network=convolutional for samples of shape \[2\]"):
        UOT(network="convolutional").check(points)


@pytest.mark.parametrize("size", [0.5, 2.0])
def test_the_rate_is_proportional_to_the_weights(size: float) -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Conv2d(2, 2, 3), nn.BatchNorm1d(7))
    for weight in net.parameters():
        nn.init.constant_(weight, size)
    assert scale_rate(net, 0.01) == pytest.approx(0.01 * size)


def test_a_request_that_moves_few_latents_has_a_larger_bank() -> None:
    rare = draw_law(problem(far_right), 1024, stream(0, 0)).bank.z
    common = draw_law(problem(right), 1024, stream(0, 0)).bank.z
    assert (len(common), len(rare) > 3 * 1024) == (1024, True)


# The law


@pytest.mark.slow
def test_the_half_plane_is_left_and_the_other_kept() -> None:
    request = problem()
    model = fit(ResidualMatching(bank_size=8192), request, seed=1).model
    assert isinstance(model, Generator)
    target = request.target
    assert target is not None
    z = model.prior(20000, stream(5, 0))
    moved, exact = model.push_batches(z), target.sample(20000, stream(6, 0)).x
    kept = z[:, 0] < -0.5
    assert (moved - target.model.push_batches(z))[kept].abs().mean() < 0.05
    left, aim = ((centre(x) > 0.2).float().mean().item() for x in (moved, exact))
    assert left < aim + 0.01
    regressed = fit(LatentTransport(bank_size=8192), request, seed=1).model
    assert isinstance(regressed, Generator)
    sharp, ghosts = (
        edge_contrast(x).mean() / edge_contrast(exact).mean() for x in (moved, regressed.push_batches(z))
    )
    assert ghosts + 0.03 < sharp < 1.03


# Bad input


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"hold": 0.0}, "hold=0.0"),
        ({"r1": -1.0}, "r1=-1.0"),
        ({"share": math.nan}, "share=nan"),
        ({"batch_size": 512}, "batch_size=512"),
        ({"learning_rate": 0.0}, "learning_rate=0.0"),
    ],
)
def test_a_wrong_setting_is_one_sentence(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        ResidualMatching(**SMALL | settings)


def test_a_target_that_keeps_everything_is_refused() -> None:
    with pytest.raises(InputError, match="keeps all of 2048 latents"):
        fit(ResidualMatching(**SMALL), problem(strength=0.0))
