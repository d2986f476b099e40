"""Laws of generative models: what they push, what sampling leaves alone, how they are rebuilt."""

import json
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unflow.energies import ClassLogOdds
from unflow.ground.errors import InputError
from unflow.mathematics.integrators import INTEGRATORS
from unflow.mathematics.paths import expand
from unflow.models import (
    MODELS,
    Chain,
    Filtered,
    Flow,
    FlowMap,
    GenerativeModel,
    Generator,
    Labelled,
    Latent,
    from_config,
)
from unflow.models.autoencoder import Autoencoder
from unflow.nets import MLP, AdaptedVelocity, UNet, new_net

A = torch.tensor([[-0.3, 1.2], [-0.8, 0.1]], dtype=torch.float64)


class LinearVelocity(nn.Module):
    """v(x, t) = A x, whose flow is expm(t A)."""

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return x @ A.T


class LinearAverageVelocity(nn.Module):
    """The average velocity of the flow of dx/dt = A x."""

    def forward(self, x: Tensor, start: Tensor, end: Tensor) -> Tensor:
        span = (end - start)[:, None, None]
        jump = (torch.matrix_exp(span * A) - torch.eye(2, dtype=A.dtype)) / span
        return (jump @ x[:, :, None])[:, :, 0]


def gaussian_scale(t: Tensor) -> Tensor:
    return ((1 - t) ** 2 + (0.3 * t) ** 2).sqrt()


class GaussianAverageVelocity(nn.Module):
    """Of the flow from N(0, 1) to N(2, 0.3^2): x_t - 2 t scales like the deviation at t."""

    def forward(self, x: Tensor, start: Tensor, end: Tensor) -> Tensor:
        a, b = expand(start, x), expand(end, x)
        moved = 2 * b + gaussian_scale(b) / gaussian_scale(a) * (x - 2 * a)
        return (moved - x) / (b - a)


def gaussian_velocity(x: Tensor, t: Tensor) -> Tensor:
    """Return E[x1 - x0 | x_t = x] for independent x0 ~ N(0, 1) and x1 ~ N(2, 0.3^2)."""
    t = expand(t, x)
    gain = (0.3**2 * t - (1 - t)) / gaussian_scale(t) ** 2
    return 2 + gain * (x - 2 * t)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mlp(shape: tuple[int, ...], num_times: int, seed: int = 0, **options: int) -> nn.Module:
    """Return a small network whose output is not zero."""
    net = new_net(
        {"net": "mlp", "shape": shape, "width": 16, "depth": 1, "num_times": num_times, **options}, seed
    )
    generator = torch.Generator().manual_seed(seed)
    for parameter in net.parameters():
        parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    return net


def autoencoder(latent: int = 5) -> Autoencoder:
    net = {"net": "conv_autoencoder", "shape": [1, 4, 8], "latent": latent, "width": 8, "depth": 1}
    return Autoencoder(new_net(net, 0))


def linear_classifier() -> nn.Module:
    """Return logits (0, x_1)."""
    net: Any = nn.Linear(2, 2)
    net.config = {"builder": "torch.nn:Linear", "options": {"in_features": 2, "out_features": 2}}
    net.weight.data, net.bias.data = torch.tensor([[0.0, 0.0], [1.0, 0.0]]), torch.zeros(2)
    return net


