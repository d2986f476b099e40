"""Unbalanced transport on a finite support against closed forms and brute force."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.optimize import minimize_scalar

from unflow.ground.errors import InputError
from unflow.mathematics.divergences import DIVERGENCES, KL
from unflow.mathematics.grid import cell_centres, law_on_grid, transport_law

X = torch.linspace(-4, 4, 81)[:, None]


def two_bumps() -> torch.Tensor:
    density = torch.exp(-((X[:, 0] + 1.5) ** 2)) + torch.exp(-((X[:, 0] - 1.5) ** 2)) + 1e-4
    return density / density.sum()


def total_variation(p: torch.Tensor, q: torch.Tensor) -> float:
    return float((p.double() - q.double()).abs().sum() / 2)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_without_a_transport_cost_the_optimum_is_the_target(name: str) -> None:
    q0, divergence = two_bumps(), DIVERGENCES[name]()
    cost = 1.5 * torch.sigmoid(2 * X[:, 0])
    target = q0.double() * divergence.tilt(divergence.multiplier(cost, q0) - cost.double())
    law = transport_law(q0, X, cost, tau=0.0, divergence=divergence)
    assert float(law.sum()) == pytest.approx(1)
    assert total_variation(law, target) < 0.005


def test_nothing_moves_without_a_reason_or_at_an_infinite_price() -> None:
    q0 = two_bumps()
    free = transport_law(q0, X, torch.zeros(len(X)), tau=1.0, divergence=KL())
    assert total_variation(free, q0) < 0.005
    dear = transport_law(
        q0, X, 3 * torch.sigmoid(2 * X[:, 0]), tau=3000.0, divergence=KL(), smoothing=(1e-3, 1e-4, 1e-5)
    )
    assert total_variation(dear, q0) < 0.02


def test_two_points_against_brute_force() -> None:
    """On two points the plan has one free number: the mass m that leaves the costly point."""
    a, f, tau = 0.4, 2.0, 1.5
    q0, points = torch.tensor([a, 1 - a]), torch.tensor([[0.0], [1.0]])
    scale = 2 * a * (1 - a)

    def objective(m: float) -> float:
        p, q = a - m, 1 - a + m
        divergence = p * math.log(p / a) + q * math.log(q / (1 - a))
        return tau / 2 * m / scale + f * p + divergence

    best = minimize_scalar(objective, bounds=(1e-9, a - 1e-9), method="bounded", options={"xatol": 1e-10})
    law = transport_law(
        q0, points, torch.tensor([f, 0.0]), tau=tau, divergence=KL(), smoothing=(0.1, 0.01, 1e-3, 1e-4)
    )
    assert float(law[0]) == pytest.approx(a - best.x, abs=1e-3)


def test_a_dearer_transport_leaves_more_of_the_cost() -> None:
    q0, cost = two_bumps(), 3 * torch.sigmoid(4 * X[:, 0])
    left = [
        float(transport_law(q0, X, cost, tau=tau, divergence=KL()) @ cost.double()) for tau in (0.0, 1.0, 4.0)
    ]
    assert left[0] < left[1] < left[2] < float(q0 @ cost)


def test_what_does_not_fit_is_refused() -> None:
    q0 = two_bumps()
    with pytest.raises(InputError, match="tau=-1"):
        transport_law(q0, X, q0, tau=-1, divergence=KL())
    with pytest.raises(InputError, match="81 probabilities, 81 points and 3 costs"):
        transport_law(q0, X, q0[:3], tau=1, divergence=KL())


# Laws on a grid


def test_a_law_on_a_grid_counts_its_samples() -> None:
    x = torch.tensor([[-0.9, -0.9], [-0.9, 0.1], [0.1, 0.1], [0.2, 0.3]])
    law = law_on_grid(x, side=1.0, cells=2)
    assert law.tolist() == [0.25, 0.25, 0.0, 0.5]
    weighted = law_on_grid(x, 1.0, 2, torch.tensor([6.0, 0.0, 1.0, 1.0]))
    assert weighted.tolist() == [0.75, 0.0, 0.0, 0.25]


def test_what_lies_outside_the_grid_is_counted_at_its_edge() -> None:
    x = torch.tensor([[-50.0], [0.4], [3.0]])
    assert law_on_grid(x, 1.0, 4).tolist() == pytest.approx([1 / 3, 0, 1 / 3, 1 / 3])


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_the_centre_of_every_cell_lies_in_it(dim: int) -> None:
    centres = cell_centres(1.5, 4, dim)
    assert centres.shape == (4**dim, dim)
    for k, centre in enumerate(centres):
        assert int(law_on_grid(centre[None], 1.5, 4).argmax()) == k
