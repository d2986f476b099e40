"""Laws of the methods: stationarity, closed forms, and short trainings that reach them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from unflow.energies import CallableEnergy
from unflow.ground.errors import InputError
from unflow.ground.streams import stream
from unflow.mathematics.divergences import DIVERGENCES, KL, Divergence
from unflow.methods import ERFM, UNLEARNERS, UOT, GradientAscent, Retrain
from unflow.methods.uot import GeneratorLoss, PotentialLoss, TransportCost
from unflow.models import Flow, FlowMap, Generator
from unflow.nets import MLP
from unflow.target import Target
from unflow.training.loop import fit, seconds_to_within
from unflow.training.losses import JumpLoss, mean_flow_target
from unflow.training.method import Problem, draw_weighted
from unflow.training.originals.distill import compute_trajectory


class Table(nn.Module):
    """A potential on the grid points 0, 1, ..., k - 1."""

    def __init__(self, values: torch.Tensor) -> None:
        super().__init__()
        self.values = nn.Parameter(values.clone())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.values[x.long()]


@pytest.mark.parametrize("name", DIVERGENCES)
def test_uot_potential_is_stationary_at_lam_f_minus_kappa_on_a_grid(name: str) -> None:
    """Tau = 0, fixed source, no R1: grad L(v) = 0 at v* = lam F - kappa when law(G) = q*."""
    divergence = DIVERGENCES[name]()
    original, target = torch.tensor([5, 3, 4, 8]), torch.tensor([6, 1, 5, 8])  # of 20 each
    ratio = target / original
    lam, kappa = 2.0, 0.7
    F = torch.tensor([(kappa - divergence.inverse_tilt(float(r))) / lam for r in ratio]).double()
    assert divergence.multiplier(lam * F, original / 20) == pytest.approx(kappa, abs=1e-6)
    table = Table((lam * F - kappa)[:, None])
    moved = torch.repeat_interleave(torch.arange(4.0), target)
    pool = torch.repeat_interleave(torch.arange(4.0), original)
    PotentialLoss(table, None, divergence)(moved, lam * F[moved.long()], pool, 0.0).backward()
    assert table.values.grad is not None
    assert table.values.grad.abs().max() < 1e-6


@pytest.mark.parametrize("name", DIVERGENCES)
def test_a_potential_that_has_fallen_far_at_a_rare_sample_has_a_finite_loss(name: str) -> None:
    """Found on three Gaussians in the plane, where KL's exponential overflowed after 600 steps."""
    table = Table(torch.tensor([[0.0], [-200.0]]))
    loss = PotentialLoss(table, None, DIVERGENCES[name]())
    value = loss(torch.zeros(4), torch.zeros(4), torch.tensor([0.0, 0.0, 0.0, 1.0]), 0.0)
    value.backward()
    assert torch.isfinite(value)
    assert table.values.grad is not None
    assert torch.isfinite(table.values.grad).all()
    assert float(table.values.grad[1]) < 0  # back up


