"""A flow after the model: a fresh network like the original's, which starts as the identity."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unflow.energies import CallableEnergy
from unflow.ground.errors import InputError
from unflow.ground.streams import stream
from unflow.methods import ERFM, OTFM
from unflow.methods.appended import (
    SHARE,
    append_flow,
    count_parameters,
    describe_appended_net,
    new_appended_net,
)
from unflow.models import Chain, Flow
from unflow.nets import MLP, NETS, DiT, UNet, net_config, new_net
from unflow.target import Target
from unflow.training.loop import fit
from unflow.training.method import Problem, Training

CONFIGS = {
    "mlp": {
        "net": "mlp",
        "shape": [1, 4, 4],
        "width": 16,
        "depth": 3,
        "num_times": 1,
        "outputs": None,
        "frequencies": 2,
    },
    "unet": {"net": "unet", "shape": [1, 4, 4], "widths": [8, 8], "num_times": 1},
}


def shaken(net: nn.Module) -> nn.Module:
    for parameter in net.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=stream(1))
    return net


def flow(name: str) -> Flow:
    net = shaken(new_net(CONFIGS[name], 0))
    return Flow(net, (1, 4, 4), steps=2).eval().requires_grad_(False)


def bright(x: Tensor) -> Tensor:
    return nn.functional.softplus(x.flatten(1).mean(1))


def problem(model: Flow | Chain) -> Problem:
    retain = torch.randn(64, 1, 4, 4, generator=stream(2))
    return Problem(model=model, target=Target(model, CallableEnergy(bright, 0.0)), retain=retain)


SMALLER = {"mlp": CONFIGS["mlp"] | {"depth": 2}, "unet": CONFIGS["unet"]}
"""The appended networks of CONFIGS, which are already as narrow as appended networks get."""


@pytest.mark.parametrize("name", CONFIGS)
def test_the_smallest_originals_get_a_network_of_the_same_kind_and_width(name: str) -> None:
    net = new_appended_net(Problem(model=flow(name)), None, None, seed=0)
    assert type(net) is NETS[name]
    assert net_config(net) == SMALLER[name]


class Plain(nn.Module):
    """A third-party velocity: one hidden layer on points or images, or convolutions."""

    def __init__(self, shape: list[int], hidden: int, convolve: bool) -> None:
        super().__init__()
        options = {"shape": shape, "hidden": hidden, "convolve": convolve}
        self.config = {"builder": f"{__name__}:Plain", "options": options}
        dim = math.prod(shape)
        self.first: nn.Module = (
            nn.Conv2d(shape[0], hidden, 3, padding=1) if convolve else nn.Linear(dim, hidden)
        )
        self.last: nn.Module = (
            nn.Conv2d(hidden, shape[0], 3, padding=1) if convolve else nn.Linear(hidden, dim)
        )

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        inside = x if isinstance(self.first, nn.Conv2d) else x.flatten(1)
        return self.last(torch.relu(self.first(inside))).reshape(x.shape)


LARGE: dict[str, tuple[nn.Module, str]] = {
    "mlp": (MLP((1, 8, 8), 256, 4), "mlp"),
    "mlp of points": (MLP((2,), 128, 2, frequencies=5), "mlp"),
    "unet": (UNet((1, 16, 16)), "unet"),
    "dit": (DiT((1, 8, 8), width=48, depth=4, heads=4, num_classes=3, label=1), "dit"),
    "their points": (Plain([2], 5000, False), "mlp"),
    "their latents": (Plain([48], 400, False), "mlp"),
    "their images": (Plain([1, 14, 14], 400, False), "mlp"),
    "their large images": (Plain([3, 32, 32], 400, False), "unet"),
    "their convolutions": (Plain([1, 28, 28], 4000, True), "unet"),
    "their odd side": (Plain([1, 15, 15], 3000, True), "unet"),
    "their few pixels": (Plain([1, 4, 4], 600, True), "mlp"),
}
"""A velocity, and the kind of network that is appended to its flow."""


@pytest.mark.parametrize("name", LARGE)
def test_an_appended_flow_is_the_identity_with_a_quarter_of_the_parameters(name: str) -> None:
    net, kind = LARGE[name]
    shape = net_config(net).get("shape") or net_config(net)["options"]["shape"]
    model = Flow(net, shape, steps=1)
    added = new_appended_net(Problem(model=model), None, None, seed=0)
    sizes = [sum(weight.numel() for weight in each.parameters()) for each in (added, net)]
    assert type(added) is NETS[kind]
    assert 0.02 * sizes[1] < sizes[0] <= SHARE * sizes[1], sizes
    assert sizes[0] == count_parameters(net_config(added))
    x = torch.randn(3, *shape, generator=stream(4))
    assert not added(x, torch.full((3,), 0.5)).any()


def test_the_widest_mlp_that_fits_is_taken() -> None:
    config = describe_appended_net(Problem(model=Flow(LARGE["mlp"][0], (1, 8, 8))), None, None)
    most = SHARE * sum(weight.numel() for weight in LARGE["mlp"][0].parameters())
    wider = config | {"width": config["width"] + 8}
    assert count_parameters(config) <= most < count_parameters(wider)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_fresh_net_makes_the_chain_the_original_itself(name: str) -> None:
    model = flow(name)
    net = new_appended_net(Problem(model=model), None, None, seed=0)
    chain = append_flow(Problem(model=model), net, steps=3)
    z = model.prior(5, stream(3))
    assert torch.equal(chain.push(z), model.push(z))
    assert isinstance(chain.after, Flow)
    assert (chain.after.steps, chain.original_recoverable) == (3, True)
    assert chain.base is not model


def test_the_original_of_a_chain_is_its_first_model() -> None:
    chain = Chain(flow("unet"), Flow(MLP((1, 4, 4), 8, 1), (1, 4, 4)))
    for model in (chain, Chain(chain, Flow(MLP((1, 4, 4), 8, 1), (1, 4, 4)))):
        assert isinstance(new_appended_net(Problem(model=model), None, None, seed=0), UNet)


@pytest.mark.parametrize("sizes", [{"width": 24}, {"depth": 1}, {"width": 8, "depth": 5}])
def test_an_mlp_may_have_another_size_and_keeps_the_rest(sizes: dict[str, int]) -> None:
    net = new_appended_net(Problem(model=flow("mlp")), sizes.get("width"), sizes.get("depth"), seed=0)
    assert net_config(net) == CONFIGS["mlp"] | {"depth": 2} | sizes


@pytest.mark.parametrize(("depth", "expected"), [(1, 1), (2, 2), (3, 2), (4, 2), (5, 2), (6, 3)])
def test_by_default_an_mlp_has_half_the_layers(depth: int, expected: int) -> None:
    model = Flow(MLP((2,), 8, depth), (2,))
    assert net_config(new_appended_net(Problem(model=model), None, None, seed=0))["depth"] == expected


def test_the_seed_decides_the_weights() -> None:
    one, two, other = (new_appended_net(Problem(model=flow("unet")), None, None, seed) for seed in (1, 1, 2))
    assert all(map(torch.equal, one.parameters(), two.parameters()))
    assert not all(map(torch.equal, one.parameters(), other.parameters()))


METHODS: dict[str, Training] = {
    "erfm": ERFM(steps=2, batch_size=8, bank_size=32, block_size=16, integration_steps=5),
    "ot_fm": OTFM(steps=2, batch_size=8, bank_size=32, block_size=16, integration_steps=5),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", CONFIGS)
def test_a_chain_of_a_flow_ends_in_a_network_like_the_flows(name: str, method: str) -> None:
    model = fit(METHODS[method], problem(flow(name))).model
    assert isinstance(model, Chain)
    assert isinstance(model.after, Flow)
    assert net_config(model.after.net) == SMALLER[name]
    assert model.after.steps == 5
    assert all(map(torch.equal, model.base.parameters(), flow(name).parameters()))


@pytest.mark.parametrize("kind", [ERFM, OTFM])
@pytest.mark.parametrize("sizes", [{"width": 8}, {"depth": 2}, {"width": 8, "depth": 2}])
def test_a_width_or_depth_of_a_unet_is_refused(
    kind: type[ERFM | OTFM], sizes: dict[str, Any], tmp_path: Path
) -> None:
    method = kind(steps=2, batch_size=8, bank_size=32, block_size=16, **sizes)
    words = " and ".join(sizes)
    with pytest.raises(InputError, match=f"got {words} for a network that is not an MLP; expected None"):
        fit(method, problem(flow("unet")), tmp_path)
    assert not (tmp_path / "checkpoint.safetensors").exists()
