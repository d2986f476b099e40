"""SFD: the times of its noise levels, the stationary point of its losses, a small run, bad input."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unflow.energies import ConditionEnergy
from unflow.ground.errors import InputError
from unflow.ground.streams import stream
from unflow.mathematics.paths import expand
from unflow.methods import SFD
from unflow.methods.baselines.sfd import FakeScoreLoss, ScoreForgettingLoss, denoise, noise_times
from unflow.models import Conditional, Flow, FlowMap
from unflow.nets import MLP, AdaptedAverageVelocity, AdaptedVelocity
from unflow.target import Target
from unflow.training.loop import fit
from unflow.training.method import Problem

K, FORGET, SPREAD = 3, 1, 0.5
CENTRES = torch.tensor([[2.0, 0.0], [0.0, 2.0], [-2.0, -1.0]])
SHARES = [0.5, 0.3, 0.2]


class Rows(nn.Module):
    """U(z; 0, 1) = row - (1 - SPREAD) z: samples row + SPREAD z."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Parameter(CENTRES.clone())

    def forward(self, x: Tensor, start: Tensor, end: Tensor, label: Tensor) -> Tensor:
        return self.rows[label] + (SPREAD - 1) * x


class Gaussian(nn.Module):
    """The exact velocity of the linear path from N(0, 1) to N(row, SPREAD^2)."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Parameter(CENTRES.clone())

    def forward(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        mean = self.rows[label]
        variance = (1 - t).square() + (SPREAD * t).square()
        slope = (SPREAD**2 * t - (1 - t)) / variance
        return mean + expand(slope, x) * (x - expand(t, x) * mean)


def student() -> Conditional:
    net = AdaptedAverageVelocity(Rows(), (2,), "x, start, end, label", label=0)
    return Conditional(FlowMap(net, (2,)), SHARES)


def velocity() -> AdaptedVelocity:
    return AdaptedVelocity(Gaussian(), (2,), "x, t, label", label=0)


def teacher() -> Conditional:
    return Conditional(Flow(velocity(), (2,), "euler", 4), SHARES)


def problem(**options: Any) -> Problem:
    model = student()
    target = Target(model, ConditionEnergy([FORGET]), **options)
    return Problem(model=model, target=target, teacher=teacher())


OPTIONS: dict[str, Any] = {
    "steps": 400,
    "batch_size": 64,
    "learning_rate": 0.05,
    "fake_rate": 0.1,
    "forget": 1.0,
    "average": 0.9,
}


def test_the_times_of_noise_levels_have_the_signal_to_noise_ratio_of_the_ddpm() -> None:
    """t / (1 - t) = sqrt(a / (1 - a)); level 0 has a = 1 - 1e-4, and the times fall."""
    t = noise_times().double()
    assert float(t[0] / (1 - t[0])) == pytest.approx((0.9999 / 1e-4) ** 0.5, rel=1e-3)
    assert bool((t.diff() < 0).all())
    assert float(t[-1]) < 0.01
    prepared = SFD(**OPTIONS, first_level=10, last_level=14).prepare(problem(), stream(0))
    torch.testing.assert_close(prepared["times"], noise_times()[10:14])


def test_the_prediction_of_the_sample_is_the_conditional_mean() -> None:
    """E[x1 | x_t] of jointly normal x1 ~ N(m, s^2) and x_t = (1 - t) x0 + t x1."""
    x, t, label = torch.randn(6, 2, generator=stream(1)), torch.linspace(0.1, 1, 6), torch.arange(6) % K
    m, at = CENTRES[label], t[:, None]
    expected = m + SPREAD**2 * at / ((1 - at) ** 2 + (SPREAD * at) ** 2) * (x - at * m)
    torch.testing.assert_close(denoise(velocity(), x, t, label), expected)


def draw(n: int) -> tuple[Tensor, Tensor, Tensor]:
    return (
        torch.randn(n, 2, generator=stream(2)),
        torch.randn(n, 2, generator=stream(3)),
        0.1 + 0.8 * torch.rand(n, generator=stream(4)),
    )


def test_the_fake_velocity_of_the_students_samples_is_a_stationary_point_of_its_loss() -> None:
    z, x0, t = draw(40_000)
    label = torch.arange(40_000) % K
    net = velocity()
    loss = FakeScoreLoss(net, 0.5)
    loss(x0, CENTRES[label] + SPREAD * z, t, label, label == FORGET).backward()
    weights: Any = net.net
    assert float(weights.rows.grad.abs().max()) < 0.01
    weights.rows.grad = None
    with torch.no_grad():
        weights.rows[FORGET] += 1
    loss(x0, CENTRES[label] + SPREAD * z, t, label, label == FORGET).backward()
    assert float(weights.rows.grad[FORGET].min()) > 0.02


@pytest.mark.parametrize("alpha", [1.0, 1.2])
def test_equal_scores_are_a_stationary_point_of_the_students_loss_and_the_override_is_not(
    alpha: float,
) -> None:
    """With p = s the loss and its gradient are 0; with another label they are not."""
    model, n = student(), 64
    _, x0, t = draw(n)
    label = torch.arange(n) % K
    latents = model.ask(model.prior(n, stream(5)), label)
    loss = ScoreForgettingLoss(model, velocity(), velocity(), alpha, 1.0)
    found = loss(latents, x0, t, label, label, label == FORGET)
    assert found.item() == 0
    gradient = torch.autograd.grad(found, model.inner.net.net.rows)[0]  # type: ignore[union-attr, arg-type]
    assert float(gradient.abs().max()) < 1e-7
    override = torch.where(label == FORGET, 0, label)
    found = loss(latents, x0, t, label, override, label == FORGET)
    gradient = torch.autograd.grad(found, model.inner.net.net.rows)[0]  # type: ignore[union-attr, arg-type]
    assert [float(row.abs().max()) > 1e-3 for row in gradient] == [False, True, False]
    towards = CENTRES[0] - CENTRES[FORGET]
    assert float((-gradient[FORGET]) @ towards) > 0


def test_the_students_loss_is_that_of_the_formula_and_trains_no_score() -> None:
    model, other, n = student(), velocity(), 32
    weights: Any = other.net
    with torch.no_grad():
        weights.rows += 0.7
    _, x0, t = draw(n)
    label = torch.arange(n) % K
    is_forgotten = torch.arange(n) % 2 == 1
    z = model.ask(model.prior(n, stream(5)), label)
    own = velocity()
    found = ScoreForgettingLoss(model, own, other, 1.2, 0.25)(z, x0, t, label, label, is_forgotten)
    x = model.push(z)
    x_t = (1 - t)[:, None] * x0 + t[:, None] * x
    p, s = denoise(own, x_t, t, label), denoise(other, x_t, t, label)
    each = ((p - s) * ((p - x) - 1.2 * (p - s))).mean(1) / (p - x).abs().mean(1)
    expected = each[~is_forgotten].mean() + 0.25 * each[is_forgotten].mean()
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    found.backward()
    assert weights.rows.grad is None
    assert weights.rows.requires_grad


@pytest.mark.parametrize(("options", "anchor"), [({}, 0), ({"replace": "label:2"}, 2)])
def test_the_forgotten_label_learns_the_law_of_its_anchor_and_the_others_stay(
    options: dict[str, Any], anchor: int
) -> None:
    result: Any = fit(SFD(**OPTIONS), problem(**options), seed=1).model
    expected = CENTRES.clone()
    expected[FORGET] = CENTRES[anchor]
    torch.testing.assert_close(result.inner.net.net.rows, expected, atol=0.15, rtol=0)


def test_half_of_a_batch_is_forgotten_and_a_retained_label_is_its_own_anchor() -> None:
    method = SFD(**(OPTIONS | {"batch_size": 4000}))
    batch = method.draw(method.prepare(problem(), stream(0)), stream(1))
    gone = batch["is_forgotten"]
    assert int(gone.sum()) == 2000
    assert set(batch["label"][gone].tolist()) == {FORGET}
    assert set(batch["anchor"][gone].tolist()) == {0}
    assert torch.equal(batch["anchor"][~gone], batch["label"][~gone])
    share = torch.bincount(batch["label"][~gone], minlength=K).double() / 2000
    torch.testing.assert_close(share, torch.tensor([5 / 7, 0, 2 / 7]).double(), atol=0.04, rtol=0)


def test_another_teacher_is_refused() -> None:
    given = problem()
    plain, few = Flow(MLP((2,), 8, 1), (2,)), Conditional(Flow(velocity(), (2,)), [0.5, 0.5])
    for other, words in (
        (plain, "got a Flow as the teacher of SFD.*expected the conditional flow"),
        (few, "0, 1, 2"),
    ):
        with pytest.raises(InputError, match=words):
            SFD().check(Problem(model=given.model, target=given.target, teacher=other))
    with pytest.raises(InputError, match=r"SFD needs teacher.*give teacher="):
        SFD().check(Problem(model=given.model, target=given.target))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch_size": 33}, "got batch_size=33; expected an even number"),
        ({"alpha": float("nan")}, "got alpha=nan; expected a finite number"),
        ({"forget": -1.0}, "got forget=-1.0; expected a finite number >= 0"),
        ({"fake_rate": 0.0}, "got fake_rate=0.0; expected a number > 0"),
        ({"first_level": 700, "last_level": 700}, "got first_level=700 and last_level=700; expected 0 <="),
        ({"last_level": 1001}, "last_level=1001; expected 0 <="),
    ],
)
def test_settings_that_are_no_settings_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        SFD(**options)
