"""Laws of the networks: shapes, zero at birth, derivatives in every argument, and seeds."""

import json

import pytest
import torch
from torch import Tensor, nn

from unflow.errors import InputError
from unflow.nets import MLP, NETS, ConvNet, UNet, build_net, net_config, new_net
from unflow.nets.embedding import TimeEmbedding

CONFIGS = {
    "mlp": {"net": "mlp", "shape": [2], "width": 16, "depth": 2, "num_times": 1, "outputs": None},
    "unet": {"net": "unet", "shape": [1, 8, 8], "widths": [8, 16], "num_times": 1},
    "convnet": {
        "net": "convnet", "shape": [1, 8, 8], "outputs": 5, "width": 8, "depth": 3,
        "num_features": 12,
    },
}  # fmt: skip


def randomised(net: nn.Module, seed: int = 0) -> nn.Module:
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
    config = CONFIGS[name]
    net = randomised(build_net(config)).double()
    x = batch(4, *config["shape"], dtype=torch.float64)
    t = times(4, config.get("num_times", 0), dtype=torch.float64)
    alone = torch.cat([net(x[i : i + 1], *[s[i : i + 1] for s in t]) for i in range(4)])
    torch.testing.assert_close(alone, net(x, *t), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["mlp", "unet"])
def test_a_fresh_velocity_is_zero_and_can_be_trained(name: str) -> None:
    config = CONFIGS[name]
    net = new_net(config, seed=0)
    out = net(batch(4, *config["shape"]), *times(4, 1))
    assert torch.equal(out, torch.zeros(4, *config["shape"]))
    (out - 1).square().mean().backward()
    assert float(net.last.weight.grad.abs().max()) > 0


@pytest.mark.parametrize("name", ["mlp", "unet"])
@pytest.mark.parametrize("argument", [1, 2])
def test_every_time_argument_matters(name: str, argument: int) -> None:
    config = CONFIGS[name] | {"num_times": 2}
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
@pytest.mark.parametrize("name", ["mlp", "unet"])
def test_the_forward_derivative_along_v_1_0_is_the_difference_quotient(name: str, num_times: int) -> None:
    config = CONFIGS[name] | {"num_times": num_times}
    net = randomised(build_net(config)).double()
    x, v = batch(6, *config["shape"], dtype=torch.float64).split(3)
    point = (x, *times(3, num_times, dtype=torch.float64))
    direction = (v, torch.ones_like(point[1]), *map(torch.zeros_like, point[2:]))
    value, derivative = torch.func.jvp(net, point, direction)

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
    _, plain = torch.func.jvp(net, (x, t), (x, torch.ones_like(t)))
    strided = x.to(memory_format=torch.channels_last)
    _, last = torch.func.jvp(net, (strided, t), (strided, torch.ones_like(t)))
    torch.testing.assert_close(last, plain, rtol=1e-10, atol=1e-10)


# Building


@pytest.mark.parametrize("name", NETS)
def test_a_network_is_rebuilt_from_its_description(name: str) -> None:
    net = build_net(CONFIGS[name])
    config = json.loads(json.dumps(net_config(net)))
    assert config == CONFIGS[name]
    again = build_net(config)
    assert type(again) is NETS[name]
    shapes, shapes_again = ({key: value.shape for key, value in n.state_dict().items()} for n in (net, again))
    assert shapes == shapes_again


@pytest.mark.parametrize("name", NETS)
def test_a_seed_decides_the_weights_and_leaves_the_global_stream_alone(name: str) -> None:
    state = torch.get_rng_state()
    one, two, other = (new_net(CONFIGS[name], seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert not all(torch.equal(one[key], other[key]) for key in one)


def test_a_new_network_leaves_the_streams_of_other_devices_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seeded = []
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
        with pytest.raises(InputError, match=r"got the network .*mlp, unet, convnet"):
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
    with pytest.raises(InputError, match=r"got the builder .*package\.module:function"):
        build_net({"builder": builder})


def test_a_description_that_is_no_mapping_is_refused() -> None:
    with pytest.raises(InputError, match="got 'mlp' for a network"):
        build_net("mlp")


def test_a_module_without_a_description_is_refused() -> None:
    with pytest.raises(InputError, match=r"got a Linear that cannot be described.*net\.config ="):
        net_config(nn.Linear(2, 2))


@pytest.mark.parametrize("options", [{"shape": (1, 10, 10)}, {"shape": (1, 8, 8), "widths": (12, 24)}])
def test_a_unet_says_which_shapes_and_widths_it_takes(options: dict[str, tuple[int, ...]]) -> None:
    with pytest.raises(InputError, match="divisible by"):
        UNet(**options)
