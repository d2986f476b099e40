"""uf.unlearn: latent models are unlearned within, and what a method does not read changes nothing."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import unflow as uf
from unflow.disk import bundle
from unflow.energies import CallableEnergy, ClassLogOdds, Decoded, Energy
from unflow.ground.errors import InputError
from unflow.ground.files import read_json, sha256_module, write_json
from unflow.ground.streams import stream
from unflow.methods import ERFM, UNLEARNERS, UOT, FineTune
from unflow.nets import MLP, new_net
from unflow.training.compute import Compute
from unflow.training.method import Method, Problem
from unflow.unlearning import unlearn as unlearning
from unflow.unlearning.defaults import default_method
from unflow.unlearning.problems import RealSamples
from unflow.unlearning.unlearn import unlearn

SMALL = {"steps": 6, "batch_size": 8, "bank_size": 64, "block_size": 32, "width": 8, "depth": 1}


def small(method: Method, **options: Any) -> Method:
    names = {field.name for field in dataclasses.fields(method)}
    return dataclasses.replace(method, **{k: v for k, v in (SMALL | options).items() if k in names})


def shaken(net: nn.Module) -> nn.Module:
    for parameter in net.parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=stream(8))
    return net


def autoencoder() -> uf.Autoencoder:
    net = {"net": "conv_autoencoder", "shape": [1, 4, 4], "latent": 2, "width": 8, "depth": 1}
    return uf.Autoencoder(shaken(new_net(net, 0))).eval().requires_grad_(False)


def inner(family: str) -> uf.GenerativeModel:
    num_times = {"flow": 1, "flow_map": 2, "generator": 0}[family]
    net = shaken(new_net({"net": "mlp", "shape": [2], "width": 8, "depth": 1, "num_times": num_times}, 0))
    kinds = {"flow": uf.Flow, "flow_map": uf.FlowMap, "generator": uf.Generator}
    return kinds[family](net, (2,)).eval().requires_grad_(False)


def bright(x: Tensor) -> Tensor:
    return nn.functional.softplus(6 * x.flatten(1).mean(1))


def images(seed: int) -> Tensor:
    return torch.randn(40, 1, 4, 4, generator=stream(seed)).tanh()


CASES = [
    (name, family)
    for name, method in UNLEARNERS.items()
    for family in sorted(method.families)
    if not method.needs_conditional
]


# Latent models


@pytest.mark.usefixtures("short_start")
@pytest.mark.parametrize(("name", "family"), CASES)
def test_unlearning_a_latent_model_is_unlearning_its_inner_model_by_the_decoded_energy(
    name: str, family: str
) -> None:
    """The same bits as the request for latents, with the data encoded; the autoencoder stays as it is."""
    method, energy = small(UNLEARNERS[name]), CallableEnergy(bright, 0.0)
    model, room = inner(family), autoencoder()
    data = {"retain": images(1), "forget": images(2), "held_out": images(3)}
    latent = uf.Latent(model, room)
    found = unlearn(uf.Target(latent, energy), method, seed=3, **data)
    encoded = {key: room.encode(x) for key, x in data.items()}
    expected = unlearn(uf.Target(model, Decoded(energy, room)), method, seed=3, **encoded)
    assert isinstance(found.model, uf.Latent)
    assert sha256_module(found.model.inner) == sha256_module(expected.model) != sha256_module(model)
    assert sha256_module(found.model.autoencoder) == sha256_module(room)
    assert found.model.original_recoverable == expected.model.original_recoverable
    assert found.lineage["parent"] == sha256_module(latent)
    assert found.lineage["family"] == family
    assert found.lineage["request"]["words"] == energy.describe()
    assert found.lineage["data_used"] == expected.lineage["data_used"]


def test_records_and_their_fields_as_keywords_mean_the_same() -> None:
    target = uf.Target(uf.Latent(inner("flow"), autoencoder()), CallableEnergy(bright, 0.0))
    method = small(FineTune())
    data = RealSamples(retain=images(1), forget=images(2))
    one = unlearn(target, method, data=data, compute=Compute(micro_batches=2))
    other = unlearn(target, method, retain=data.retain, forget=data.forget, micro_batches=2)
    assert sha256_module(one.model) == sha256_module(other.model)
    assert one.lineage["data"] == other.lineage["data"]
    with pytest.raises(InputError, match=r"got data=... and also retain, which data holds"):
        unlearn(target, method, data=data, retain=data.retain)


def test_a_method_may_be_a_row_name() -> None:
    target = uf.Target(inner("flow_map"), CallableEnergy(bright, 0.0))
    assert unlearn(target, "reject").lineage["method"] == "reject"
    with pytest.raises(InputError, match="got the method 'uott'; expected one of erfm, "):
        unlearn(target, "uott")


@pytest.mark.parametrize(
    ("family", "options", "name"),
    [
        ("flow", {}, "energy_guidance"),
        ("flow", {"train_only": ["last"]}, "energy_guidance"),
        ("flow", {"adapters": uf.LowRank(1)}, "energy_guidance"),
        ("flow_map", {}, "residual_matching"),
        ("generator", {"train_only": ["last"]}, "residual_matching"),
    ],
)
def test_without_a_method_the_default_of_the_family_is_taken(
    family: str, options: dict[str, Any], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class TakenError(Exception):
        pass

    def take(method: Method, *_: Any, label: str, **__: Any) -> None:
        assert method is UNLEARNERS[name]
        assert label == f"{family} {name}"
        raise TakenError

    monkeypatch.setattr(unlearning, "fit", take)
    assert default_method(family) == name
    with pytest.raises(TakenError):
        unlearn(uf.Target(inner(family), CallableEnergy(bright, 0.0)), **options)


def test_the_latent_target_is_the_law_of_the_decoded_one() -> None:
    """Weights of decoded samples are those of their latents: rejection in either room is the same."""
    model, room, energy = inner("flow"), autoencoder(), CallableEnergy(bright, 0.0)
    outside = uf.Target(uf.Latent(model, room), energy).bank(50, stream(1))
    inside = uf.Target(model, Decoded(energy, room)).bank(50, stream(1))
    assert torch.equal(outside.z, inside.z)
    torch.testing.assert_close(outside.energy, inside.energy)
    torch.testing.assert_close(outside.x, room.decode(inside.x))


def test_a_latent_model_forgets_what_its_images_were_asked_to() -> None:
    model = uf.Latent(inner("flow"), autoencoder())
    target = uf.Target(model, 3 * CallableEnergy(bright, 0.0))
    options: dict[str, Any] = {"learning_rate": 6e-3, "integration_steps": 4, "width": 16, "average": 0.9}
    result = unlearn(target, ERFM(steps=150, batch_size=64, bank_size=2048, **options))
    exact = float(bright(target.sample(4000, stream(5)).x).mean())
    before, after = (float(bright(m.sample(4000, stream(4))).mean()) for m in (model, result.model))
    assert before - exact > 0.05
    assert after == pytest.approx(exact, abs=0.25 * (before - exact))


def test_an_unlearned_latent_model_is_a_bundle_and_found_again(tmp_path: Path) -> None:
    model = uf.Latent(inner("flow"), autoencoder())
    target, method = uf.Target(model, CallableEnergy(bright, 0.0)), small(ERFM())
    made = unlearn(target, method, tmp_path)
    loaded = uf.load(tmp_path)
    assert isinstance(loaded, uf.Latent)
    assert isinstance(loaded.inner, uf.Chain)
    assert sha256_module(loaded) == sha256_module(made.model)
    again = unlearn(target, method, tmp_path)
    assert sha256_module(again.model) == sha256_module(made.model)
    twice = unlearn(uf.Target(again.model, CallableEnergy(bright, 0.0)), method)
    assert isinstance(twice.model, uf.Latent)


def test_the_result_shares_no_weights_with_the_original() -> None:
    model = uf.Latent(inner("flow"), autoencoder())
    result = unlearn(uf.Target(model, CallableEnergy(bright, 0.0)), small(ERFM())).model
    own = {parameter.data_ptr() for parameter in model.parameters()}
    assert not own & {parameter.data_ptr() for parameter in result.parameters()}


# What is read, and what is not


def guide(seed: int) -> Energy:
    net = new_net({"net": "mlp", "shape": (2,), "width": 8, "depth": 1, "num_times": 0, "outputs": 3}, 0)
    assert isinstance(net, MLP)
    nn.init.normal_(net.last.weight, generator=stream(seed))
    return ClassLogOdds(net, [1])


def call(method: Method, model: uf.GenerativeModel, energy: Energy, out: Path, shift: float = 0.0) -> Any:
    rows = torch.randn(40, 2, generator=stream(6))
    return unlearn(uf.Target(model, energy), method, out, retain=rows + 1 + shift, forget=rows - 1 - shift)


def reads_target(name: str, family: str) -> bool:
    return "target" in UNLEARNERS[name].reads(Problem(model=inner(family)))


def never(*_: Any, **__: Any) -> None:
    raise AssertionError("trained again")


BLIND = [(name, family) for name, family in CASES if not reads_target(name, family)]
GUIDED = [(name, family) for name, family in CASES if reads_target(name, family)]


def test_the_methods_that_read_no_energy_are_known() -> None:
    assert set(BLIND) == {
        ("ot_fm", "flow"),
        ("gradient_ascent", "flow"),
        ("neg_grad_plus", "flow"),
        ("fine_tune", "flow"),
        ("fine_tune", "flow_map"),
        ("retrained", "flow"),
        ("retrained", "flow_map"),
        ("neg_grad_plus", "flow_map"),
        ("weight_extrapolation", "flow"),
    }


@pytest.mark.parametrize(("name", "family"), BLIND)
def test_a_method_that_reads_no_energy_finds_its_result_when_the_energy_changes(
    name: str, family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, model = small(UNLEARNERS[name]), inner(family)
    made = call(method, model, guide(1), tmp_path)
    assert "energy" not in bundle.read_lineage(tmp_path)
    assert made.lineage["request"]["words"] == guide(1).describe()
    monkeypatch.setattr(unlearning, "fit", never)
    again = call(method, model, 2 * guide(2), tmp_path)
    assert sha256_module(again.model) == sha256_module(made.model)
    with pytest.raises(InputError, match=r"holds another result.*data: "):
        call(method, model, guide(1), tmp_path, shift=0.5)


@pytest.mark.usefixtures("short_start")
@pytest.mark.parametrize(("name", "family"), GUIDED)
def test_a_method_that_reads_the_energy_is_refused_another_one(
    name: str, family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, model = small(UNLEARNERS[name]), inner(family)
    call(method, model, guide(1), tmp_path)
    monkeypatch.setattr(unlearning, "fit", never)
    call(method, model, guide(1), tmp_path)
    with pytest.raises(InputError, match=r"holds another result.*energy: "):
        call(method, model, guide(2), tmp_path)
    with pytest.raises(InputError, match=r"holds another result.*request: "):
        call(method, model, 2 * guide(1), tmp_path)


def test_a_setting_that_is_newer_than_a_bundle_is_taken_to_have_had_its_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method: Any = small(UNLEARNERS["erfm"])
    model = inner("flow")
    call(method, model, guide(1), tmp_path)
    lineage = json.loads((tmp_path / "lineage.json").read_text())
    assert lineage["settings"].pop("average") == type(method)().average
    (tmp_path / "lineage.json").write_text(json.dumps(lineage))
    monkeypatch.setattr(unlearning, "fit", never)
    call(method, model, guide(1), tmp_path)
    with pytest.raises(InputError, match=r"holds another result.*settings: "):
        call(dataclasses.replace(method, average=0.5), model, guide(1), tmp_path)


def test_an_interrupted_run_of_a_blind_method_goes_on_under_another_energy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint of a killed run is of the same problem, whatever the energy."""
    method, model = small(FineTune()), inner("flow")
    whole = call(method, model, guide(1), tmp_path / "whole")
    with monkeypatch.context() as patched:
        patched.setattr(bundle, "save", never)
        with pytest.raises(AssertionError, match="trained again"):
            call(method, model, guide(1), tmp_path / "killed")
    assert (tmp_path / "killed" / "checkpoint.safetensors").is_file()
    resumed = call(method, model, guide(2), tmp_path / "killed")
    assert sha256_module(resumed.model) == sha256_module(whole.model)


