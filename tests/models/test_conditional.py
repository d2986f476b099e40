"""Models that are asked for a condition: labels, the null condition, guidance, tables, generators."""

import json
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

import unflow as uf
from unflow.commands.sample import read_condition
from unflow.ground.errors import InputError
from unflow.ground.streams import stream
from unflow.models import Chain, Conditional, Flow, FlowMap, Generator, from_config, plain_module
from unflow.nets import (
    MLP,
    AdaptedAverageVelocity,
    AdaptedGenerator,
    AdaptedVelocity,
    UNet,
    build_net,
    net_config,
)

SHARES = [0.5, 0.0, 0.2, 0.3]
NULL = 4


def trained(net: nn.Module) -> Any:
    """The network with random weights everywhere, also where layers start at 0."""
    for k, weight in enumerate(net.parameters()):
        weight.data = 0.3 * torch.randn(weight.shape, generator=stream(1, k))
    return net


def velocity(**options: Any) -> AdaptedVelocity:
    return AdaptedVelocity(
        trained(MLP((2,), 8, 1, num_classes=4)), (2,), "x, t, label", label=0, null_label=NULL, **options
    )


def flow(integrator: str = "euler", steps: int = 1, **options: Any) -> Conditional:
    return Conditional(Flow(velocity(), (2,), integrator, steps), SHARES, **options)


def flow_map() -> Conditional:
    net = trained(MLP((2,), 8, 1, num_times=2, num_classes=4))
    return Conditional(
        FlowMap(AdaptedAverageVelocity(net, (2,), "x, start, end, label", label=0), (2,)), SHARES
    )


def generator(prior: Any = "normal", table: Any = None) -> Conditional:
    net: nn.Module = trained(MLP((3,), 8, 1, num_times=0, num_classes=4))
    return Conditional(Generator(AdaptedGenerator(net, (3,), table=table), (3,), prior), SHARES, null=NULL)


MODELS = {"flow": flow, "flow map": flow_map, "generator": generator}


@pytest.mark.parametrize("name", MODELS)
def test_asking_changes_the_condition_and_nothing_else(name: str) -> None:
    model = MODELS[name]()
    z = model.prior(500, stream(0))
    for k in (0, 2, 3):
        asked = model.ask(z, k)
        assert bool((model.conditions(asked) == k).all())
        assert torch.equal(asked[:, :-1], z[:, :-1])
    each = torch.tensor([0, 2, 3, 2]).repeat(125)
    assert torch.equal(model.conditions(model.ask(z, each)), each)


def test_latents_that_were_asked_have_the_prior_given_the_condition() -> None:
    model = flow()
    z = model.prior(20_000, stream(0))
    here = model.conditions(z) == 2
    own, asked = z[here, -1].double(), model.ask(z, 2)[:, -1].double()
    for q in (0.1, 0.5, 0.9):
        assert float(asked.quantile(q)) == pytest.approx(float(own.quantile(q)), abs=0.02)


def test_guidance_is_the_formula() -> None:
    """One step of Euler: x = z + v_null + g (v_c - v_null)."""
    model = flow()
    z = model.prior(50, stream(0))
    noise, t = z[:, :2], torch.zeros(50)
    net: Any = model.inner.net
    v, v_null = net.net(noise, t, model.conditions(z)), net.net(noise, t, torch.full((50,), NULL))
    for g in (0.0, 1.0, 2.5):
        found = model.with_guidance(g).push(z)
        torch.testing.assert_close(found, noise + v_null + g * (v - v_null))
        assert torch.equal(found, model.push_given(noise, model.conditions(z), guidance=g))
    torch.testing.assert_close(model.with_guidance(0.0).push(z), model.push(model.ask(z, "null")))
    null = model.ask(z, "null")
    torch.testing.assert_close(model.with_guidance(4.0).push(null), model.push(null))
    assert model.guidance == 1.0


def test_samples_are_asked_by_label_and_guidance() -> None:
    model = flow(steps=2)
    z = model.prior(9, stream(3))
    assert torch.equal(model.sample(9, stream(3)), model.push(z))
    assert torch.equal(
        model.sample(9, stream(3), label=2, guidance=3.0), model.with_guidance(3.0).push(model.ask(z, 2))
    )
    assert not torch.equal(model.sample(9, stream(3), label=2), model.sample(9, stream(3), label=3))


