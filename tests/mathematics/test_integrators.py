"""Laws of Runge-Kutta methods: order against exact solutions, cost, and another library's steps."""

import math
from itertools import pairwise

import pytest
import torch
import torchdiffeq
from torch import Tensor

from unflow.ground.errors import InputError
from unflow.mathematics.integrators import INTEGRATORS, RK4, Euler, Heun, Integrator, Midpoint


@pytest.fixture(params=INTEGRATORS.values(), ids=list(INTEGRATORS))
def integrator(request: pytest.FixtureRequest) -> Integrator:
    return request.param()


X = torch.tensor([[1.0, -0.5], [0.3, 2.0], [-1.5, 0.1]], dtype=torch.float64)
A = torch.tensor([[-0.3, 1.2], [-0.8, 0.1]], dtype=torch.float64)


def growth(x: Tensor, t: Tensor) -> Tensor:
    """Return a(t) x with a(t) = 1 + 2 cos(3 t), whose solution is x exp(t + 2/3 sin(3 t))."""
    return (1 + 2 * torch.cos(3 * t))[:, None] * x


def swirl(x: Tensor, t: Tensor) -> Tensor:
    return torch.tanh(x @ A) * (1 + t)[:, None] + torch.sin(3 * t)[:, None]


def test_the_global_error_falls_with_the_stated_order(integrator: Integrator) -> None:
    exact = X * math.exp(1 + 2 / 3 * math.sin(3))
    steps = [32, 64, 128]
    errors = [float((integrator.solve(growth, X, n) - exact).abs().max()) for n in steps]
    slopes = [math.log2(a / b) for a, b in pairwise(errors)]
    assert slopes == pytest.approx([integrator.order] * 2, abs=0.15)


@pytest.mark.parametrize("steps", [1, 5])
def test_each_step_takes_the_stated_number_of_evaluations(integrator: Integrator, steps: int) -> None:
    times = []

    def counted(x: Tensor, t: Tensor) -> Tensor:
        assert t.shape == (3,)
        assert t.dtype == x.dtype
        times.append(t)
        return swirl(x, t)

    integrator.solve(counted, X, steps)
    assert len(times) == integrator.evaluations * steps
    assert all(((t >= 0) & (t <= 1 + 1e-12)).all() for t in times)


@pytest.mark.parametrize(
    ("integrator", "name"),
    [(Euler(), "euler"), (Midpoint(), "midpoint"), (Heun(), "heun2")],
    ids=["euler", "midpoint", "heun"],
)
def test_torchdiffeq_takes_the_same_steps(integrator: Integrator, name: str) -> None:
    grid = torch.linspace(0, 1, 8, dtype=torch.float64)
    theirs = torchdiffeq.odeint(lambda t, x: swirl(x, t.expand(3)), X, grid, method=name)[-1]
    torch.testing.assert_close(integrator.solve(swirl, X, 7), theirs, rtol=1e-13, atol=1e-13)


def test_torchdiffeq_takes_the_same_fourth_order_steps_of_a_linear_system() -> None:
    """Its rk4 is the 3/8 rule, which agrees with the classical one for dx/dt = A x."""
    grid = torch.linspace(0, 1, 8, dtype=torch.float64)
    theirs = torchdiffeq.odeint(lambda t, x: x @ A, X, grid, method="rk4")[-1]
    ours = RK4().solve(lambda x, t: x @ A, X, 7)
    torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=1e-13)


def test_one_step_of_a_linear_system_is_the_taylor_polynomial(integrator: Integrator) -> None:
    h = 0.3
    terms = [torch.linalg.matrix_power(h * A, k) / math.factorial(k) for k in range(5)]
    expected = X @ sum(terms[: integrator.order + 1])
    found = integrator.solve(lambda x, t: x @ A, X, 1, t1=h)
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)


def test_rk4_of_a_pure_time_derivative_is_simpsons_rule() -> None:
    found = RK4().solve(lambda x, t: torch.exp(t)[:, None].expand_as(x), X, 1)
    simpson = (1 + 4 * math.exp(0.5) + math.e) / 6
    torch.testing.assert_close(found, X + simpson, rtol=1e-13, atol=0)


def test_solving_backwards_undoes_solving_forwards(integrator: Integrator) -> None:
    steps = 2000 if integrator.order == 1 else 200
    there = integrator.solve(swirl, X, steps)
    back = integrator.solve(swirl, there, steps, t0=1.0, t1=0.0)
    torch.testing.assert_close(back, X, rtol=0, atol=5e-3)


def test_two_halves_make_the_whole(integrator: Integrator) -> None:
    half = integrator.solve(swirl, X, 3, t1=0.5)
    whole = integrator.solve(swirl, half, 3, t0=0.5)
    torch.testing.assert_close(whole, integrator.solve(swirl, X, 6), rtol=1e-13, atol=1e-13)


def test_a_solution_is_differentiable_in_its_start(integrator: Integrator) -> None:
    x = X.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: integrator.solve(swirl, x, 2), (x,))


@pytest.mark.parametrize("steps", [0, -3])
def test_less_than_one_step_is_refused(integrator: Integrator, steps: int) -> None:
    with pytest.raises(InputError, match=rf"got {steps} integration steps; expected 1 or more"):
        integrator.solve(swirl, X, steps)
