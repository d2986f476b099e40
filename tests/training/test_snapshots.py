"""A training keeps models on its way: what it would have returned there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from unflow.ground.errors import InputError
from unflow.models import Flow
from unflow.nets import MLP
from unflow.training.loop import Fit, fit
from unflow.training.method import Problem
from unflow.training.originals.flow_matching import FlowMatching
from unflow.training.snapshots import Snapshots

METHOD = FlowMatching(steps=20, batch_size=8, learning_rate=1e-2, average=0.9)


def train(out: Path, snapshots: Snapshots | None, stop: int | None = None) -> Fit:
    def kill(step: int) -> None:
        if step == stop:
            raise KeyboardInterrupt

    x = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    problem = Problem(model=Flow(MLP([2], width=8, depth=1), [2]), data=x)
    return fit(METHOD, problem, out, seed=1, checkpoint_every=5, on_step=kill, snapshots=snapshots)


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_the_last_snapshot_is_the_result_and_snapshots_change_nothing(tmp_path: Path) -> None:
    snapshots = Snapshots(tmp_path / "kept", 4)
    found = train(tmp_path / "run", snapshots)
    kept = list(snapshots.load(found.model, METHOD.steps))
    assert [one.step for one in kept] == [5, 10, 15, 20]
    assert same(kept[-1].model, found.model)
    assert not any(same(one.model, found.model) for one in kept[:-1])
    assert [one.seconds for one in kept] == sorted(one.seconds for one in kept)
    assert 0 < kept[-1].seconds <= found.seconds
    assert same(train(tmp_path / "plain", None).model, found.model)


@pytest.mark.parametrize("stop", [3, 10, 11])
def test_a_killed_training_keeps_the_same_models(stop: int, tmp_path: Path) -> None:
    whole, killed = Snapshots(tmp_path / "whole", 4), Snapshots(tmp_path / "killed", 4)
    result = train(tmp_path / "run", whole).model
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "again", killed, stop)
    train(tmp_path / "again", killed)
    pairs = zip(whole.load(result, 20), killed.load(result, 20), strict=True)
    assert all(same(one.model, other.model) for one, other in pairs)


def test_a_training_of_few_steps_keeps_one_model_a_step(tmp_path: Path) -> None:
    assert Snapshots(tmp_path).list_steps(3) == [1, 2, 3]
    assert Snapshots(tmp_path).list_steps(8000) == list(range(800, 8001, 800))
    with pytest.raises(InputError, match=r"1\.safetensors"):
        list(Snapshots(tmp_path).load(nn.Linear(1, 1), 3))
