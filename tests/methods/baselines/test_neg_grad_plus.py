"""NegGrad+: its gradient in closed form, and what it is without its ascent."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unflow.ground.errors import InputError
from unflow.ground.streams import stream
from unflow.methods import FineTune, NegGradPlus
from unflow.methods.baselines.neg_grad_plus import ClippedDifference
from unflow.models import Chain, Flow, FlowMap
from unflow.nets import MLP
from unflow.training.loop import fit
from unflow.training.losses import MeanFlowLoss, VelocityLoss
from unflow.training.method import Problem
from unflow.training.originals.flow_matching import measure_flow_loss


def network() -> MLP:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = MLP((2,), 8, 1)
        nn.init.normal_(net.last.weight, std=0.3)
    return net


def batch(seed: int, n: int = 16) -> tuple[Tensor, Tensor, Tensor]:
    x0, x1 = torch.randn(2, n, 2, generator=stream(seed)).double()
    return x0, x1 + seed, torch.rand(n, generator=stream(seed, 1)).double()


def gradient(loss: Tensor, net: nn.Module) -> Tensor:
    return torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(net.parameters()))])


@pytest.mark.parametrize(
    ("strength", "clip", "is_clipped"),
    [(1.0, 0.1, True), (50.0, 2.0, True), (0.01, 0.1, False), (0.5, 1e6, False)],
)
def test_the_gradient_is_the_descent_minus_the_clipped_ascent(
    strength: float, clip: float, is_clipped: bool
) -> None:
    """grad = grad L_r - s_k grad L_f with s_k = min(s, clip |grad L_r| / |grad L_f|)."""
    net = network().double()
    loss = VelocityLoss(net)
    keep, drop = batch(1), batch(3)
    down, up = gradient(loss(*keep), net), gradient(loss(*drop), net)
    limit = clip * float(down.norm() / up.norm())
    assert (limit < strength) == is_clipped
    found = gradient(ClippedDifference(loss, strength, clip)(*keep, *drop), net)
    torch.testing.assert_close(found, down - min(strength, limit) * up)
    ascent = float((down - found).norm())
    assert ascent <= clip * float(down.norm()) * (1 + 1e-9)
    assert (ascent == pytest.approx(clip * float(down.norm()))) == is_clipped


def test_the_value_is_the_difference_of_the_losses() -> None:
    net = network().double()
    loss, keep, drop = VelocityLoss(net), batch(1), batch(3)
    found = ClippedDifference(loss, 0.01, 10.0)(*keep, *drop)
    torch.testing.assert_close(found, loss(*keep) - 0.01 * loss(*drop))
    assert all(parameter.grad is None for parameter in net.parameters())


def test_ascent_on_the_very_same_data_shortens_the_step_by_the_clip() -> None:
    net = network().double()
    loss, both = VelocityLoss(net), batch(2)
    found = gradient(ClippedDifference(loss, 1.0, 0.25)(*both, *both), net)
    torch.testing.assert_close(found, 0.75 * gradient(loss(*both), net))


def test_nothing_to_ascend_on_divides_by_no_zero() -> None:
    """x1 = x0 under a zero velocity has neither loss nor gradient."""
    net = MLP((2,), 8, 1).double()
    x0, _, t = batch(1)
    loss = VelocityLoss(net)
    found = gradient(ClippedDifference(loss, 1.0, 0.1)(*batch(1), x0, x0, t), net)
    torch.testing.assert_close(found, gradient(loss(*batch(1)), net))
    assert bool(found.isfinite().all())


def problem() -> Problem:
    rows = torch.randn(256, 2, generator=stream(7)) * 0.3
    return Problem(model=Flow(network(), (2,), steps=2), retain=rows + 1, forget=rows - 1)


def test_it_forgets_what_fine_tuning_forgets_and_more_while_it_learns_to_keep() -> None:
    common: dict[str, Any] = {"steps": 100, "batch_size": 64, "learning_rate": 2e-3, "average": 0.9}

    def losses(model: nn.Module) -> tuple[float, float]:
        assert isinstance(model, Flow)
        kept, gone = problem().retain, problem().forget
        assert kept is not None
        assert gone is not None
        loss = VelocityLoss(model.net)
        return measure_flow_loss(loss, kept), measure_flow_loss(loss, gone)

    before, tuned, ascended = (
        losses(model)
        for model in (
            problem().model,
            fit(FineTune(**common), problem()).model,
            fit(NegGradPlus(**common, clip=0.5), problem()).model,
        )
    )
    assert ascended[1] > tuned[1] > before[1]
    assert ascended[0] < before[0]


# Flow maps


def map_problem() -> Problem:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = MLP((2,), 8, 1, num_times=2)
        nn.init.normal_(net.last.weight, std=0.3)
    rows = torch.randn(256, 2, generator=stream(7)) * 0.3
    return Problem(model=FlowMap(net, (2,)), retain=rows + 1, forget=rows - 1)


def test_a_flow_map_descends_and_ascends_on_the_mean_flow_loss() -> None:
    """The same identity of gradients with (x0, x1, start, end) of both kinds."""
    model = map_problem().model.double()
    assert isinstance(model, FlowMap)
    loss = MeanFlowLoss(model.net)
    keep, drop = ((*batch(seed)[:2], 0.4 * batch(seed)[2], 0.4 + 0.5 * batch(seed)[2]) for seed in (1, 3))
    down, up = gradient(loss(*keep), model.net), gradient(loss(*drop), model.net)
    limit = 0.1 * float(down.norm() / up.norm())
    found = gradient(ClippedDifference(loss, 1.0, 0.1)(*keep, *drop), model.net)
    torch.testing.assert_close(found, down - min(1.0, limit) * up)


@pytest.mark.parametrize("own", [problem, map_problem])
def test_without_ascent_it_is_fine_tuning(own: Callable[[], Problem]) -> None:
    """The same draws of retain data; a strength of 1e-30 is lost in float32."""
    common: dict[str, Any] = {"steps": 30, "batch_size": 32, "learning_rate": 1e-3}
    tuned, same, other = (
        fit(method, own(), seed=3).model.state_dict()
        for method in (FineTune(**common), NegGradPlus(**common, strength=1e-30), NegGradPlus(**common))
    )
    for name, weights in tuned.items():
        torch.testing.assert_close(same[name], weights, rtol=0, atol=1e-6)
    assert max(float((other[name] - weights).abs().max()) for name, weights in tuned.items()) > 1e-4


@torch.no_grad()
def mean_flow_loss(model: nn.Module, centre: float) -> float:
    assert isinstance(model, FlowMap)
    x0, x1 = torch.randn(2, 4000, 2, generator=stream(4))
    start = torch.rand(4000, generator=stream(5))
    return float(MeanFlowLoss(model.net, power=0.0)(x0, 0.3 * x1 + centre, start, start))


def test_a_flow_map_learns_to_keep_and_forgets_more_than_by_fine_tuning() -> None:
    common: dict[str, Any] = {"steps": 200, "batch_size": 64, "learning_rate": 3e-3, "average": 0.9}
    before = map_problem().model
    tuned, ascended = (
        fit(method, map_problem(), seed=3).model
        for method in (FineTune(**common), NegGradPlus(**common, clip=0.5))
    )
    for model in (tuned, ascended):
        assert mean_flow_loss(model, 1) < 0.8 * mean_flow_loss(before, 1)
    assert mean_flow_loss(ascended, -1) > 1.1 * mean_flow_loss(tuned, -1)


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan])
@pytest.mark.parametrize("name", ["strength", "clip"])
def test_a_strength_or_clip_that_is_not_positive_is_refused(name: str, value: float) -> None:
    with pytest.raises(InputError, match=f"{name}=.*expected a number > 0"):
        NegGradPlus(**dict[str, Any]({name: value}))


def test_a_chain_or_missing_data_are_refused_before_any_training() -> None:
    own = problem()
    assert isinstance(own.model, Flow)
    chain = Chain(own.model, Flow(network(), (2,)))
    with pytest.raises(InputError, match="chained model to train on data; expected a Flow"):
        NegGradPlus().check(Problem(model=chain, retain=own.retain, forget=own.forget))
    with pytest.raises(InputError, match="NegGradPlus needs forget"):
        NegGradPlus().check(Problem(model=own.model, retain=own.retain))
    with pytest.raises(InputError, match=r"batch_size=300 for 256 retain samples"):
        fit(NegGradPlus(batch_size=300), own)
