"""Laws of the networks: shapes, zero at birth, derivatives in every argument, and seeds."""

import json
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unflow.ground.errors import InputError
from unflow.nets import MLP, NETS, ConvAutoencoder, ConvNet, UNet, build_net, net_config, new_net
from unflow.nets.mlp import TimeEmbedding
from unflow.nets.modes import evaluating

CONFIGS: dict[str, dict[str, Any]] = {
    "mlp": {
        "net": "mlp",
        "shape": [2],
        "width": 16,
        "depth": 2,
        "num_times": 1,
        "outputs": None,
        "frequencies": 0,
    },
    "unet": {"net": "unet", "shape": [1, 8, 8], "widths": [8, 16], "num_times": 1},
    "dit": {
        "net": "dit",
        "shape": [1, 4, 4],
        "patch": 2,
        "width": 16,
        "depth": 2,
        "heads": 2,
        "num_times": 1,
        "num_classes": 3,
        "label": None,
        "checkpoint": False,
    },
    "convnet": {
        "net": "convnet",
        "shape": [1, 8, 8],
        "outputs": 5,
        "width": 8,
        "depth": 3,
        "num_features": 12,
    },
    "resnet": {"net": "resnet", "shape": [1, 8, 8], "outputs": 5, "width": 8, "depth": 2},
    "conv_autoencoder": {"net": "conv_autoencoder", "shape": [1, 8, 8], "latent": 5, "width": 8, "depth": 2},
    "conv_generator": {
        "net": "conv_generator",
        "shape": [1, 8, 8],
        "latent": 5,
        "width": 8,
        "depth": 2,
        "hidden": 6,
    },
}
WITH_FREQUENCIES = CONFIGS["mlp"] | {"frequencies": 3}
VELOCITIES = {
    "mlp": CONFIGS["mlp"],
    "mlp with frequencies": WITH_FREQUENCIES,
    "unet": CONFIGS["unet"],
    "dit": CONFIGS["dit"],
}


