"""Planned pairs of noise and data: permutations within blocks, of least cost, and of the right laws."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from unflow.ground.errors import InputError
from unflow.ground.streams import stream
from unflow.methods import FineTune, NegGradPlus, Retrain
from unflow.models import Flow, FlowMap
from unflow.nets import MLP
from unflow.training.loop import fit
from unflow.training.method import Problem, draw_rows
from unflow.training.originals import flow_matching
from unflow.training.originals.flow_matching import (
    MAX_PAIRS,
    PLAN_SIZE,
    FlowMatching,
    draw_flow_batch,
    pair_flow_data,
)
from unflow.training.originals.mean_flow import MeanFlow


def data(*shape: int) -> Tensor:
    return 2 + 0.5 * torch.randn(*shape, generator=stream(9))


def unplanned(x: Tensor, num_draws: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return noise and rows of data as they are drawn, before any plan."""
    generator = stream(seed)
    x1 = x[draw_rows(len(x), num_draws, generator)]
    return torch.randn(x1.shape, generator=generator), x1


def test_independent_pairs_are_left_to_every_step() -> None:
    x, generator = data(30, 2), stream(0)
    before = generator.get_state()
    prepared = pair_flow_data(x, "independent", 1000, generator)
    assert prepared.keys() == {"x1"}
    assert prepared["x1"] is x
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize("num_draws", [100, PLAN_SIZE, 2 * PLAN_SIZE + 176])
def test_a_plan_permutes_the_drawn_data_within_each_block_and_costs_least(num_draws: int) -> None:
    """Marginals are kept exactly; on the line the best plan is the monotone one."""
    x = data(300, 1)
    prepared = pair_flow_data(x, "exact_ot", num_draws, stream(4))
    x0, x1 = unplanned(x, num_draws, 4)
    assert len(prepared["x0"]) == len(prepared["x1"]) == num_draws
    assert torch.equal(prepared["x0"], x0)
    blocks = zip(prepared["x1"].split(PLAN_SIZE), x0.split(PLAN_SIZE), x1.split(PLAN_SIZE), strict=True)
    for planned, noise, drawn in blocks:
        assert torch.equal(planned.sort(0).values, drawn.sort(0).values)
        assert torch.equal(planned[noise[:, 0].argsort()], drawn.sort(0).values)
        assert float((planned - noise).square().mean()) < float((drawn - noise).square().mean())


def test_a_plan_of_images_costs_no_more_than_independent_pairs() -> None:
    x = data(200, 1, 3, 3)
    prepared = pair_flow_data(x, "exact_ot", 256, stream(5))
    x0, x1 = unplanned(x, 256, 5)
    assert prepared["x1"].shape == (256, 1, 3, 3)
    planned = float((prepared["x1"] - prepared["x0"]).square().sum())
    assert planned < 0.9 * float((x1 - x0).square().sum())
    same = prepared["x1"].flatten(1)[:, None] == x.flatten(1)
    assert bool(same.all(2).any(1).all())


def test_as_many_pairs_as_a_training_draws_but_never_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_PAIRS == 2**15
    monkeypatch.setattr(flow_matching, "MAX_PAIRS", 700)
    assert [len(pair_flow_data(data(50, 1), "exact_ot", n, stream(0))["x0"]) for n in (64, 700, 701)] == [
        64,
        700,
        700,
    ]
    method = FlowMatching(steps=3, batch_size=20, coupling="exact_ot")
    prepared = method.prepare(Problem(model=flow(), data=data(50, 1)), stream(0))
    assert len(prepared["x1"]) == 60


def test_a_batch_draws_pairs_together_and_times_apart() -> None:
    x0, x1 = torch.arange(40.0)[:, None], 100 + torch.arange(40.0)[:, None]
    batch = draw_flow_batch({"x0": x0, "x1": x1}, 500, stream(0))
    assert torch.equal(batch["x1"], batch["x0"] + 100)
    assert len(batch["x0"].unique()) == 40
    fresh = draw_flow_batch({"x1": x1}, 500, stream(0))
    assert torch.equal(fresh["x1"], batch["x1"])
    assert abs(float(torch.corrcoef(torch.stack([fresh["x0"][:, 0], fresh["x1"][:, 0]]))[0, 1])) < 0.2
    for t in (batch["t"], fresh["t"]):
        assert float(t.min()) >= 0
        assert float(t.max()) < 1
        assert float(t.mean()) == pytest.approx(0.5, abs=0.05)


def flow() -> Flow:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Flow(MLP((1,), 32, 2), (1,), "midpoint", 8)


def test_planned_pairs_on_the_line_have_one_velocity_which_is_the_transport(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The monotone plan N(0, 1) -> N(2, 0.5^2) is z -> 2 + z / 2: one Euler step is then exact."""
    monkeypatch.setattr(flow_matching, "MAX_PAIRS", 4096)
    rows = data(4096, 1)
    method = FlowMatching(steps=500, batch_size=256, coupling="exact_ot", average=0.98, learning_rate=5e-3)
    model = fit(method, Problem(model=flow(), data=rows)).model
    assert isinstance(model, Flow)
    z = torch.linspace(-1.5, 1.5, 31)[:, None]
    one_step = Flow(model.net, (1,), "euler", 1).push(z)
    torch.testing.assert_close(one_step, 2 + z / 2, rtol=0, atol=0.15)
    torch.testing.assert_close(model.push(z), 2 + z / 2, rtol=0, atol=0.15)


@pytest.mark.parametrize("kind", [FineTune, Retrain])
@pytest.mark.parametrize("coupling", ["independent", "exact_ot"])
def test_a_baseline_trains_by_the_coupling_of_the_original(kind: Any, coupling: str) -> None:
    problem = Problem(model=flow(), retain=data(64, 1))
    loop, own = kind(steps=3, batch_size=8, coupling=coupling).training(problem, 0)
    assert isinstance(loop, FlowMatching)
    assert (loop.coupling, loop.steps, loop.batch_size) == (coupling, 3, 8)
    assert own.data is problem.retain
    assert ("x0" in loop.prepare(own, stream(0))) == (coupling == "exact_ot")


def test_fine_tuning_a_flow_map_has_no_plan() -> None:
    flow_map = FlowMap(MLP((1,), 8, 1, num_times=2), (1,))
    loop, _ = FineTune(coupling="exact_ot").training(Problem(model=flow_map, retain=data(64, 1)), 0)
    assert isinstance(loop, MeanFlow)


@pytest.mark.parametrize("kind", [FlowMatching, FineTune, Retrain, NegGradPlus])
def test_an_unknown_coupling_is_refused_before_any_training(kind: Any) -> None:
    rows = data(256, 1)
    problem = Problem(model=flow(), data=rows, retain=rows, forget=rows)
    with pytest.raises(InputError, match=r"coupling 'exact_to'.*exact_ot"):
        fit(kind(steps=2, batch_size=8, coupling="exact_to"), problem)
