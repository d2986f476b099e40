"""Energy guidance: the acceptance of a state, the scale, and a law on the line."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unflow import Target
from unflow.energies import CallableEnergy, ConditionEnergy
from unflow.ground.errors import InputError
from unflow.ground.streams import stream
from unflow.mathematics.paths import LinearPath, new_path
from unflow.methods import ERFM, EnergyGuidance, energy_guidance
from unflow.methods.acceptance import Acceptance
from unflow.methods.energy_guidance import MAX_SCALE, find_scale, stratify
from unflow.methods.independent_noise import is_independent, noise_slope
from unflow.models import Chain, Conditional, Flow
from unflow.nets import MLP, AdaptedVelocity, new_net
from unflow.target import NO_ORIGIN
from unflow.training.loop import fit
from unflow.training.method import Problem
from unflow.training.originals import FlowMatching
from unflow.unlearning.unlearn import unlearn


class Slope(nn.Module):
    """Log-odds 3 x of what it is given."""

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return 3 * x


def test_the_guidance_is_the_scaled_gradient_of_log_h_and_finite_at_the_noise() -> None:
    """The network reads t x: g grad log h = (1 - t)/t 3 t (1 - h) = 3 (1 - t) (1 - h)."""
    h: Any = Acceptance((1,), 0, seed=0)
    h.net = Slope()
    x, t = torch.linspace(-1, 1, 9)[:, None], torch.linspace(0, 1, 9)
    share = torch.sigmoid(3 * t[:, None] * x)
    exact = 3 * (1 - t[:, None]) * (1 - share)
    torch.testing.assert_close(h.guide(x, t, LinearPath()), exact, rtol=0, atol=5e-3)


@pytest.mark.parametrize("shape", [(3,), (1, 8, 8), (3, 12, 16), (64,)])
@pytest.mark.parametrize("conditions", [0, 4])
def test_an_acceptance_reads_points_and_images_with_and_without_conditions(
    shape: tuple[int, ...], conditions: int
) -> None:
    h, x, t = (
        Acceptance(shape, conditions, seed=1),
        torch.randn(5, *shape, generator=stream(1)),
        torch.rand(5),
    )
    label = torch.tensor([0, 1, 2, 3, 4]) if conditions else None
    assert h(x, t, label).shape == (5,)
    assert h.guide(x, t, LinearPath(), label).shape == x.shape
    start = h(x, torch.zeros(5), label)
    torch.testing.assert_close(start, h(-x, torch.zeros(5), label))  # noise tells nothing


def exponential(scale: float) -> float:
    """A mean acceptance whose rejected share falls exponentially with the scale."""
    return 1 - 0.3 * math.exp(-0.8 * scale)


@pytest.mark.parametrize("scale", [1.0, 1.7, 3.2])
def test_the_scale_is_exact_where_the_rejected_share_falls_exponentially(scale: float) -> None:
    assert find_scale(exponential, exponential(scale)) == pytest.approx(scale)


@pytest.mark.parametrize("scale", [1.2, 1.6, 2.5])
def test_the_second_secant_mends_most_of_the_error_of_the_first(scale: float) -> None:
    def power(scale: float) -> float:
        return 1 - 0.1 * scale**-1.1

    assert find_scale(power, power(scale)) == pytest.approx(scale, rel=0.08)


def test_the_scale_stays_between_one_and_the_largest() -> None:
    assert find_scale(exponential, 0.5) == 1.0
    assert find_scale(exponential, 0.9999) == MAX_SCALE
    assert (
        find_scale(lambda scale: 0.9 - 0.01 * scale, 0.99) == 1.0
    )  # guidance that does not help is not raised


@pytest.mark.parametrize("n", [2, 8, 100])
def test_half_of_the_probes_are_rejected_and_their_mean_is_that_of_the_bank(n: int) -> None:
    w = torch.tensor([0.9, 0.1, 0.9, 0.9, 0.1, 0.1, 0.9, 0.9])
    rows, weight = stratify(w, n)
    assert len(rows) == len(set(rows.tolist())) == min(n, 8)
    assert int((w[rows] < 0.5).sum()) == min(n // 2, 3)
    assert float(weight.sum()) == pytest.approx(1)
    assert float(weight @ w[rows].double()) == pytest.approx(float(w.mean()))


def test_probes_without_a_rejected_row_are_of_the_kept_rows_alone() -> None:
    rows, weight = stratify(torch.full((6,), 0.9), 4)
    assert rows.tolist() == [0, 1, 2, 3]
    torch.testing.assert_close(weight, torch.full((4,), 0.25, dtype=torch.double))


def two_clusters() -> Flow:
    """A flow to 0.4 N(-2, 0.3^2) + 0.6 N(2, 0.3^2)."""
    side = torch.where(torch.rand(4096, generator=stream(1)) < 0.4, -2.0, 2.0)
    x = (side + 0.3 * torch.randn(4096, generator=stream(2)))[:, None]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Flow(MLP((1,), 64, 3), (1,), steps=16)
    found: Any = fit(FlowMatching(steps=400, batch_size=128), Problem(model=model, data=x)).model
    return found


def test_a_flow_on_the_line_draws_the_target_from_its_own_weights() -> None:
    """The left cluster is kept with probability 0.1: 0.4 * 0.1 / (0.6 + 0.04) = 1/16 of the mass."""
    model = two_clusters()
    energy = CallableEnergy(lambda x: -math.log(0.1) * (x[:, 0] < 0), 0.0)
    target = Target(model, energy)
    method = EnergyGuidance(steps=500, acceptance_share=0.6, bank_size=4096)
    after: Any = fit(method, Problem(model=model, target=target)).model
    exact, found = target.sample(8000, stream(3)).x[:, 0], after.sample(8000, stream(4))[:, 0]
    edges = torch.linspace(-3, 3, 13)
    share, wanted = (torch.histogram(each, edges).hist / 8000 for each in (found, exact))
    assert float((share - wanted).abs().sum()) / 2 < 0.06
    assert float((found < 0).double().mean()) == pytest.approx(float((exact < 0).double().mean()), abs=0.03)
    assert type(after) is Flow
    assert [p.shape for p in after.parameters()] == [p.shape for p in model.parameters()]


def test_each_network_has_a_warm_up_and_ends_at_zero() -> None:
    method = EnergyGuidance(steps=100, acceptance_share=0.6)
    rates = [method.schedule(step) for step in range(100)]
    assert method.acceptance_steps == 60
    assert rates[5] == 1.0
    assert rates[63] == 1.0
    assert rates[59] < 0.01
    assert rates[99] < 0.01
    assert EnergyGuidance(steps=2).acceptance_steps == 1


@pytest.mark.parametrize("share", [0.0, 1.0, -1.0])
def test_a_share_outside_the_unit_interval_is_refused(share: float) -> None:
    with pytest.raises(InputError, match="got acceptance_share"):
        EnergyGuidance(acceptance_share=share)


# Which flows it guides


def paired(dim: int, slope: float, path: str = "linear") -> Flow:
    """A flow of x1 = m + r x0 + e, r = ``slope``; near t = 0 its velocity is a' (m + r x0) + b' x0."""
    a, b = (1.0, -1.0) if path == "linear" else (math.pi / 2, 0.0)

    class Velocity(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.factor = nn.Parameter(torch.tensor(a * slope + b))

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return 3 * a + self.factor * x

    return Flow(Velocity(), (dim,), steps=2)


@pytest.mark.parametrize("slope", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("path", ["linear", "trigonometric"])
def test_the_velocity_tells_how_the_data_were_paired_with_their_noise(slope: float, path: str) -> None:
    flow = paired(32, slope, path)
    assert noise_slope(flow, new_path(path)) == pytest.approx(slope, abs=1e-4)
    assert is_independent(flow, new_path(path)) == (slope == 0)
    assert not is_independent(flow, new_path("trigonometric" if path == "linear" else "linear")) or slope == 1


@pytest.mark.parametrize(
    ("flow", "loop"),
    [
        (paired(32, 0.0), EnergyGuidance),
        (paired(32, 0.5), ERFM),
        (paired(2, 0.0), ERFM),
        (Chain(paired(32, 0.0), paired(32, 0.0)), ERFM),
    ],
)
def test_guidance_is_for_flows_of_many_entries_on_independent_noise(flow: Any, loop: type) -> None:
    method = EnergyGuidance(steps=10, batch_size=8, bank_size=64)
    found, _ = method.training(Problem(model=flow), 0)
    assert type(found) is loop
    assert (found.steps, found.batch_size) == (10, 8)
    assert found.trains_own_weights != isinstance(flow, Chain)


# Conditional flows

K, FORGET = 3, 1


def conditional_flow() -> Conditional:
    config = {"net": "mlp", "shape": [32], "width": 16, "depth": 1, "num_times": 1, "num_classes": K}
    net = AdaptedVelocity(new_net(config, 0), (32,), "x, t, label", label=0, null_label=K)
    return Conditional(Flow(net, (32,), "euler", 4), [1 / K] * K)


@pytest.mark.parametrize(
    ("replace", "origin"), [("retained", K), ("null", K), ("label:2", 2), ("noise", NO_ORIGIN)]
)
def test_a_forgotten_condition_learns_the_guided_velocity_of_what_replaces_it(
    replace: str, origin: int
) -> None:
    model, method = conditional_flow(), EnergyGuidance(steps=4, batch_size=64, bank_size=512)
    target = Target(model, ConditionEnergy([FORGET]), replace=replace)
    prepared = method.prepare(Problem(model=model, target=target), stream(1))
    forgotten = prepared["label"] == FORGET
    assert (prepared["origin"][forgotten] == origin).all()
    assert torch.equal(prepared["origin"][~forgotten], prepared["label"][~forgotten])
    batch = method.draw(prepared, stream(2))
    null = batch["label"] == K
    assert 10 < int(null.sum()) < 54
    if replace == "retained":  # the null condition has one law with the forgotten one
        assert (batch["origin"][null] == K).all()
    else:
        assert set(batch["origin"][null].tolist()) == {0, 2, origin}


@pytest.mark.parametrize("replace", ["retained", "label:2", "null", "nearest", "noise"])
def test_a_conditional_flow_is_trained_at_its_conditions(
    replace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(energy_guidance, "is_independent", lambda *_: True)  # this flow is not trained
    model = conditional_flow()
    target = Target(model, ConditionEnergy([FORGET]), replace=replace)
    after = unlearn(target, EnergyGuidance(steps=4, batch_size=32, bank_size=64), self_measure=0).model
    assert isinstance(after, Conditional)
    assert type(after.inner) is Flow
    for label in (0, FORGET, "null"):
        assert bool(after.sample(5, stream(0), label=label, guidance=2.0).isfinite().all())
    assert not torch.equal(after.sample(5, stream(0), label=FORGET), model.sample(5, stream(0), label=FORGET))