def unlearn_chain(name: str) -> uf.GenerativeModel:
    link = uf.Flow(shaken(MLP((2,), 8, 1)), (2,), steps=2)
    chain = uf.Chain(inner("flow"), link).eval().requires_grad_(False)
    rows = torch.randn(40, 2, generator=stream(6))
    target = uf.Target(chain, guide(1))
    return unlearn(target, small(UNLEARNERS[name]), retain=rows + 1, forget=rows - 1).model


@pytest.mark.parametrize("name", ["erfm", "erfm_resample", "ot_fm", "gradient_ascent"])
def test_a_chained_model_can_be_unlearned_again(name: str) -> None:
    model = unlearn_chain(name)
    assert isinstance(model, uf.Chain)
    assert isinstance(model.base, uf.Chain) == (name != "gradient_ascent")


@pytest.mark.parametrize(
    "name",
    ["erfm_prior", "erfm_resample_prior", "neg_grad_plus", "fine_tune", "weight_extrapolation", "retrained"],
)
def test_a_chained_model_is_refused_where_the_flow_itself_must_be_trained(name: str) -> None:
    with pytest.raises(InputError, match="expected"):
        unlearn_chain(name)


def test_a_latent_model_of_another_family_than_the_methods_is_refused() -> None:
    latent = uf.Latent(inner("flow"), autoencoder())
    with pytest.raises(InputError, match="UOT does not train models of the family flow"):
        unlearn(uf.Target(latent, CallableEnergy(bright, 0.0)), small(UOT()))


