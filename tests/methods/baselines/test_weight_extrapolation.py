"""WeightExtrapolation: linear in gamma, the original at 0, and what its fine-tuning concentrates on."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from unflow.energies import Region
from unflow.ground.errors import InputError
from unflow.ground.streams import stream
from unflow.methods import WeightExtrapolation
from unflow.methods.baselines.weight_extrapolation import extrapolate_weights
from unflow.models import Chain, Flow, FlowMap, Generator
from unflow.nets import MLP
from unflow.target import Target
from unflow.training.loop import fit
from unflow.training.losses import VelocityLoss
from unflow.training.method import Problem
from unflow.training.originals.flow_matching import measure_flow_loss

SMALL: dict[str, Any] = {"steps": 60, "batch_size": 32, "bank_size": 1024, "learning_rate": 3e-3}


def network(num_times: int) -> MLP:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = MLP((2,), 16, 2, num_times=num_times)
        nn.init.normal_(net.last.weight, std=0.3)
    return net


def problem_of(family: str) -> Problem:
    models = {
        "flow": lambda: Flow(network(1), (2,), steps=4),
        "flow_map": lambda: FlowMap(network(2), (2,)),
        "generator": lambda: Generator(network(0), (2,)),
    }
    model, rows = models[family](), torch.randn(256, 2, generator=stream(7))
    target = Target(model, Region(lambda x: x[:, 0] > 0.2, 30.0))
    return Problem(model=model, target=target, forget=0.3 * rows - 1)


FAMILIES = ("flow", "flow_map", "generator")


@pytest.mark.parametrize("family", FAMILIES)
def test_gamma_0_is_the_original_in_every_bit(family: str) -> None:
    problem = problem_of(family)
    after = fit(WeightExtrapolation(**SMALL, gamma=0.0), problem, seed=1).model
    for name, weights in problem.model.state_dict().items():
        assert torch.equal(after.state_dict()[name], weights)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_weights_are_linear_in_gamma_and_the_training_does_not_read_it(family: str) -> None:
    problem = problem_of(family)
    start = problem.model.state_dict()
    one, three = (
        fit(WeightExtrapolation(**SMALL, gamma=gamma), problem, seed=1).model.state_dict()
        for gamma in (1.0, 3.0)
    )
    assert max(float((one[name] - start[name]).abs().max()) for name in start) > 1e-3
    for name in start:
        moved = one[name] - start[name]
        torch.testing.assert_close(three[name] - start[name], 3 * moved, rtol=1e-3, atol=1e-6)


def test_it_goes_as_far_from_the_fine_tuned_weights_as_they_went() -> None:
    original, changed = nn.Linear(2, 1), nn.Linear(2, 1)
    found = extrapolate_weights(original, changed, 0.5)
    expected = original.weight - 0.5 * (changed.weight - original.weight)
    torch.testing.assert_close(found.weight, expected)
    assert found.weight is not original.weight


def test_buffers_stay_those_of_the_original() -> None:
    original, changed = (nn.BatchNorm1d(2) for _ in range(2))
    assert changed.running_mean is not None
    changed.running_mean.fill_(7.0)
    found: Any = extrapolate_weights(original, changed, 1.0)
    assert found.running_mean.tolist() == [0, 0]


def test_a_one_step_model_is_tuned_on_its_own_forgotten_outputs() -> None:
    """Forgotten latents keep their output; every retained one is given that of a forgotten one."""
    problem = problem_of("flow_map")
    prepared = WeightExtrapolation(**SMALL).prepare(problem, stream(0))
    z, y = prepared["z"], prepared["y"]
    assert len(z) == len(y) == SMALL["bank_size"]
    assert bool((y[:, 0] > 0.2).all())
    assert isinstance(problem.model, FlowMap)
    with torch.no_grad():
        x = problem.model.push(z)
    is_forgotten = x[:, 0] > 0.2
    assert 0.1 < float(is_forgotten.float().mean()) < 0.9
    torch.testing.assert_close(x[is_forgotten], y[is_forgotten])
    assert torch.isin(y[~is_forgotten], y[is_forgotten]).all()


def test_a_linear_one_step_model_moves_against_the_least_squares_solution() -> None:
    """x = b with b0 = 0 and outputs of forgotten latents of mean m: theta_forget = m, theta = -gamma m."""

    class Shift(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.b, self.fixed = nn.Parameter(torch.zeros(1)), nn.Identity()

        def forward(self, z: torch.Tensor) -> torch.Tensor:
            return z + self.b

    model = Generator(Shift(), (1,))
    problem = Problem(model=model, target=Target(model, Region(lambda x: x[:, 0] > 0.5, 30.0)))
    options: dict[str, Any] = {"steps": 600, "batch_size": 256, "learning_rate": 2e-2, "bank_size": 8192}
    method = WeightExtrapolation(**options, gamma=2.0)
    prepared = method.prepare(problem, stream(3, 0))
    m = float((prepared["y"] - prepared["z"]).mean())
    found: Any = fit(method, problem, seed=3).model
    assert m > 0.5
    assert float(found.net.b) == pytest.approx(-2 * m, abs=0.06)


def test_a_flow_learns_the_forget_data_and_then_unlearns_it() -> None:
    problem = problem_of("flow")
    assert isinstance(problem.model, Flow)
    assert problem.forget is not None
    tuned, away = (
        fit(WeightExtrapolation(**SMALL | {"steps": 150, "average": 0.9}, gamma=gamma), problem, seed=1).model
        for gamma in (0.0, 0.3)
    )
    assert isinstance(tuned, Flow)
    assert isinstance(away, Flow)
    losses = [measure_flow_loss(VelocityLoss(model.net), problem.forget) for model in (tuned, away)]
    assert losses[1] > 1.05 * losses[0]


def test_what_each_family_reads() -> None:
    method = WeightExtrapolation()
    reads = {family: method.reads(problem_of(family)) for family in FAMILIES}
    assert reads == {"flow": {"forget"}, "flow_map": {"target"}, "generator": {"target"}}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"gamma": -0.1}, "got gamma=-0.1; expected a finite number >= 0"),
        ({"gamma": math.inf}, "got gamma=inf"),
        ({"coupling": "exact"}, "coupling 'exact'"),
        ({"bank_size": 32}, r"batch_size=64 for 32 samples \(bank_size\)"),
    ],
)
def test_bad_hyper_parameters_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        WeightExtrapolation(**options)


def test_a_chain_or_missing_data_are_refused_before_any_training() -> None:
    flow = problem_of("flow")
    assert isinstance(flow.model, Flow)
    with pytest.raises(InputError, match="WeightExtrapolation needs forget"):
        WeightExtrapolation().check(Problem(model=flow.model))
    with pytest.raises(InputError, match="WeightExtrapolation needs target"):
        WeightExtrapolation().check(Problem(model=problem_of("generator").model))
    chain = Chain(flow.model, Flow(network(1), (2,)))
    with pytest.raises(InputError, match="chained model to train on data; expected a Flow"):
        WeightExtrapolation().check(Problem(model=chain, forget=flow.forget))
    with pytest.raises(InputError, match="batch_size=300 for 256 forget samples"):
        fit(WeightExtrapolation(batch_size=300), flow)