def randomised(net: nn.Module, seed: int = 0) -> Any:
    """Give every weight a value, also those that start at zero."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in net.parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator).to(parameter)
    return net


def batch(n: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(n), dtype=dtype)


def times(n: int, count: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(count)
    return list(torch.rand(count, n, generator=generator, dtype=dtype))


# Shapes


@pytest.mark.parametrize("num_times", [0, 1, 2])
@pytest.mark.parametrize("shape", [(2,), (1, 4, 4)])
def test_a_perceptron_gives_back_the_shape_of_its_input(shape: tuple[int, ...], num_times: int) -> None:
    net = MLP(shape, width=8, depth=1, num_times=num_times)
    assert net(batch(5, *shape), *times(5, num_times)).shape == (5, *shape)


def test_a_perceptron_with_outputs_gives_that_many_for_each_sample() -> None:
    assert MLP([1, 4, 4], width=8, num_times=0, outputs=3)(batch(5, 1, 4, 4)).shape == (5, 3)


@pytest.mark.parametrize("num_times", [0, 1, 2])
@pytest.mark.parametrize(
    ("shape", "widths"),
    [((1, 8, 8), (8, 16, 16)), ((3, 4, 12), (8, 16)), ((1, 7, 7), (8,))],
    ids=["grey", "colour", "one resolution"],
)
def test_a_unet_gives_back_the_shape_of_its_input(
    shape: tuple[int, ...], widths: tuple[int, ...], num_times: int
) -> None:
    net = UNet(shape, widths, num_times)
    assert net(batch(3, *shape), *times(3, num_times)).shape == (3, *shape)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 7, 10)])
@pytest.mark.parametrize("depth", [1, 3, 4])
def test_a_convnet_gives_logits_and_features(shape: tuple[int, ...], depth: int) -> None:
    net = ConvNet(shape, outputs=5, width=8, depth=depth, num_features=12)
    x = batch(3, *shape)
    assert net(x).shape == (3, 5)
    assert net.features(x).shape == (3, 12)
    assert torch.equal(net.last(net.features(x)), net(x))


def test_a_perceptrons_features_are_what_its_last_layer_reads() -> None:
    net = randomised(MLP([2], width=8, num_times=2))
    x, t = batch(3, 2), times(3, 2)
    assert torch.equal(net.last(net.features(x, *t)), net(x, *t))


# Values


@pytest.mark.parametrize("name", NETS)
def test_each_sample_is_treated_by_itself(name: str) -> None:
    """In evaluation mode: an autoencoder in training standardises the latents of its batch."""
    config = CONFIGS[name]
    net = randomised(build_net(config)).double().eval()
    shape = [config["latent"]] if name == "conv_generator" else config["shape"]
    x = batch(4, *shape, dtype=torch.float64)
    t = times(4, config.get("num_times", 0), dtype=torch.float64)
    alone = torch.cat([net(x[i : i + 1], *[s[i : i + 1] for s in t]) for i in range(4)])
    torch.testing.assert_close(alone, net(x, *t), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", VELOCITIES)
def test_a_fresh_velocity_is_zero_and_can_be_trained(name: str) -> None:
    config = VELOCITIES[name]
    net: Any = new_net(config, seed=0)
    out = net(batch(4, *config["shape"]), *times(4, 1))
    assert torch.equal(out, torch.zeros(4, *config["shape"]))
    (out - 1).square().mean().backward()
    assert float(net.last.weight.grad.abs().max()) > 0


@pytest.mark.parametrize("name", VELOCITIES)
@pytest.mark.parametrize("argument", [1, 2])
def test_every_time_argument_matters(name: str, argument: int) -> None:
    config = VELOCITIES[name] | {"num_times": 2}
    net = randomised(build_net(config))
    arguments = [batch(4, *config["shape"]), *times(4, 2)]
    before = net(*arguments)
    arguments[argument] = arguments[argument] + 0.1
    assert ((net(*arguments) - before).abs() > 1e-4).any()


def test_the_embedding_tells_times_apart_by_cosines_and_sines_of_octaves() -> None:
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    features = TimeEmbedding(3).double()(t)
    expected = [f(2**k * t) for f in (torch.cos, torch.sin) for k in range(3)]
    torch.testing.assert_close(features, torch.stack(expected, dim=1))
    distances = torch.cdist(features, features) + 10 * torch.eye(101)
    assert float(distances.min()) > 0.01


@pytest.mark.parametrize("num_times", [1, 2])
@pytest.mark.parametrize("name", VELOCITIES)
def test_the_forward_derivative_along_v_1_0_is_the_difference_quotient(name: str, num_times: int) -> None:
    config = VELOCITIES[name] | {"num_times": num_times}
    net = randomised(build_net(config)).double()
    x, v = batch(6, *config["shape"], dtype=torch.float64).split(3)
    point = (x, *times(3, num_times, dtype=torch.float64))
    direction = (v, torch.ones_like(point[1]), *map(torch.zeros_like, point[2:]))
    value, derivative = torch.func.jvp(net, point, direction)[:2]

    def moved(step: float) -> Tensor:
        return net(*(p + step * d for p, d in zip(point, direction, strict=True)))

    h = 1e-5  # the error is of fourth order in h times the highest frequency of the embedding
    quotient = 8 * (moved(h) - moved(-h)) - (moved(2 * h) - moved(-2 * h))
    torch.testing.assert_close(value, net(*point))
    assert (derivative.abs() > 0.1).any()
    torch.testing.assert_close(derivative, quotient / (12 * h), rtol=1e-7, atol=1e-8)


def test_the_forward_derivative_of_a_unet_takes_channels_last_images() -> None:
    net = randomised(build_net(CONFIGS["unet"] | {"shape": [2, 8, 8]})).double()
    x, t = batch(3, 2, 8, 8, dtype=torch.float64), times(3, 1, dtype=torch.float64)[0]
    _, plain = torch.func.jvp(net, (x, t), (x, torch.ones_like(t)))[:2]
    strided = x.to(memory_format=torch.channels_last)
    _, last = torch.func.jvp(net, (strided, t), (strided, torch.ones_like(t)))[:2]
    torch.testing.assert_close(last, plain, rtol=1e-10, atol=1e-10)


# Frequencies


@pytest.mark.parametrize("shape", [(2,), (1, 2, 2)])
@pytest.mark.parametrize("num_times", [0, 1])
def test_frequencies_put_sines_and_cosines_of_octaves_of_pi_x_beside_x(
    shape: tuple[int, ...], num_times: int
) -> None:
    net = MLP(shape, width=8, depth=1, num_times=num_times, frequencies=3)
    seen: list[Tensor] = []
    net.first.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    x, t = batch(5, *shape), times(5, num_times)
    net(x, *t)
    entries = x.flatten(1).double().unbind(1)
    waves = [f(math.pi * 2**k * entry) for f in (torch.sin, torch.cos) for entry in entries for k in range(3)]
    expected = torch.cat([torch.stack([*entries, *waves], dim=1).float(), *map(net.embed, t)], dim=1)
    torch.testing.assert_close(seen[0], expected, rtol=0, atol=1e-5)


def test_a_frequency_tells_points_apart_that_are_half_a_period_away_and_not_a_whole_one() -> None:
    """Without x itself in the first layer, the k-th wave sees x modulo 2^(1 - k)."""
    net = randomised(MLP([1], width=8, depth=1, num_times=0, frequencies=2))
    with torch.no_grad():
        net.first.weight[:, 0] = 0
    x = torch.tensor([[0.25], [2.25], [1.25]])
    same, period, half = net(x).detach()
    torch.testing.assert_close(same, period, rtol=0, atol=1e-4)
    assert float((same - half).abs()) > 1e-3


def test_without_frequencies_the_weights_are_those_of_older_bundles() -> None:
    net = MLP([2], width=8, depth=1, frequencies=0)
    assert net.first.in_features == 2 + net.embed.width
    assert not any("angles" in name for name in MLP([2], frequencies=4).state_dict())
    old = {key: value for key, value in CONFIGS["mlp"].items() if key != "frequencies"}
    assert net_config(build_net(old)) == CONFIGS["mlp"]


# Autoencoders


@pytest.mark.parametrize(
    ("shape", "depth"), [((1, 8, 8), 1), ((3, 4, 12), 2), ((1, 28, 28), 2)], ids=["grey", "colour", "mnist"]
)
def test_an_autoencoder_maps_images_to_short_vectors_and_back(
    shape: tuple[int, int, int], depth: int
) -> None:
    net = ConvAutoencoder(shape, latent=5, width=8, depth=depth).eval()
    x = batch(3, *shape)
    assert net.encode(x).shape == (3, 5)
    assert net.decode(net.encode(x)).shape == net(x).shape == (3, *shape)


def test_an_autoencoder_decodes_what_it_encodes_with_the_noise_between() -> None:
    net = randomised(build_net(CONFIGS["conv_autoencoder"])).eval()
    x, noise = batch(3, 1, 8, 8), batch(3, 5)
    assert torch.equal(net(x), net.decode(net.encode(x)))
    assert torch.equal(net(x, noise), net.decode(net.encode(x) + noise))
    assert not torch.equal(net(x, noise), net(x))
    assert float(net.decode(100 * noise).detach().abs().max()) <= 1


def test_latents_of_a_training_batch_have_mean_0_and_variance_1() -> None:
    net = randomised(build_net(CONFIGS["conv_autoencoder"])).double().train()
    z = net.encode(batch(64, 1, 8, 8, dtype=torch.float64))
    torch.testing.assert_close(z.mean(0), torch.zeros(5).double(), rtol=0, atol=1e-10)
    torch.testing.assert_close(z.var(0, correction=0), torch.ones(5).double(), rtol=0, atol=1e-3)


def test_the_running_statistics_are_those_of_the_data_and_make_evaluation_standard() -> None:
    net = randomised(build_net(CONFIGS["conv_autoencoder"])).double().train()
    x = batch(64, 1, 8, 8, dtype=torch.float64)
    for _ in range(200):  # the running average forgets its start: 0.9^200
        net.encode(x)
    z = net.eval().encode(x)
    torch.testing.assert_close(z.mean(0), torch.zeros(5).double(), rtol=0, atol=1e-6)
    torch.testing.assert_close(z.var(0), torch.ones(5).double(), rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    "options", [{"shape": (1, 7, 8)}, {"shape": (1, 8, 8), "depth": 4}, {"shape": (1, 8, 8), "depth": 0}]
)
def test_an_autoencoder_says_which_shapes_it_takes(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="expected sides that can be halved that often"):
        ConvAutoencoder(**options)


@pytest.mark.parametrize(
    "config", [{"shape": [1, 8, 8], "width": 12}, {"shape": [2]}], ids=["width", "point"]
)
def test_an_autoencoder_of_what_it_cannot_halve_or_group_is_refused(config: dict[str, object]) -> None:
    with pytest.raises(InputError, match="expected"):
        build_net({"net": "conv_autoencoder", **config})


# Modes


def test_a_module_is_in_evaluation_mode_for_a_while_and_every_part_back_in_its_own_after() -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(3))).train()
    net[1].training = False  # its parts stay in training mode
    before = [part.training for part in net.modules()]
    with evaluating(net):
        assert not any(part.training for part in net.modules())
    assert [part.training for part in net.modules()] == before == [True, True, False, True, True]

    def fail() -> None:
        with evaluating(net):
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail()
    assert [part.training for part in net.modules()] == before


# Building


@pytest.mark.parametrize("name", [*NETS, "mlp with frequencies"])
def test_a_network_is_rebuilt_from_its_description(name: str) -> None:
    expected = {**CONFIGS, **VELOCITIES}[name]
    net = build_net(expected)
    config = json.loads(json.dumps(net_config(net)))
    assert config == expected
    again = build_net(config)
    assert type(again) is NETS[expected["net"]]
    shapes, shapes_again = ({key: value.shape for key, value in n.state_dict().items()} for n in (net, again))
    assert shapes == shapes_again


@pytest.mark.parametrize("name", NETS)
def test_a_seed_decides_the_weights_and_leaves_the_global_stream_alone(name: str) -> None:
    state = torch.get_rng_state()
    one, two, other = (new_net(CONFIGS[name], seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert not all(torch.equal(one[key], other[key]) for key in one)


def test_a_new_network_leaves_the_streams_of_other_devices_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    seeded: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    new_net(CONFIGS["mlp"], seed=3)
    assert seeded == []


def test_a_network_of_ones_own_comes_from_its_builder() -> None:
    config = {"builder": "torch.nn:Linear", "options": {"in_features": 3, "out_features": 2}}
    net = build_net(config)
    assert isinstance(net, nn.Linear)
    assert net_config(net) == config
    assert isinstance(build_net({"builder": "torch.nn:Identity"}), nn.Identity)


# Errors


def test_an_unknown_network_is_refused_with_the_known_ones() -> None:
    for config in ({"net": "transformer"}, {}):
        with pytest.raises(InputError, match=r"got the network .*mlp, unet, dit, convnet"):
            build_net(config)


def test_unknown_or_missing_options_are_refused() -> None:
    for config in (
        {"net": "mlp", "shape": [2], "heads": 4},
        {"net": "mlp"},
        {"builder": "torch.nn:Linear", "options": {"heads": 4}},
    ):
        with pytest.raises(InputError, match="does not take these options"):
            build_net(config)


@pytest.mark.parametrize("builder", ["no.such.module:net", "torch.nn:NoSuchLayer", "torch.nn", ":Linear", ""])
def test_a_builder_that_cannot_be_imported_is_refused(builder: str) -> None:
    with pytest.raises(InputError, match=r"got .*package\.module:function"):
        build_net({"builder": builder})


def test_a_description_that_is_no_mapping_is_refused() -> None:
    with pytest.raises(InputError, match="got 'mlp' for a network"):
        build_net("mlp")  # type: ignore[arg-type]  # refused


def test_a_module_without_a_description_is_refused() -> None:
    with pytest.raises(InputError, match=r"got a Linear that cannot be described.*net\.config ="):
        net_config(nn.Linear(2, 2))


@pytest.mark.parametrize("options", [{"shape": (1, 10, 10)}, {"shape": (1, 8, 8), "widths": (12, 24)}])
def test_a_unet_says_which_shapes_and_widths_it_takes(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="divisible by"):
        UNet(**options)
