"""Laws of calibration: a known temperature is found, and retained classes keep their shares exactly."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from unflow.energies import CallableEnergy, ClassLogOdds, Energy, evaluate
from unflow.energies.calibration import Tempered, balance_classes, calibrate
from unflow.ground.errors import InputError
from unflow.ground.streams import stream


class Table(nn.Module):
    """Logits [points, classes] looked up by the number of a point, times a factor."""

    def __init__(self, logits: Tensor, factor: float = 1.0) -> None:
        super().__init__()
        self.logits: Tensor
        self.register_buffer("logits", logits.double())
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * self.logits[x[:, 0].long()]


def points(count: int) -> Tensor:
    return torch.arange(count, dtype=torch.float64)[:, None]


# The temperature

COUNTS = torch.tensor([[6, 1, 1], [1, 5, 2], [2, 2, 4], [1, 1, 6], [3, 4, 1]])
"""How many of 8 samples at each of 5 points have each of 3 labels."""


def frequencies() -> tuple[Tensor, Tensor, Tensor]:
    """Return log-frequencies [5, 3], and samples x [40, 1] with labels [40] of exactly these."""
    labels = torch.cat([torch.repeat_interleave(torch.arange(3), row) for row in COUNTS])
    return (COUNTS / 8).log(), points(5).repeat_interleave(8, dim=0), labels


@pytest.mark.parametrize("factor", [1.5, 3.0, 20.0])
def test_an_overconfident_guides_temperature_is_the_factor_of_its_logits(factor: float) -> None:
    """Labels occur as often as softmax(logits) says: cross entropy is least at logits / T = logits."""
    logits, x, labels = frequencies()
    found = calibrate(Table(logits, factor), x, labels)
    assert float(found.temperature) == pytest.approx(factor, rel=1e-4)
    torch.testing.assert_close(found(x), Table(logits)(x), rtol=0, atol=1e-3)


def test_labels_drawn_from_the_softmax_of_the_logits_give_their_factor_back() -> None:
    logits = 2 * torch.randn(4000, 5, generator=stream(0)).double()
    labels = torch.multinomial(logits.softmax(1), 1, generator=stream(1))[:, 0]
    found = calibrate(Table(logits, 3.0), points(4000), labels)
    assert float(found.temperature) == pytest.approx(3.0, abs=0.15)


@pytest.mark.parametrize("factor", [0.2, 0.5, 1.0])
def test_a_guide_is_never_made_surer(factor: float) -> None:
    logits, x, labels = frequencies()
    assert float(calibrate(Table(logits, factor), x, labels).temperature) == pytest.approx(1.0, abs=1e-4)


def test_a_guide_without_an_error_stays_as_it_is() -> None:
    """Its cross entropy falls all the way to T = 0."""
    found = calibrate(Table(4 * torch.eye(3)), points(3), torch.arange(3))
    assert 1.0 <= float(found.temperature) <= 1.0001


def test_calibration_leaves_every_answer_and_makes_it_less_sure() -> None:
    logits, x, labels = frequencies()
    guide = Table(logits, 3.0)
    before, after = guide(x).softmax(1), calibrate(guide, x, labels)(x).softmax(1)
    assert torch.equal(before.argmax(1), after.argmax(1))
    assert bool((after.amax(1) < before.amax(1)).all())


def test_the_temperature_divides_the_logits_and_belongs_to_the_state() -> None:
    logits, x, _ = frequencies()
    tempered = Tempered(Table(logits), 2.5)
    torch.testing.assert_close(tempered(x), Table(logits)(x) / 2.5)
    other = Tempered(Table(logits), 1.0)
    other.load_state_dict(tempered.state_dict())
    assert torch.equal(other(x), tempered(x))


def test_the_margin_in_nats_is_of_the_calibrated_guide() -> None:
    logits, x, _ = frequencies()
    raw = ClassLogOdds(Tempered(Table(logits, 3.0), 3.0), [2], margin=None)(x)
    torch.testing.assert_close(raw, torch.logit(logits.double().softmax(1)[:, 2])[x[:, 0].long()])


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf])
def test_a_temperature_that_is_not_positive_and_finite_is_refused(temperature: float) -> None:
    with pytest.raises(InputError, match=r"temperature=.*expected a finite number > 0"):
        Tempered(nn.Identity(), temperature)


def test_nothing_to_calibrate_on_is_refused() -> None:
    with pytest.raises(InputError, match="no samples to calibrate"):
        calibrate(Table(torch.zeros(3, 3)), points(0), torch.zeros(0, dtype=torch.long))


# The balance

POINTS, CLASSES, FORGET = 60, 5, (1, 3)
KEPT = [k for k in range(CLASSES) if k not in FORGET]
LOGITS = 1.5 * torch.randn(POINTS, CLASSES, generator=stream(2)).double() + torch.tensor([1.5, 0, 0, 0, -1])
X = points(POINTS)


def guide(factor: float = 1.0) -> Table:
    return Table(LOGITS, factor)


def request(margin: float = 1.0, factor: float = 1.0) -> Energy:
    return ClassLogOdds(guide(factor), FORGET, margin)


def weights(energy: Energy, strength: float) -> Tensor:
    """Return q*, the target of an energy on the points, of which each is as likely in q0."""
    return (-strength * evaluate(energy, X).double()).softmax(0)


def retained(factor: float = 1.0) -> Tensor:
    """Return p(k | x, retained) at every point."""
    p = (factor * LOGITS).softmax(1)[:, KEPT]
    return p / p.sum(1, keepdim=True)


def wanted(factor: float = 1.0) -> Tensor:
    """Return the share of each retained class among the retained mass of q0."""
    mass = (factor * LOGITS).softmax(1)[:, KEPT].mean(0)
    return mass / mass.sum()


@pytest.mark.parametrize("strength", [0.3, 1.0, 3.0, 8.0])
@pytest.mark.parametrize("factor", [0.3, 1.0, 4.0], ids=["unsure", "guide", "sure"])
def test_every_retained_class_keeps_its_share(factor: float, strength: float) -> None:
    F, p, share = request(1.0, factor), retained(factor), wanted(factor)
    before = weights(F, strength) @ p
    found = weights(balance_classes(F, guide(factor), FORGET, X, strength), strength) @ p
    assert float((before - share).abs().max()) > 2e-3
    torch.testing.assert_close(found, share, rtol=0, atol=1e-4)


@pytest.mark.parametrize("strength", [0.5, 2.0])
def test_the_balanced_target_is_the_projection(strength: float) -> None:
    """Pythagoras: KL(r||q0) + lam E_r[F] is that of q* plus KL(r||q*), for all r of the same shares."""
    p, F = retained(), evaluate(request(), X).double()
    q = weights(balance_classes(request(), guide(), FORGET, X, strength), strength)

    def objective(r: Tensor) -> float:
        return float((r * (r * POINTS).log()).sum() + strength * (r * F).sum())

    fair = LOGITS.softmax(1)[:, KEPT].sum(1)
    fair = fair / fair.sum()  # the retained mass itself has these shares
    torch.testing.assert_close(fair @ p, wanted())
    sides = torch.linalg.svd(p.T, full_matrices=True).Vh[len(KEPT) :]  # what leaves all shares unchanged
    for seed in range(20):
        step = torch.randn(len(sides), generator=stream(seed)).double() @ sides
        r = fair + 0.9 * float((fair / step.abs()).min()) * step
        torch.testing.assert_close(r @ p, wanted())
        gap = float((r * (r / q).log()).sum())
        assert gap > 1e-3
        assert objective(r) - objective(q) == pytest.approx(gap, abs=2e-4)
        assert objective(r) > objective(q)


def test_one_retained_class_needs_no_balance() -> None:
    only = ClassLogOdds(guide(), [0, 1, 2, 3], margin=1.0)
    torch.testing.assert_close(balance_classes(only, guide(), [0, 1, 2, 3], X)(X), only(X))


def test_classes_that_already_have_their_shares_are_left_as_they_are() -> None:
    """The points come in pairs that differ by the names of the two retained classes only."""
    mirror = Table(torch.cat([LOGITS[:, :3], LOGITS[:, [1, 0, 2]]]))
    energy = ClassLogOdds(mirror, [2], margin=1.0)
    found = balance_classes(energy, mirror, [2], points(2 * POINTS), strength=2.0)
    torch.testing.assert_close(found.offsets, torch.zeros(2), rtol=0, atol=1e-6)


def test_a_class_that_looks_like_the_forgotten_one_gets_the_largest_offset() -> None:
    """Three points, two retained classes: the offset is known in closed form.

    F = (0, f, 0) at points that are class 0, class 1 and class 1 for sure: b_1 - b_0 makes the weight
    (1 + e^-f) e^(b_1 - b_0) twice that of the first point.
    """
    f, strength = 1.5, 2.0
    sure = Table(torch.tensor([[30.0, -30.0, -60.0], [-30.0, 30.0, -60.0], [-30.0, 30.0, -60.0]]))
    energy = CallableEnergy(lambda x: f * (x[:, 0] == 1).double(), lower_bound=0.0)
    found = balance_classes(energy, sure, [2], points(3), strength)
    gain = math.log(2 / (1 + math.exp(-f * strength))) / strength
    assert (found.offsets[1] - found.offsets[0]).item() == pytest.approx(gain, abs=1e-5)
    assert found.lower_bound == 0.0


def test_balancing_keeps_the_bound_and_still_forgets() -> None:
    energy = request(margin=3.0)
    result = balance_classes(energy, guide(), FORGET, X, 2.0)
    assert result.lower_bound == energy.lower_bound == 0.0
    left = weights(result, 2.0) @ LOGITS.softmax(1)[:, list(FORGET)].sum(1)
    assert float(left) < 0.5 * float(LOGITS.softmax(1)[:, list(FORGET)].sum(1).mean())


@pytest.mark.parametrize("strength", [0.0, -1.0, math.nan])
def test_a_strength_that_is_not_positive_has_nothing_to_balance(strength: float) -> None:
    with pytest.raises(InputError, match=r"strength=.*to balance a request for; expected a number > 0"):
        balance_classes(request(), guide(), FORGET, X, strength)


# The guide


def trained_guide() -> nn.Sequential:
    """A guide in training mode, whose answers and statistics then depend on what it is asked."""
    return nn.Sequential(Table(LOGITS), nn.BatchNorm1d(CLASSES).double(), nn.Dropout(0.5)).train()


@pytest.mark.parametrize("name", ["calibrated", "balanced"])
def test_the_guide_is_read_in_evaluation_mode_and_left_alone(name: str) -> None:
    asked = trained_guide()

    def ask(guide: nn.Module) -> Tensor:
        if name == "calibrated":
            return calibrate(guide, X, LOGITS.argmin(1)).temperature
        return balance_classes(request(), guide, FORGET, X).offsets

    before = {key: value.clone() for key, value in asked.state_dict().items()}
    found = ask(asked)
    assert asked.training
    assert all(torch.equal(value, before[key]) for key, value in asked.state_dict().items())
    assert torch.equal(found, ask(trained_guide().eval()))