def test_models_around_a_conditional_one_are_asked_as_it_is() -> None:
    model = flow(steps=2)
    chain = Chain(model, Flow(trained(MLP((2,), 8, 1)), (2,), steps=2))
    first = model.sample(9, stream(3), label=2, guidance=2.0)
    assert torch.equal(chain.sample(9, stream(3), label=2, guidance=2.0), chain.after.push(first))
    assert chain.conditional is model


def test_a_flow_after_the_model_may_see_the_condition() -> None:
    after = Flow(velocity(), (2,), steps=2)
    model = flow(steps=2)
    chain = model.around(Chain(model.inner, after))
    first = model.sample(9, stream(3), label=2, guidance=2.0)
    net: Any = after.net
    second = Flow(net.with_labels(torch.full((9,), 2)).with_guidance(None, 1.0), (2,), steps=2).push(first)
    torch.testing.assert_close(chain.sample(9, stream(3), label=2, guidance=2.0), second)
    assert chain.original_recoverable


def test_a_table_gives_the_network_rows_in_place_of_indices() -> None:
    class Reads(nn.Module):
        def forward(self, x: Tensor, t: Tensor, row: Tensor) -> Tensor:
            return row[:, :2] + 0 * x

    table = torch.arange(12.0).reshape(4, 3)
    net = AdaptedVelocity(Reads(), (2,), "x, t, label", label=0, table=table)
    x, t = torch.zeros(4, 2), torch.zeros(4)
    assert torch.equal(net.with_labels(torch.tensor([3, 0, 1, 2]))(x, t), table[[3, 0, 1, 2], :2])
    free = torch.full((4, 3), 0.5)
    assert torch.equal(net.with_labels(free)(x, t), free[:, :2])
    model = Conditional(Flow(net, (2,)), SHARES, null=3)
    assert torch.allclose(
        model.push_given(x, free, guidance=2.0), x + table[3, :2] + 2 * (0.5 - table[3, :2])
    )


def test_one_hot_labels_are_a_table() -> None:
    class OneHot(nn.Module):
        def forward(self, z: Tensor, y: Tensor) -> Tensor:
            return z + y[:, :3]

    net = AdaptedGenerator(OneHot(), (3,), "z, label", table=torch.eye(4))
    model = Conditional(Generator(net, (3,)), SHARES)
    z = model.ask(model.prior(5, stream(0)), 2)
    assert torch.equal(model.push(z), z[:, :3] + torch.eye(4)[2, :3])


def test_a_uniform_prior_is_uniform_behind_normal_latents() -> None:
    model = generator("uniform")
    noise = model.noise(model.prior(20_000, stream(0)))
    assert float(noise.abs().max()) <= 1
    assert float(noise.square().mean()) == pytest.approx(1 / 3, abs=0.01)


@pytest.mark.parametrize("name", MODELS)
def test_a_conditional_model_is_saved_and_loaded(name: str, tmp_path: Path) -> None:
    model = MODELS[name]()
    again = uf.load(uf.save(model, tmp_path / "model"))
    assert isinstance(again, Conditional)
    assert json.dumps(again.config()) == json.dumps(model.config())
    assert torch.equal(again.sample(30, stream(0), label=3), model.sample(30, stream(0), label=3))
    assert plain_module(again) is not None


def test_a_table_is_saved_with_the_weights() -> None:
    class Named(nn.Module):
        config: ClassVar[dict[str, Any]] = {"net": "mlp", "shape": [3]}

        def forward(self, z: Tensor, y: Tensor) -> Tensor:
            return z + y

    net = AdaptedGenerator(Named(), (3,), table=torch.ones(4, 3))
    assert net.config["table"] == [4, 3]
    assert "table" in net.state_dict()
    assert "table" not in velocity().config


def test_a_bundle_of_the_former_name_is_read() -> None:
    old = {"model": "labelled", "inner": flow().inner.config(), "probabilities": SHARES}
    model = from_config(json.loads(json.dumps(old)))
    assert isinstance(model, Conditional)
    assert (model.null, model.guidance, model.probabilities) == (NULL, 1.0, SHARES)
    assert uf.models.Labelled is Conditional