class Conditional(nn.Module):
    """A network (x, t) with a label that moves its time."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp((2,), 1)
        self.config = {"builder": f"{__name__}:Conditional", "options": {}}

    def forward(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        return self.net(x, t + label)


def labelled() -> Labelled:
    net = AdaptedVelocity(Conditional(), (2,), "x, t, label", label=0)
    return Labelled(Flow(net, (2,), "heun", 2), [0.3, 0.0, 0.7])


def small_models() -> dict[str, GenerativeModel]:
    decoder = Generator(mlp((3,), 0, outputs=2), prior_shape=(3,), prior="uniform")
    return {
        "flow": Flow(mlp((2,), 1), (2,), integrator="heun", steps=3),
        "flow_map": FlowMap(mlp((2,), 2), (2,), steps=2),
        "generator": decoder,
        "chain": Chain(decoder, Flow(mlp((2,), 1, seed=1), (2,), "euler", 2)),
        "latent": Latent(Flow(mlp((5,), 1), (5,), "heun", 2), autoencoder()),
        "filtered": Filtered(FlowMap(mlp((2,), 2), (2,)), ClassLogOdds(linear_classifier(), [1], 1.0)),
        "conditional": labelled(),
    }


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> GenerativeModel:
    return small_models()[request.param]


# What they push


@pytest.mark.parametrize("name", INTEGRATORS)
def test_a_flow_of_a_linear_velocity_is_a_power_of_its_integrators_taylor_polynomial(name: str) -> None:
    steps = 5
    order = INTEGRATORS[name]().order
    terms = [torch.linalg.matrix_power(A / steps, k) / math.factorial(k) for k in range(order + 1)]
    closed = torch.linalg.matrix_power(sum(terms), steps)
    z = normal(6, 2)
    pushed = Flow(LinearVelocity(), (2,), name, steps).push(z)
    torch.testing.assert_close(pushed, z @ closed.T, rtol=1e-12, atol=1e-12)


def test_a_flow_of_a_linear_velocity_tends_to_the_matrix_exponential() -> None:
    z = normal(6, 2)
    pushed = Flow(LinearVelocity(), (2,), "rk4", steps=50).push(z)
    torch.testing.assert_close(pushed, z @ torch.matrix_exp(A).T, rtol=0, atol=1e-8)


def test_one_step_of_a_flow_map_adds_the_average_velocity_from_0_to_1() -> None:
    net = mlp((2,), 2).double()
    z = normal(6, 2)
    zeros, ones = torch.zeros(6, dtype=z.dtype), torch.ones(6, dtype=z.dtype)
    torch.testing.assert_close(FlowMap(net, (2,)).push(z), z + net(z, zeros, ones))


@pytest.mark.parametrize("steps", [1, 3, 7])
def test_an_exact_flow_map_is_the_flow_in_any_number_of_jumps(steps: int) -> None:
    z = normal(6, 2)
    pushed = FlowMap(LinearAverageVelocity(), (2,), steps).push(z)
    torch.testing.assert_close(pushed, z @ torch.matrix_exp(A).T, rtol=1e-12, atol=1e-12)


def test_jumps_of_an_exact_flow_map_compose_and_undo_each_other() -> None:
    flow_map, x = FlowMap(LinearAverageVelocity(), (2,)), normal(6, 2)
    start, middle, end = torch.rand(3, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    through = flow_map.jump(flow_map.jump(x, start, middle), middle, end)
    torch.testing.assert_close(through, flow_map.jump(x, start, end), rtol=1e-12, atol=1e-12)
    back = flow_map.jump(flow_map.jump(x, start, end), end, start)
    torch.testing.assert_close(back, x, rtol=1e-12, atol=1e-12)


def test_the_average_velocity_between_gaussians_obeys_the_mean_flow_identity() -> None:
    """U = v + (e - s) (v dU/dx + dU/ds), by one forward-mode derivative along (v, 1, 0)."""
    U = GaussianAverageVelocity()
    x = normal(9, 1)
    start, end = torch.linspace(0, 0.7, 9, dtype=x.dtype), torch.linspace(0.9, 1, 9, dtype=x.dtype)
    v = gaussian_velocity(x, start)
    tangents = (v, torch.ones_like(start), torch.zeros_like(end))
    average, bracket = torch.func.jvp(U, (x, start, end), tangents)[:2]
    torch.testing.assert_close(average, v + expand(end - start, x) * bracket)
    flow = INTEGRATORS["rk4"]().solve(gaussian_velocity, x, 200)
    torch.testing.assert_close(FlowMap(U, (1,)).push(x), flow, rtol=0, atol=1e-6)
    torch.testing.assert_close(FlowMap(U, (1,)).push(x), 2 + 0.3 * x)


def test_a_fresh_network_makes_a_flow_the_identity() -> None:
    z = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(Flow(MLP([2], width=8), (2,)).push(z), z)
    assert torch.equal(FlowMap(MLP([2], width=8, num_times=2), (2,)).push(z), z)


def test_a_generator_is_its_network(generator: torch.Generator) -> None:
    net = nn.Linear(3, 2)
    model = Generator(net, prior_shape=(3,))
    z = model.prior(5, generator)
    assert torch.equal(model.push(z), net(z))
    assert model.sample_shape == (2,)


def test_a_chain_pushes_through_both_from_the_first_prior() -> None:
    models = small_models()
    base, after = models["generator"], models["flow"]
    chain = Chain(base, after)
    z, same = (chain.prior(5, torch.Generator().manual_seed(0)) for _ in range(2))
    assert torch.equal(z, base.prior(5, torch.Generator().manual_seed(0)))
    assert torch.equal(chain.push(z), after.push(base.push(same)))
    assert (chain.prior_shape, chain.sample_shape) == ((3,), (2,))
    assert chain.family == "generator"


def test_a_chain_with_a_fresh_link_is_still_its_base(generator: torch.Generator) -> None:
    base = small_models()["flow_map"]
    chain = Chain(base, Flow(MLP([2], width=8), (2,)))
    z = base.prior(5, generator)
    assert torch.equal(chain.push(z), base.push(z))


def test_a_latent_model_decodes_what_its_inner_model_makes(generator: torch.Generator) -> None:
    inner = Generator(mlp((3,), 0, outputs=5), prior_shape=(3,), prior="uniform")
    latent = Latent(inner, autoencoder())
    z = latent.prior(6, torch.Generator().manual_seed(3))
    assert torch.equal(z, inner.prior(6, torch.Generator().manual_seed(3)))
    assert torch.equal(latent.push(z), latent.autoencoder.decode(inner.push(z)))
    assert (latent.prior_shape, latent.sample_shape, latent.family) == ((3,), (1, 4, 8), "generator")
    assert latent.sample(6, generator).shape == (6, 1, 4, 8)


def test_a_latent_model_is_recoverable_where_its_inner_model_is() -> None:
    flow = Flow(mlp((5,), 1), (5,), steps=2)
    chain = Chain(flow, Flow(MLP([5], width=8), (5,)))
    assert Latent(chain, autoencoder()).original_recoverable
    assert not Latent(flow, autoencoder()).original_recoverable


def test_the_family_of_a_chain_is_that_of_its_one_step_model() -> None:
    flow, flow_map = Flow(MLP([2], width=8), (2,)), FlowMap(MLP([2], width=8, num_times=2), (2,))
    generator = Generator(nn.Linear(2, 2), (2,))
    for base, after, family in [
        (flow, flow, "flow"),
        (flow, flow_map, "flow_map"),
        (flow_map, flow, "flow_map"),
        (flow, generator, "generator"),
        (generator, flow, "generator"),
    ]:
        assert Chain(base, after).family == family


def test_the_original_is_recoverable_from_chains_and_filters_only(model: GenerativeModel) -> None:
    assert model.original_recoverable == isinstance(model, Chain | Filtered)


def test_num_evaluations_counts_the_calls_of_the_networks(model: GenerativeModel) -> None:
    calls = []
    if isinstance(model, Filtered):
        model.strength = 0.0  # of samples that pass at once
    for part in model.modules():
        if isinstance(part, MLP):
            part.register_forward_hook(lambda *_: calls.append(1))
    model.sample(4, torch.Generator().manual_seed(0))
    assert len(calls) == model.num_evaluations


# Priors


def test_a_normal_prior_is_standard(generator: torch.Generator) -> None:
    z = Flow(MLP([2], width=8), (2,)).prior(5000, generator)
    torch.testing.assert_close(z.mean(0), torch.zeros(2), rtol=0, atol=0.05)
    torch.testing.assert_close(z.T.cov(), torch.eye(2), rtol=0, atol=0.05)


def test_a_uniform_prior_fills_the_cube_from_minus_one_to_one(generator: torch.Generator) -> None:
    z = Generator(nn.Identity(), prior_shape=(2,), prior="uniform").prior(5000, generator)
    assert float(z.abs().max()) <= 1
    assert float(z.min()) < -0.99
    assert float(z.max()) > 0.99
    torch.testing.assert_close(z.T.cov(), torch.eye(2) / 3, rtol=0, atol=0.02)


# Sampling changes nothing


def test_sampling_is_pushing_the_prior_and_deterministic_given_the_generator(model: GenerativeModel) -> None:
    one, two, three = (torch.Generator().manual_seed(seed) for seed in (7, 7, 7))
    x = model.sample(9, one)
    assert x.shape == (9, *model.sample_shape)
    assert torch.equal(x, model.sample(9, two))
    torch.testing.assert_close(x, model(model.prior(9, three)))
    assert not torch.equal(x, model.sample(9, one))


def test_sampling_leaves_the_global_stream_and_the_weights_alone(model: GenerativeModel) -> None:
    state = torch.get_rng_state()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    x = model.sample(5, torch.Generator().manual_seed(0))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not x.requires_grad
    assert all(p.grad is None for p in model.parameters())


def test_sampling_in_batches_is_sampling_at_once(model: GenerativeModel) -> None:
    z = model.prior(10, torch.Generator().manual_seed(0))
    torch.testing.assert_close(model.push_batches(z, batch_size=3), model.push_batches(z))


def test_sampling_is_in_evaluation_mode_and_puts_every_part_back_in_its_own() -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Dropout(0.5)).train()
    net[1].eval()
    model = Generator(net, prior_shape=(2,))
    assert (net.training, net[1].training, net[2].training) == (True, False, True)
    one, two = (model.sample(6, torch.Generator().manual_seed(0)) for _ in range(2))
    assert torch.equal(one, two)
    assert (net.training, net[1].training, net[2].training) == (True, False, True)


def test_a_network_in_evaluation_mode_stays_there() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).eval()
    model = Generator(net, prior_shape=(2,))
    model.sample(6, torch.Generator().manual_seed(0))
    assert not any(part.training for part in net.modules())


def test_a_failing_network_still_gets_its_mode_back() -> None:
    model = Flow(MLP([2], width=8), (2,)).train()
    with pytest.raises(RuntimeError):
        model.push_batches(torch.zeros(4, 3))
    assert model.training


def test_a_model_samples_in_the_precision_of_its_weights(model: GenerativeModel) -> None:
    single = model.sample(5, torch.Generator().manual_seed(0))
    double = model.double().sample(5, torch.Generator().manual_seed(0))
    assert (single.dtype, double.dtype) == (torch.float32, torch.float64)
    assert model.prior(5, torch.Generator()).dtype == torch.float64
    torch.testing.assert_close(double.float(), single, rtol=1e-4, atol=1e-4)


def test_dim_is_the_number_of_entries_of_a_sample() -> None:
    net = UNet([1, 4, 4], widths=[8])
    assert Flow(net, (1, 4, 4)).dim == 16
    assert Generator(nn.Identity(), prior_shape=(3,)).dim == 3


# Rebuilding


def test_a_model_is_rebuilt_from_its_config_as_plain_data(model: GenerativeModel) -> None:
    config = json.loads(json.dumps(model.config()))
    rebuilt = from_config(config)
    assert type(rebuilt) is type(model)
    assert rebuilt.config() == json.loads(json.dumps(model.config()))
    assert (rebuilt.prior_shape, rebuilt.sample_shape) == (model.prior_shape, model.sample_shape)
    assert rebuilt.num_evaluations == model.num_evaluations
    assert rebuilt.state_dict().keys() == model.state_dict().keys()
    rebuilt.load_state_dict(model.state_dict())
    one, two = (m.sample(5, torch.Generator().manual_seed(0)) for m in (model, rebuilt))
    assert torch.equal(one, two)


def test_every_model_in_the_list_names_itself(model: GenerativeModel) -> None:
    assert MODELS[model.config()["model"]] is type(model)


def test_a_network_of_ones_own_is_rebuilt_by_its_builder() -> None:
    net: Any = nn.Linear(3, 2)
    net.config = {"builder": "torch.nn:Linear", "options": {"in_features": 3, "out_features": 2}}
    model = Generator(net, prior_shape=(3,))
    rebuilt: Any = from_config(json.loads(json.dumps(model.config())))
    rebuilt.load_state_dict(model.state_dict())
    assert torch.equal(rebuilt.net.weight, net.weight)
    assert rebuilt.config() == model.config()


# Errors


def test_an_unknown_model_is_refused_with_the_known_ones() -> None:
    for config in ({"model": "gan"}, {}):
        with pytest.raises(InputError, match=r"got the model .*flow, flow_map, generator, chain"):
            from_config(config)


def test_an_incomplete_architecture_is_refused() -> None:
    flow = small_models()["flow"].config()
    chain = small_models()["chain"].config()
    latent = small_models()["latent"].config()
    for config in (
        {key: value for key, value in flow.items() if key != "net"},
        {key: value for key, value in flow.items() if key != "shape"},
        {key: value for key, value in chain.items() if key != "after"},
        {key: value for key, value in latent.items() if key != "inner"},
        {key: value for key, value in latent.items() if key != "autoencoder"},
        flow | {"colour": "red"},
    ):
        with pytest.raises(InputError, match=r"incomplete or has extra entries.*config\(\)"):
            from_config(config)


def test_an_unknown_network_in_an_architecture_is_refused() -> None:
    flow = small_models()["flow"].config()
    for net in ({"net": "transformer"}, "mlp"):
        with pytest.raises(InputError, match=r"for a network|got the network"):
            from_config(flow | {"net": net})


def test_a_network_that_does_not_fit_the_stated_latents_is_refused() -> None:
    with pytest.raises(InputError, match=r"latents of shape \[4\].*shape of one latent"):
        Generator(nn.Linear(3, 2), prior_shape=(4,))


def test_an_unknown_prior_is_refused() -> None:
    with pytest.raises(InputError, match="prior='cauchy'; expected 'normal' or 'uniform'"):
        Generator(nn.Identity(), prior_shape=(2,), prior="cauchy")  # type: ignore[arg-type]  # refused


def test_an_unknown_integrator_is_refused_at_once() -> None:
    with pytest.raises(InputError, match=r"integrator 'rk5'; expected one of euler, midpoint"):
        Flow(MLP([2], width=8), (2,), integrator="rk5")


def test_less_than_one_step_is_refused() -> None:
    with pytest.raises(InputError, match="0 steps of a flow map; expected 1 or more"):
        FlowMap(MLP([2], width=8, num_times=2), (2,), steps=0)
    with pytest.raises(InputError, match="0 integration steps of a flow; expected a whole number >= 1"):
        Flow(MLP([2], width=8), (2,), steps=0).push(torch.zeros(1, 2))


def test_a_chain_whose_shapes_do_not_meet_is_refused() -> None:
    models = small_models()
    with pytest.raises(InputError, match=r"samples \[2\] into latents \[3\]; expected equal"):
        Chain(models["flow"], models["generator"])


def test_a_model_of_other_latents_than_the_decoders_is_refused() -> None:
    with pytest.raises(InputError, match=r"samples \[5\] before a decoder of latents \[4\]; expected equal"):
        Latent(Flow(mlp((5,), 1), (5,)), autoencoder(latent=4))


@pytest.mark.parametrize("n", [0, -1])
def test_less_than_one_sample_is_refused(model: GenerativeModel, n: int) -> None:
    with pytest.raises(InputError, match=f"got {n} samples to draw; expected 1 or more"):
        model.sample(n, torch.Generator())
