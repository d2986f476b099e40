"""A plan says what a request leaves, which methods fit and why others do not; it trains nothing."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from torch import nn

import unflow as uf
from unflow.commands.cli import main
from unflow.commands.plan import COLUMNS, format_plan
from unflow.data import load_data, split_data, write_split
from unflow.ground import progress
from unflow.ground.errors import InputError
from unflow.methods import UNLEARNERS, UOT
from unflow.models import FlowMap
from unflow.nets import MLP


class Right(nn.Module):
    """Logits of two halves of the plane."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([-20 * x[:, 0], 20 * x[:, 0]], 1)


def identity() -> FlowMap:
    """A one-step model whose law is the normal one."""
    net = MLP((2,), width=8, depth=1, num_times=2)
    for weight in net.parameters():
        nn.init.zeros_(weight)
    return FlowMap(net, (2,))


TARGET = uf.Target(identity(), uf.energies.ClassLogOdds(Right(), [1], 0.0))


def test_acceptance_and_effective_share_are_those_of_the_law() -> None:
    """Half of the normal law stays: rejection keeps half of it, and weights leave half of a bank."""
    found = uf.plan(TARGET, {})
    assert found.acceptance == pytest.approx(0.5, abs=0.05)
    assert found.effective_share == pytest.approx(0.5, abs=0.06)
    assert found.parameters == sum(weight.numel() for weight in TARGET.model.parameters())
    assert found.trained == found.parameters
    assert found.training_mb == 16 * found.parameters / 2**20
    assert found.methods == ()


def test_what_is_not_trained_has_no_gradient_and_no_moments() -> None:
    whole, last, thin = (
        uf.plan(TARGET, {}, **how) for how in ({}, {"train_only": ["last"]}, {"adapters": uf.LowRank(1)})
    )
    weights = dict(TARGET.model.named_parameters())
    assert last.trained == sum(weight.numel() for name, weight in weights.items() if "last" in name)
    assert thin.trained == sum(sum(w.shape) for w in weights.values() if w.ndim == 2)
    assert last.training_mb * 2**20 == 4 * (whole.parameters + 3 * last.trained)
    assert thin.training_mb * 2**20 == 4 * (whole.parameters + 4 * thin.trained)
    with pytest.raises(InputError, match="matches none"):
        uf.plan(TARGET, {}, train_only=["lost"])


def test_what_a_way_of_training_forbids_is_an_obstacle() -> None:
    methods = {name: UNLEARNERS[name] for name in ("reject", "saliency", "latent_transport")}
    found = {each.method: each for each in uf.plan(TARGET, methods, adapters=uf.LowRank(1)).methods}
    without, weighing, fits = (found[name] for name in methods)
    assert "leaves the model's weights alone" in (without.obstacle or "")
    assert "weighs every single weight" in (weighing.obstacle or "")
    assert fits.obstacle is None


def test_a_family_that_does_not_fit_is_the_obstacle_with_data_and_without() -> None:
    methods, x = {"ot_fm": UNLEARNERS["ot_fm"]}, torch.zeros(300, 2)
    for real in ({}, {"retain": x}):
        (found,) = uf.plan(TARGET, methods, **real).methods
        assert found.obstacle == "OTFM does not train models of the family flow_map; expected flow"


def test_trials_say_nothing_but_the_name_of_the_method(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY", 0.0)
    method = UOT(steps=2, batch_size=16, bank_size=64)
    uf.plan(TARGET, {"uot": method}, precision="bf16-mixed")
    assert {line.partition(":")[0] for line in capfd.readouterr().err.splitlines()} == {"plan", "plan, uot"}
    uf.unlearn(TARGET, method)
    assert "2/2" in capfd.readouterr().err


def test_columns_of_a_plan_are_headed() -> None:
    found = uf.plan(TARGET, {name: UNLEARNERS[name] for name in ("reject", "erfm")})
    *_, header, row, obstacle = format_plan(found)
    assert tuple(re.split(r"\s{2,}", header)) == tuple(filter(None, COLUMNS))
    assert [len(part) for part in (re.split(r"\s{2,}", row), COLUMNS)] == [8, 8]
    assert row.endswith("not measured")
    assert obstacle.startswith("erfm    no: ")


def test_an_energy_without_a_bound_has_no_acceptance() -> None:
    target = uf.Target(identity(), uf.energies.ClassLogOdds(Right(), [1], None), strength=0.1)
    assert uf.plan(target, {}).acceptance is None


def test_methods_that_fit_have_a_time_and_the_others_a_reason() -> None:
    methods = {name: UNLEARNERS[name] for name in ("latent_transport", "erfm", "fine_tune", "reject")}
    before = {name: weight.clone() for name, weight in TARGET.model.state_dict().items()}
    found = {each.method: each for each in uf.plan(TARGET, methods).methods}
    one, two, three, four = (found[name] for name in methods)
    assert one.obstacle is None
    assert one.steps == UNLEARNERS["latent_transport"].steps  # type: ignore[attr-defined]
    assert one.seconds is not None
    assert one.seconds > 0
    assert "family" in (two.obstacle or "")
    assert three.obstacle == "it reads real samples of the retain set, and none were given"
    assert three.needs == ("retain",)
    assert (four.steps, four.obstacle) == (0, None)
    assert all(torch.equal(before[name], weight) for name, weight in TARGET.model.state_dict().items())


def test_the_estimate_is_that_of_the_whole_training() -> None:
    import dataclasses
    import time

    method = dataclasses.replace(uf.methods.LatentTransport(bank_size=2048), steps=400)
    (found,) = uf.plan(TARGET, {"it": method}).methods
    started = time.perf_counter()
    uf.unlearn(TARGET, method)
    taken = time.perf_counter() - started
    assert found.seconds is not None
    assert taken / 5 < found.seconds < 5 * taken  # noisy machines; a forgotten factor of 400 is none


def test_both_trainings_of_a_method_are_counted() -> None:
    (found,) = uf.plan(TARGET, {"it": UNLEARNERS["latent_transport_uot"]}).methods
    assert found.steps == 300 + 1000


def test_the_command_prints_it_and_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    data = load_data("digits")
    write_split(split_data(data, 0), data, Path("split.json"))
    small = """--net '{"net": "mlp", "width": 16, "depth": 1}' --split split.json --settings.steps 5"""
    import shlex

    assert main(shlex.split(f"train digits-flow {small} --out flow")) == 0
    assert main(shlex.split("train digits-guide --split split.json --settings.steps 20 --out guide")) == 0
    capsys.readouterr()
    words = shlex.split(
        "plan --model flow --energy classifier:guide --forget 3 --methods erfm,uot,fine_tune --data digits "
        "--split split.json --out plans/deep/plan.json"
    )
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "rejection keeps" in printed
    assert "erfm" in printed
    assert "no: UOT does not train models of the family flow" in printed
    assert {o["method"] for o in json.loads(Path("plans/deep/plan.json").read_text())["methods"]} == {
        "erfm",
        "uot",
        "fine_tune",
    }
    assert main(words) == 2
    assert "exists already" in capsys.readouterr().err
    assert main([*words[:-2], "--methods", "erfn"]) == 2
    assert "erfm" in capsys.readouterr().err


def test_a_seed_under_zero_is_refused() -> None:
    with pytest.raises(InputError, match="seed"):
        uf.plan(TARGET, {}, seed=-1)