def test_uot_generator_is_stationary_at_v_star() -> None:
    """With v = lam F - kappa and tau = 0 the generator's loss is constant, so its gradient is 0."""

    def F(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.softplus(3 * x[:, 0])

    class Potential(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (2.0 * F(x) - 0.7)[:, None]

    model = Generator(nn.Linear(1, 1).double(), (1,))
    cost = TransportCost(CallableEnergy(F, 0.0), 2.0, tau=0.0, scale=1.0)
    z = torch.randn(64, 1, dtype=torch.float64)
    GeneratorLoss(model, Potential(), cost)(z, z)[0].backward()
    for parameter in model.parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().max() < 1e-6


def right_half(x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.softplus(4 * x[:, 0])


def total_variation_to_target(x: torch.Tensor, divergence: Divergence, lam: float) -> float:
    edges = torch.linspace(-5, 5, 101)
    middle = ((edges[1:] + edges[:-1]) / 2)[:, None]
    p = torch.exp(-(middle[:, 0] ** 2) / 2).double()
    p = p / p.sum()
    F = right_half(middle)
    kappa = divergence.multiplier(lam * F, p)
    q = p * divergence.tilt(kappa - lam * F)
    found = torch.histogram(x[:, 0].clamp(-4.99, 4.99), edges).hist / len(x)
    return float((found - q).abs().sum() / 2)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_a_short_uot_training_reaches_the_target_in_1d(name: str) -> None:
    """From total variation 0.2-0.4 to under 0.06 on a grid of 100 cells (50,000 samples)."""
    divergence, lam = DIVERGENCES[name](), 1.0
    model = Generator(ResidualLine(), (1,))
    target = Target(model, CallableEnergy(right_half, 0.0), lam, divergence)
    method = UOT(
        steps=500,
        batch_size=256,
        learning_rate=5e-4,
        potential_rate=4e-3,
        tau=0.0,
        width=64,
        depth=2,
        bank_size=20000,
    )
    result = fit(method, Problem(model=model, target=target), seed=1)
    assert isinstance(result.model, Generator)
    before = total_variation_to_target(model.sample(50000, stream(0)), divergence, lam)
    after = total_variation_to_target(result.model.sample(50000, stream(0)), divergence, lam)
    assert before > 0.1
    assert after < 0.06


class ResidualLine(nn.Module):
    """z + MLP(z): the identity at the start."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.net = MLP((1,), 64, 2, num_times=0)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return z + self.net(z)


def test_mean_flow_target_is_exact_on_a_gaussian_path() -> None:
    """N(0, 1) -> N(mu, sigma^2), independent: x_e = m_e + (s_e/s_s)(x_s - m_s) in closed form."""
    mu, sigma = 1.5, 0.4

    def moments(t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return mu * t, ((1 - t) ** 2 + sigma**2 * t**2).sqrt()

    def U(x: torch.Tensor, s: torch.Tensor, e: torch.Tensor) -> torch.Tensor:
        (m_s, d_s), (m_e, d_e) = moments(s), moments(e)
        return ((m_e + d_e / d_s * (x[:, 0] - m_s) - x[:, 0]) / (e - s))[:, None]

    s = torch.rand(256, dtype=torch.float64) * 0.8
    e = s + 0.05 + (0.95 - s) * torch.rand(256, dtype=torch.float64)
    x = torch.randn(256, 1, dtype=torch.float64)
    m_s, d_s = moments(s)
    slope = (-(1 - s) + sigma**2 * s) / d_s**2
    v = (mu + slope * (x[:, 0] - m_s))[:, None]  # the marginal velocity at time s
    law: Any = U
    value, target = mean_flow_target(law, x, v, s, e)
    torch.testing.assert_close(target, value, rtol=0, atol=1e-9)


def test_a_perfect_flow_map_has_no_distillation_loss() -> None:
    flow = Flow(nn.Identity(), (2,), steps=4)
    flow.net.forward = lambda x, t: -x
    points = compute_trajectory(flow, torch.randn(8, 2))
    assert points.shape == (8, 5, 2)
    torch.testing.assert_close(points[:, -1], flow.push(points[:, 0]))

    class Exact(nn.Module):
        def forward(self, x: torch.Tensor, s: torch.Tensor, e: torch.Tensor) -> torch.Tensor:
            factor = 1 - 0.25 + 0.25**2 / 2  # one midpoint step of dx/dt = -x
            steps = ((e - s) * 4).round()
            return x * ((factor**steps - 1) / (e - s))[:, None]

    start, end = torch.tensor([0.0, 0.25, 0.5] * 2), torch.tensor([1.0, 0.5, 1.0] * 2)
    rows = torch.arange(6)
    x_s, x_e = points[rows, (4 * start).long()], points[rows, (4 * end).long()]
    assert float(JumpLoss(Exact())(x_s, x_e, start, end)) < 1e-12


def test_weighted_draws_follow_the_weights() -> None:
    x, weight = torch.arange(3.0), torch.tensor([0.0, 1.0, 3.0])
    drawn = draw_weighted(x, weight, 40000, stream(0))
    counts = torch.bincount(drawn.long(), minlength=3) / 40000
    torch.testing.assert_close(counts, torch.tensor([0.0, 0.25, 0.75]), rtol=0, atol=0.01)


@pytest.mark.parametrize("name", ["erfm", "erfm_resample", "uot", "uot_tilted"])
def test_strength_zero_leaves_the_law_unchanged(name: str) -> None:
    """Every tilt is 1: what the method aims at is the original law itself."""
    method: Any = UNLEARNERS[name]
    model = Flow(MLP((2,), 16, 1), (2,)) if name.startswith("erfm") else FlowMap(MLP((2,), 16, 1, 2), (2,))
    target = Target(model, CallableEnergy(right_half, 0.0), strength=0.0)
    prepared = method.training(Problem(model=model, target=target), 0)[0].prepare(
        Problem(model=model, target=target), stream(0)
    )
    if name == "erfm":
        assert (prepared["weight"] == 1).all()
    if name == "erfm_resample":  # everything is kept, and a kept sample is its own partner
        torch.testing.assert_close(prepared["x0"], prepared["x1"])
    if name == "uot":
        torch.testing.assert_close(prepared["pool"], prepared["origin"])
    if name == "uot_tilted":
        assert abs(float(prepared["pool"].mean() - prepared["origin"].mean())) < 0.05


@pytest.mark.parametrize("place", ["chain", "prior"])
def test_erfm_moves_a_gaussian_to_its_tilt(place: Any) -> None:
    """q0 = N(0, 1) as a trivial flow, F = 2 max(x + 2, 0): KL against numeric integration."""

    def F(x: torch.Tensor) -> torch.Tensor:
        return 2 * (x[:, 0] + 2).clamp(min=0)

    model = Flow(MLP((1,), 32, 2), (1,))  # a fresh velocity is 0: the law is N(0, 1)
    target = Target(model, CallableEnergy(F, 0.0), 0.5)
    thin: dict[str, Any] = {"coupling": "exact_ot", "thin": True} if place == "chain" else {}
    method = ERFM(
        steps=600,
        learning_rate=6e-3,
        place=place,
        weighting="resample",
        width=32,
        depth=2,
        block_size=256,
        bank_size=4096,
        **thin,
    )
    result: Any = fit(method, Problem(model=model, target=target), seed=0)
    grid = torch.linspace(-6, 6, 4001)[:, None]
    density = torch.exp(-(grid[:, 0] ** 2) / 2 - 0.5 * F(grid))
    mean = float((density * grid[:, 0]).sum() / density.sum())
    sd = math.sqrt(float((density * (grid[:, 0] - mean) ** 2).sum() / density.sum()))
    x = result.model.sample(20000, stream(3))
    assert float(x.mean()) == pytest.approx(mean, abs=0.08)
    assert float(x.std()) == pytest.approx(sd, abs=0.08)


def test_an_ot_plan_with_importance_weights_is_refused() -> None:
    with pytest.raises(InputError, match="weighting=resample"):
        ERFM(weighting="importance", coupling="exact_ot")


def test_methods_refuse_before_training_what_they_cannot_do() -> None:
    flow = Flow(MLP((2,), 8, 1), (2,))
    flow_map = FlowMap(MLP((2,), 8, 1, 2), (2,))
    energy = CallableEnergy(right_half, 0.0, differentiable=False)
    with pytest.raises(InputError, match="UOT does not train models of the family flow"):
        UOT().check(Problem(model=flow, target=Target(flow, energy)))
    with pytest.raises(InputError, match="gradient of the energy"):
        UOT().check(Problem(model=flow_map, target=Target(flow_map, energy)))
    with pytest.raises(InputError, match="needs target"):
        ERFM().check(Problem(model=flow))
    with pytest.raises(InputError, match="needs retain"):
        Retrain().check(Problem(model=flow))
    with pytest.raises(InputError, match="needs forget"):
        GradientAscent().check(Problem(model=flow))
    with pytest.raises(InputError, match="gradient of the energy"):
        GradientAscent().check(Problem(model=flow_map, target=Target(flow_map, energy)))


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"steps": 0}, "steps=0"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"learning_rate": -1.0}, "learning_rate"),
        ({"tau": -1.0}, "tau=-1"),
        ({"bank_size": 64}, "batch no larger than the data"),
    ],
)
def test_bad_hyper_parameters_are_refused(options: dict[str, Any], part: str) -> None:
    with pytest.raises(InputError, match=part):
        UOT(**options)


def test_kl_needs_no_multiplier_for_weights() -> None:
    assert isinstance(Target(Flow(MLP((2,), 8, 1), (2,)), CallableEnergy(right_half, 0.0)).divergence, KL)


def test_seconds_to_within_five_percent(tmp_path) -> None:
    lines = [(1, 2.0), (2, 1.04), (3, 1.0), (4, 1.2)]
    text = "".join(f'{{"step": {s}, "seconds": {s}.5, "held_out": {h}}}\n' for s, h in lines)
    (tmp_path / "metrics.jsonl").write_text(text)
    assert seconds_to_within(tmp_path / "metrics.jsonl") == 2.5
    assert seconds_to_within(tmp_path / "none.jsonl") is None