def one_step(steps: int) -> uf.FlowMap:
    """The same weights, whatever the number of steps."""
    model = uf.FlowMap(MLP((2,), width=8, depth=1, num_times=2), (2,), steps=steps)
    for weight in model.parameters():
        nn.init.constant_(weight, 0.1)
    return model


def test_the_same_weights_in_another_architecture_are_another_result(tmp_path: Path) -> None:
    """The number of steps (and a label, a guidance) is none of the weights."""
    method = uf.methods.LatentTransport(steps=2, bank_size=256)
    energy = uf.energies.Region(lambda x: x[:, 0] > 0.5, height=4.0)
    uf.unlearn(uf.Target(one_step(1), energy), method, tmp_path)
    uf.unlearn(uf.Target(one_step(1), energy), method, tmp_path)
    with pytest.raises(InputError, match="architecture"):
        uf.unlearn(uf.Target(one_step(2), energy), method, tmp_path)
    lineage = read_json(tmp_path / "lineage.json")
    del lineage["architecture"]
    write_json(tmp_path / "lineage.json", lineage)
    uf.unlearn(uf.Target(one_step(1), energy), method, tmp_path)  # a result from before it was recorded


def test_a_network_that_cannot_be_kept_is_refused_before_training(tmp_path: Path) -> None:
    energy = uf.energies.Region(lambda x: x[:, 0] > 0, height=4.0)
    target = uf.Target(uf.Generator(nn.Linear(2, 2), (2,)), energy)
    method, seen = uf.methods.LatentTransport(steps=2, bank_size=256), list[int]()
    with pytest.raises(InputError, match="cannot be described in a file"):
        uf.unlearn(target, method, tmp_path / "out", on_step=seen.append)
    assert not seen
    assert not (tmp_path / "out").exists()