@pytest.mark.parametrize("net", [MLP((1, 4, 4), 8, 1, num_classes=3), UNet((1, 4, 4), (8, 8), num_classes=3)])
def test_networks_of_unflow_take_a_label_after_the_times(net: Any) -> None:
    net = trained(net)
    x, t = torch.randn(4, 1, 4, 4, generator=stream(0)), torch.rand(4, generator=stream(1))
    none = torch.full((4,), 3)
    assert torch.equal(net(x, t), net(x, t, none))
    assert not torch.equal(net(x, t), net(x, t, torch.tensor([0, 1, 2, 0])))
    again = build_net(json.loads(json.dumps(net_config(net))))
    again.load_state_dict(net.state_dict())
    assert torch.equal(again(x, t, none), net(x, t, none))


NAMES = ["a cat", "a dog", "a truck", "3"]


@pytest.mark.parametrize("name", MODELS)
def test_a_name_and_a_number_are_one_condition(name: str, tmp_path: Path) -> None:
    plain = MODELS[name]()
    model = Conditional(plain.inner, SHARES, plain.null, names=NAMES)
    z = model.prior(20, stream(0))
    for k in model.drawn:
        assert torch.equal(model.ask(z, NAMES[k]), plain.ask(z, k))
        assert model.find(NAMES[k]) == k
    uf.save(model, tmp_path / "named")
    again = uf.load(tmp_path / "named").require_conditional()
    assert torch.equal(again.sample(5, stream(1), label="a truck"), model.sample(5, stream(1), label=2))
    assert model.around(plain.inner).names == tuple(NAMES)
    assert "names" not in plain.config()


REFUSED: list[tuple[Any, str]] = [
    (lambda: flow().sample(3, stream(0), label=1), "got label=1; expected a condition that the model draws"),
    (lambda: flow().sample(3, stream(0), label=9), "got label=9; expected a condition"),
    (lambda: flow().sample(3, stream(0), label="cat"), "got label='cat' for a model with a null condition"),
    (lambda: flow_map().sample(3, stream(0), label="null"), "got label='null' for a model with no null"),
    (lambda: flow_map().with_guidance(2.0), "got guidance=2 for a flow_map, which draws in one step"),
    (lambda: flow(guidance=float("nan")), "got guidance=nan; expected a finite number"),
    (lambda: flow(null=7), "got null=7, which the network does not know"),
    (lambda: flow(null=-1), "got null=-1; expected the class index that means no class"),
    (lambda: Flow(MLP((2,), 8, 1), (2,)).sample(3, stream(0), guidance=2.0), "for a flow without conditions"),
    (lambda: AdaptedGenerator(MLP((3,), 8, 1), (3,), "z, y"), 'got arguments="z, y"; expected "z, label"'),
    (lambda: flow(names=NAMES).sample(1, stream(0), label="a truk"), "no condition; did you mean a truck?"),
    (lambda: flow(names=NAMES[:3]), "got 3 names of 4 conditions; expected one for each, or none"),
    (lambda: flow(names=[*NAMES[:3], "a cat"]), "got the name 'a cat' twice"),
    (lambda: flow(names=[*NAMES[:3], "null"]), "got 'null' as the name of condition 3"),
    (lambda: flow(names=[*NAMES[:3], " "]), "got ' ' as the name of condition 3"),
    (lambda: read_condition("3", "cat"), "got --label 3 and --prompt 'cat'; expected only one of them"),
]


@pytest.mark.parametrize("number", range(len(REFUSED)))
def test_what_cannot_be_asked_is_refused_in_one_sentence(number: int) -> None:
    make, words = REFUSED[number]
    with pytest.raises(InputError, match=words) as refused:
        make()
    assert "\n" not in str(refused.value)


def test_guidance_needs_a_null_condition() -> None:
    net = AdaptedVelocity(MLP((2,), 8, 1, num_classes=4), (2,), "x, t, label", label=0)
    with pytest.raises(InputError, match="got guidance=2 for a model without a null condition"):
        Conditional(Flow(net, (2,)), SHARES, guidance=2.0)
