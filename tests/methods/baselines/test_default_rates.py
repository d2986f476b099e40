"""The default rates of the baselines: laws of the rule by size, and a stranger that each baseline changes."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unflow.energies import CallableEnergy
from unflow.evidence.reproduce.published import BASELINE_RATES, find_published_method
from unflow.ground.streams import stream
from unflow.methods import (
    UNLEARNERS,
    FineTune,
    GradientAscent,
    NegGradPlus,
    Relabel,
    Saliency,
    SelectiveAmnesia,
    WeightExtrapolation,
)
from unflow.methods.baselines import gradient_ascent, own_training, regression, weight_extrapolation
from unflow.methods.baselines.regression import Regression
from unflow.models import Flow, FlowMap, GenerativeModel, Generator
from unflow.nets import MLP
from unflow.target import Target
from unflow.training.loop import fit
from unflow.training.method import Problem
from unflow.training.rates import scale_rate

REGRESSIONS = {"relabel", "saliency", "selective_amnesia"}


class Stranger(nn.Module):
    """8 normal latents -> images [1, 8, 8] in [-1, 1], by transposed convolutions with batch norm."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Unflatten(1, (8, 1, 1)),
            nn.ConvTranspose2d(8, 16, 4),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.ConvTranspose2d(16, 1, 4, 2, 1),
            nn.Tanh(),
        )
        for weight in self.parameters():
            if weight.ndim > 1:
                nn.init.normal_(weight, std=gain)

    def forward(self, z: Tensor) -> Tensor:
        return self.body(z)


def score(x: Tensor) -> Tensor:
    """Positive for the class to forget: images whose left half is the brighter one by far."""
    return x[..., :4].mean((1, 2, 3)) - x[..., 4:].mean((1, 2, 3)) - 0.1


def is_left(x: Tensor) -> Tensor:
    return 6 * torch.sigmoid(40 * score(x))


def stranger(gain: float = 0.2) -> Generator:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Generator(Stranger(gain), (8,))


def share(model: Any) -> float:
    return float((score(model.push_batches(model.prior(4000, stream(5)))) > 0).double().mean())


def network(family: type[Flow] | type[FlowMap], gain: float = 1.0) -> GenerativeModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = MLP((2,), 16, 2, num_times=1 if family is Flow else 2)
        for weight in net.parameters():
            nn.init.normal_(weight, std=0.1 * gain)
    return family(net, (2,))


def rate_of(method: Any, model: GenerativeModel) -> float | None:
    """Return the rate that a training starts with on a model, from some data."""
    x = torch.randn(300, 2, generator=stream(1))
    energy = CallableEnergy(lambda x: 6 * torch.sigmoid(x[:, 0]), 0.0)
    problem = Problem(model=model, retain=x, forget=x, target=Target(model, energy))
    loop, problem = method.training(problem, 0)
    (part,) = loop.init(problem, loop.prepare(problem, stream(0)), 0).values()
    rate: float | None = part.learning_rate
    return rate


@pytest.mark.parametrize("family", [Flow, FlowMap])
@pytest.mark.parametrize(
    ("method", "relative"),
    [
        (Relabel(), regression.RATE),
        (Saliency(), regression.RATE),
        (SelectiveAmnesia(fisher_batches=1), regression.RATE),
        (FineTune(), own_training.RATE),
        (NegGradPlus(), own_training.RATE),
        (GradientAscent(), gradient_ascent.RATE),
        (WeightExtrapolation(), weight_extrapolation.RATE),
    ],
)
def test_a_rate_by_size_is_a_fixed_share_of_the_weights(
    method: Any, relative: float, family: type[Flow] | type[FlowMap]
) -> None:
    if family is Flow and isinstance(method, Regression):
        pytest.skip("it trains one-step models")
    small, large = network(family), network(family, gain=3.0)
    rate = rate_of(method, small)
    assert rate == pytest.approx(scale_rate(small, relative))
    assert rate_of(method, large) == pytest.approx(3 * scale_rate(small, relative))
    assert rate_of(dataclasses.replace(method, learning_rate=0.5), small) == 0.5


def test_fixed_weights_do_not_count_and_a_frozen_network_has_the_rate_of_a_trained_one() -> None:
    middle = nn.Linear(4, 4)
    net = nn.Sequential(nn.Linear(4, 4), middle, nn.Linear(4, 4))
    whole = scale_rate(net, 0.01)
    assert scale_rate(net.requires_grad_(False), 0.01) == whole
    middle.requires_grad_(True)
    assert scale_rate(net, 0.01) == pytest.approx(0.01 * float(middle.weight.detach().square().mean().sqrt()))


@pytest.mark.parametrize("name", ["gradient_ascent", *sorted(REGRESSIONS)])
def test_each_baseline_s_defaults_make_a_stranger_forget_measurably(name: str) -> None:
    model = stranger()
    before = share(model)
    assert before > 0.1
    method = UNLEARNERS[name]
    if name in REGRESSIONS:
        method = dataclasses.replace(method, bank_size=4096)  # type: ignore[call-arg]
    found = fit(method, Problem(model=model, target=Target(model, CallableEnergy(is_left, 0.0)))).model
    assert share(found) < 0.5 * before


def test_the_defaults_of_weight_extrapolation_change_a_stranger_s_share_and_gamma_0_does_not() -> None:
    """It has no term that lowers the share: on this stranger its direction may as well raise it."""
    model, method = stranger(), WeightExtrapolation(bank_size=4096)
    problem = Problem(model=model, target=Target(model, CallableEnergy(is_left, 0.0)))
    before = share(model)
    still, found = (fit(dataclasses.replace(method, gamma=gamma), problem).model for gamma in (0.0, 1.0))
    assert share(still) == before
    assert abs(share(found) - before) > 0.03 * before


@pytest.mark.parametrize("name", sorted(BASELINE_RATES))
def test_the_published_tables_keep_their_rates(name: str) -> None:
    rate = 3e-4 if name in ("fine_tune", "neg_grad_plus") else 1e-4
    own: dict[str, Any] = {"learning_rate": rate} | ({"lam": 100.0} if name == "selective_amnesia" else {})
    expected = dataclasses.replace(UNLEARNERS[name], **own)
    assert find_published_method(name, {"width": 8}) == expected
