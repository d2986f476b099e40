"""Progress: long loops are shown, short ones are not, and of nested loops the outer one is."""

from __future__ import annotations

import time

import pytest
import torch

import unflow as uf
from unflow.energies import Region
from unflow.ground.progress import Progress, follow, hide_progress
from unflow.methods import UNLEARNERS, LatentTransport
from unflow.models import FlowMap
from unflow.nets import new_net
from unflow.target import Target
from unflow.training.loop import fit
from unflow.training.method import Problem


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every reading of the clock is a second later, so that no test waits."""
    seconds = iter(range(10**6))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(seconds)))


@pytest.mark.usefixtures("clock")
def test_a_long_loop_is_shown_and_a_short_one_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(follow(range(3), "short")) == [0, 1, 2]
    assert capsys.readouterr().err == ""
    assert list(follow(range(40), "long")) == [*range(40)]
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) > 2
    assert all(line.startswith("long: ") for line in lines)
    assert lines[-1].startswith("long: 40/40 ")


@pytest.mark.usefixtures("clock")
def test_of_nested_loops_the_outer_one_is_shown_at_the_steps_of_the_inner_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with Progress("outer", 2) as outer:
        with hide_progress():
            list(follow(range(60), "inner"))
        outer.advance(1)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) > 3
    assert all(line.startswith("outer: ") for line in lines)


@pytest.mark.usefixtures("clock")
def test_hidden_loops_are_hidden(capsys: pytest.CaptureFixture[str]) -> None:
    with hide_progress(), Progress("hidden", 60) as progress:
        for step in range(60):
            progress.advance(step)
    assert capsys.readouterr().err == ""


def make_target() -> Target:
    net = new_net({"net": "mlp", "shape": [2], "num_times": 2, "width": 8, "depth": 1}, seed=0)
    return Target(FlowMap(net, (2,)).eval(), Region(lambda x: x[:, 0] > 0, 3.0))


@pytest.mark.usefixtures("clock")
def test_a_plan_shows_which_method_it_tries(capsys: pytest.CaptureFixture[str]) -> None:
    uf.plan(make_target(), {name: UNLEARNERS[name] for name in ("uot", "latent_transport", "reject")})
    lines = capsys.readouterr().err.splitlines()
    assert {"plan, latent_transport", "plan, reject"} <= {line.partition(":")[0] for line in lines}


@pytest.mark.usefixtures("clock")
def test_the_projection_of_latents_shows_its_steps(capsys: pytest.CaptureFixture[str]) -> None:
    target = make_target()
    energy = uf.energies.CallableEnergy(lambda x: 3 * torch.sigmoid(4 * x[:, 0]), lower_bound=0.0)
    target = Target(target.model, energy)
    method = LatentTransport(coupling="project", steps=2, bank_size=256, batch_size=8)
    fit(method, Problem(model=target.model, target=target))
    assert "move latents along the gradient: " in capsys.readouterr().err
