"""Retrain: fresh weights by the recipe of the original; a flow map is distilled where there is a teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import unflow as uf
from unflow.commands.cli import main
from unflow.energies import CallableEnergy
from unflow.ground.errors import InputError
from unflow.ground.files import sha256_module
from unflow.ground.streams import stream
from unflow.methods import Retrain
from unflow.models import Chain, Flow, FlowMap
from unflow.nets import MLP, net_config, new_net
from unflow.training.loop import fit
from unflow.training.method import Problem, settings
from unflow.training.originals.distill import Distill
from unflow.training.originals.flow_matching import FlowMatching
from unflow.training.originals.mean_flow import MeanFlow
from unflow.unlearning.unlearn import unlearn

COMMON: dict[str, Any] = {"steps": 20, "batch_size": 16, "learning_rate": 3e-3, "average": 0.9}
RETAIN = torch.randn(64, 2, generator=stream(1)) + 1


def net(num_times: int, seed: int = 0) -> nn.Module:
    net = new_net({"net": "mlp", "shape": [2], "width": 8, "depth": 1, "num_times": num_times}, seed)
    assert isinstance(net, MLP)
    nn.init.normal_(net.last.weight, std=0.3, generator=stream(seed))
    return net


def flow(seed: int = 0) -> Flow:
    return Flow(net(1, seed), (2,), steps=3)


def flow_map() -> FlowMap:
    return FlowMap(net(2), (2,), steps=2)


def same(first: nn.Module, second: nn.Module) -> bool:
    a, b = first.state_dict(), second.state_dict()
    return all(torch.equal(a[name], b[name]) for name in a)


def test_each_family_has_its_own_recipe() -> None:
    method = Retrain(**COMMON)
    recipes = {
        FlowMatching: Problem(model=flow(), retain=RETAIN),
        MeanFlow: Problem(model=flow_map(), retain=RETAIN),
        Distill: Problem(model=flow_map(), teacher=flow()),
    }
    for recipe, problem in recipes.items():
        loop, own = method.training(problem, 0)
        assert type(loop) is recipe
        assert {name: settings(loop)[name] for name in COMMON} == COMMON
        assert own.data is problem.retain
        assert not same(own.model, problem.model)


def test_a_flow_map_is_distilled_as_if_its_teacher_were_the_only_one_there() -> None:
    """The same bits as the base recipe: a fresh flow map of that seed, distilled."""
    result = fit(Retrain(**COMMON), Problem(model=flow_map(), teacher=flow(3), retain=RETAIN), seed=5).model
    fresh = FlowMap(new_net(net_config(flow_map().net), 5), (2,), steps=2)
    expected = fit(Distill(**COMMON), Problem(model=fresh, teacher=flow(3)), seed=5).model
    assert same(result, expected)
    assert isinstance(result, FlowMap)
    assert result.steps == 2


def test_without_a_teacher_it_is_mean_flow_on_the_retain_data() -> None:
    result = fit(Retrain(**COMMON), Problem(model=flow_map(), retain=RETAIN), seed=5).model
    fresh = FlowMap(new_net(net_config(flow_map().net), 5), (2,), steps=2)
    assert same(result, fit(MeanFlow(**COMMON), Problem(model=fresh, data=RETAIN), seed=5).model)


def test_the_teacher_is_part_of_what_a_result_comes_from(tmp_path: Path) -> None:
    target = uf.Target(flow_map(), CallableEnergy(lambda x: x[:, 0].square(), 0.0))
    made = unlearn(target, Retrain(**COMMON), tmp_path, name="retrained", teacher=flow(3))
    assert made.lineage["data_used"] == ["teacher"]
    assert made.lineage["teacher"] == sha256_module(flow(3))
    again = unlearn(target, Retrain(**COMMON), tmp_path, name="retrained", teacher=flow(3))
    assert same(again.model, made.model)
    with pytest.raises(InputError, match=r"holds another result.*teacher: "):
        unlearn(target, Retrain(**COMMON), tmp_path, name="retrained", teacher=flow(4))


def test_the_command_takes_a_teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    uf.save(flow_map(), "map")
    uf.save(flow(3), "flow")
    uf.save(uf.Classifier(new_net(net_config(net(0)) | {"outputs": 3}, 0), ["a", "b", "c"]), "guide")
    words = (
        "unlearn --model map --energy classifier:guide --forget 1 --method retrained --teacher flow --out out"
    )
    options = [f"--settings.{name}={value}" for name, value in COMMON.items()]
    assert main([*words.split(), *options]) == 0
    expected = fit(Retrain(**COMMON), Problem(model=flow_map(), teacher=flow(3)), seed=0).model
    assert same(uf.load("out"), expected)


def test_a_latent_flow_map_is_distilled_from_the_flow_inside_a_latent_teacher() -> None:
    shape = {"net": "conv_autoencoder", "shape": [1, 4, 4], "latent": 2, "width": 8, "depth": 1}
    room = uf.Autoencoder(new_net(shape, 0)).eval()
    target = uf.Target(uf.Latent(flow_map(), room), CallableEnergy(lambda x: x.flatten(1).sum(1), -1e9))
    found = unlearn(target, Retrain(**COMMON), teacher=uf.Latent(flow(3), room), seed=5).model
    assert isinstance(found, uf.Latent)
    bare = unlearn(uf.Target(flow_map(), target.energy), Retrain(**COMMON), teacher=flow(3), seed=5).model
    assert same(found.inner, bare)


def test_what_is_missing_or_does_not_fit_is_refused_before_any_training() -> None:
    with pytest.raises(InputError, match="Retrain needs retain"):
        Retrain().check(Problem(model=flow_map()))
    with pytest.raises(InputError, match="Retrain needs retain"):
        Retrain().check(Problem(model=flow(), teacher=flow()))
    with pytest.raises(InputError, match="got a FlowMap to distil from; expected a Flow"):
        fit(Retrain(**COMMON), Problem(model=flow_map(), teacher=flow_map()))
    with pytest.raises(InputError, match="chained model to train on data"):
        Retrain().check(Problem(model=Chain(flow(), flow()), retain=RETAIN))
