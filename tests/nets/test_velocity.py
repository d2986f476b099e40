"""Networks of other conventions push as ours do; labelled models are functions of z; bundles hold both.

The reference is the flow from N(0, 1) to N(2, 0.3^2) on the linear path, whose exact map is z -> 2 + 0.3 z.
Each foreign network writes it down in its own convention, by its own formula.
"""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import unflow as uf
from unflow.energies import CallableEnergy, ClassLogOdds, Softplus
from unflow.ground.errors import InputError
from unflow.ground.files import sha256_module
from unflow.ground.streams import stream
from unflow.mathematics.paths import expand
from unflow.methods import ERFM, UNLEARNERS, LatentFlow
from unflow.methods.appended import describe_appended_net
from unflow.models import Filtered, Flow, FlowMap, GenerativeModel, Labelled, plain_module
from unflow.nets import (
    MLP,
    AdaptedAverageVelocity,
    AdaptedVelocity,
    build_net,
    builders,
    net_config,
    new_net,
    plain_velocity,
)
from unflow.target import Target
from unflow.training.loop import fit
from unflow.training.losses import MeanFlowLoss, VelocityLoss, mean_flow_target
from unflow.training.method import Method, Problem
from unflow.training.originals import TRAINERS
from unflow.training.originals.distill import Distill

for name in ("Classes", "AverageClasses", "Theirs10"):
    uf.nets.trust(f"{__name__}:{name}")

MEAN, SD = 2.0, 0.3


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=stream(seed), dtype=torch.float64)


# Their networks


def strict(t: Tensor, x: Tensor, time_shape: str) -> Tensor:
    """Return the times, spread over x, if they have the shape that this network was trained with."""
    wanted = {"batch": (len(x),), "column": (len(x), 1), "scalar": ()}[time_shape]
    if t.shape != wanted:
        raise ValueError(f"times of shape {list(t.shape)}")
    return t if time_shape == "scalar" else t.reshape(-1, *[1] * (x.ndim - 1))


class Noise1(nn.Module):
    """d/dtau of x_tau = (1 - tau) data + tau noise: E[noise - data | x_tau], times in [0, scale]."""

    def __init__(self, scale: float = 1.0, time_shape: str = "batch") -> None:
        super().__init__()
        self.scale, self.time_shape = scale, time_shape

    def forward(self, x: Tensor, tau: Tensor) -> Tensor:
        tau = strict(tau, x, self.time_shape) / self.scale
        variance = tau**2 + (SD * (1 - tau)) ** 2
        return -MEAN + (tau - SD**2 * (1 - tau)) / variance * (x - MEAN * (1 - tau))


class Noise0(nn.Module):
    """d/dt of x_t = (1 - t) noise + t data: E[data - noise | x_t], times in [0, scale]."""

    def __init__(self, scale: float = 1.0, time_shape: str = "batch") -> None:
        super().__init__()
        self.scale, self.time_shape = scale, time_shape

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        t = strict(t, x, self.time_shape) / self.scale
        return MEAN + (SD**2 * t - (1 - t)) / ((1 - t) ** 2 + (SD * t) ** 2) * (x - MEAN * t)


class Data(nn.Module):
    """E[data | x_tau] on x_tau = (1 - tau) data + tau noise."""

    def forward(self, x: Tensor, tau: Tensor) -> Tensor:
        tau = expand(tau, x)
        return MEAN + SD**2 * (1 - tau) / (tau**2 + (SD * (1 - tau)) ** 2) * (x - MEAN * (1 - tau))


class Other(nn.Module):
    """A network with other arguments around one."""

    def __init__(self, net: nn.Module, kind: str) -> None:
        super().__init__()
        self.net, self.kind = net, kind

    def forward(self, *args: Tensor, **named: Tensor) -> Any:
        if self.kind == "swapped":
            t, x = args
            return self.net(x, t)
        if self.kind == "keywords":
            return SimpleNamespace(sample=self.net(named.pop("sample"), named.pop("timestep"), **named))
        return SimpleNamespace(sample=self.net(*args))


FOREIGN: dict[str, tuple[nn.Module, dict[str, Any]]] = {
    "ours": (Noise0(), {}),
    "noise at 1": (Noise1(), {"noise_at": 1}),
    "t first": (Other(Noise0(), "swapped"), {"arguments": "t, x"}),
    "noise at 1, t first": (Other(Noise1(), "swapped"), {"arguments": "t, x", "noise_at": 1}),
    "times to 1000": (Noise0(1000), {"time_scale": 1000}),
    "times from 1000": (Noise1(1000), {"time_scale": 1000, "noise_at": 1}),
    "column": (Noise0(1.0, "column"), {"time_shape": "column"}),
    "scalar": (Noise1(1.0, "scalar"), {"time_shape": "scalar", "noise_at": 1}),
    ".sample": (Other(Noise0(), "object"), {}),
    "keywords, .sample, from 1000": (
        Other(Noise1(1000), "keywords"),
        {"arguments": "sample=x, timestep=t", "noise_at": 1, "time_scale": 1000},
    ),
    "predicts data": (Data(), {"noise_at": 1, "predicts": "data"}),
}


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("shape", [(1,), (2, 4, 4)])
def test_a_flow_of_an_adapted_network_is_the_exact_map(name: str, shape: tuple[int, ...]) -> None:
    net, options = FOREIGN[name]
    z = normal(5, *shape)
    solver = ("midpoint", 800) if "predicts" in options else ("rk4", 80)
    pushed = Flow(AdaptedVelocity(net, shape, **options), shape, *solver).push(z)
    torch.testing.assert_close(pushed, MEAN + SD * z, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", FOREIGN)
def test_the_adapted_velocity_and_its_derivatives_are_our_own(name: str) -> None:
    """Rows of different times, and torch.func.jvp along x and t, as training needs."""
    net, options = FOREIGN[name]
    x, t = normal(7, 2, seed=1), torch.linspace(0, 0.95, 7, dtype=torch.float64)
    tangents = (normal(7, 2, seed=2), normal(7, seed=3))
    adapted = AdaptedVelocity(net, (2,), **options)
    found, exact = (torch.func.jvp(v, (x, t), tangents) for v in (adapted, Noise0()))
    torch.testing.assert_close(found, exact, rtol=1e-9, atol=1e-9)


class MeanFlowNet(nn.Module):
    """u(z, r, t) with z_r = z_t - (t - r) u, the noise at 1; its arguments in the order ``order``."""

    def __init__(self, order: str, scale: float = 1.0) -> None:
        super().__init__()
        self.order, self.scale = order, scale

    def forward(self, z: Tensor, *times: Tensor) -> Tensor:
        own = {name: expand(t, z) / self.scale for name, t in zip(self.order, times, strict=True)}
        if "r" not in own:
            own["r"] = own["t"] - own["h"]
        r, t = own["r"], own["t"]
        sd_r, sd_t = ((s**2 + (SD * (1 - s)) ** 2).sqrt() for s in (r, t))
        z_r = MEAN * (1 - r) + sd_r / sd_t * (z - MEAN * (1 - t))
        return (z - z_r) / (t - r)


class OurMeanFlowNet(nn.Module):
    """U(x; s, e) with x_e = x_s + (e - s) U, the noise at 0."""

    def forward(self, x: Tensor, start: Tensor, end: Tensor) -> Tensor:
        s, e = expand(start, x), expand(end, x)
        sd_s, sd_e = (((1 - t) ** 2 + (SD * t) ** 2).sqrt() for t in (s, e))
        return (MEAN * e + sd_e / sd_s * (x - MEAN * s) - x) / (e - s)


AVERAGES: dict[str, tuple[nn.Module, dict[str, Any]]] = {
    "ours": (OurMeanFlowNet(), {}),
    "u(z, r, t)": (MeanFlowNet("rt"), {"arguments": "x, end, start", "noise_at": 1}),
    "u(z, t, r)": (MeanFlowNet("tr"), {"noise_at": 1}),
    "u(z, t, t - r)": (MeanFlowNet("th"), {"arguments": "x, start, span", "noise_at": 1}),
    "u(z, t, t - r), times from 1000": (
        MeanFlowNet("th", 1000),
        {"arguments": "x, start, span", "noise_at": 1, "time_scale": 1000},
    ),
    "by keywords": (Other(MeanFlowNet("tr"), "object"), {"arguments": "x, start, end", "noise_at": 1}),
}


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("name", AVERAGES)
def test_a_flow_map_of_an_adapted_network_is_the_exact_map(name: str, steps: int) -> None:
    net, options = AVERAGES[name]
    z = normal(5, 2)
    model = FlowMap(AdaptedAverageVelocity(net, (2,), **options), (2,), steps)
    torch.testing.assert_close(model.push(z), MEAN + SD * z, rtol=0, atol=1e-9)
    back = model.jump(model.push(z), torch.ones(5).double(), torch.full((5,), 0.01).double())
    there = model.jump(z, torch.zeros(5).double(), torch.full((5,), 0.01).double())
    torch.testing.assert_close(back, there, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", AVERAGES)
def test_mean_flow_targets_through_an_adapted_network_are_our_own(name: str) -> None:
    """They take torch.func.jvp along (v, 1, 0)."""
    net, options = AVERAGES[name]
    x, v = normal(6, 2, seed=1), normal(6, 2, seed=2)
    start, end = torch.linspace(0, 0.5, 6, dtype=x.dtype), torch.linspace(0.6, 1, 6, dtype=x.dtype)
    adapted = AdaptedAverageVelocity(net, (2,), **options)
    found, exact = (mean_flow_target(u, x, v, start, end) for u in (adapted, OurMeanFlowNet()))
    torch.testing.assert_close(found, exact, rtol=1e-9, atol=1e-9)


# Training in place


def plain_net(num_times: int, seed: int = 0) -> Any:
    net = new_net({"net": "mlp", "shape": (2,), "width": 8, "depth": 1, "num_times": num_times}, seed)
    for parameter in net.parameters():
        parameter.data = 0.3 * torch.randn(parameter.shape, generator=stream(seed))
    return net


class Theirs(nn.Module):
    """One of our networks, as somebody whose noise is at 1 and whose times are single numbers trains it."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, tau: Tensor, x: Tensor) -> Tensor:
        return -self.net(x, 1 - strict(tau, x, "scalar").expand(len(x)) / 10)


def test_losses_and_gradients_through_an_adapted_network_are_those_of_ours() -> None:
    net = plain_net(1)
    theirs = Theirs(copy.deepcopy(net))
    options: dict[str, Any] = {"noise_at": 1, "time_scale": 10, "time_shape": "scalar"}
    adapted = AdaptedVelocity(theirs, (2,), "t, x", **options)
    (x0, x1), t = torch.randn(2, 6, 2, generator=stream(1)), torch.linspace(0, 1, 6)
    losses = [VelocityLoss(each)(x0, x1, t) for each in (net, adapted)]
    torch.testing.assert_close(*losses)
    for loss in losses:
        loss.backward()
    for own, other in zip(net.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(own.grad, other.grad)
        assert own.grad is not None
        assert float(own.grad.abs().sum()) > 0


class Reversed(nn.Module):
    """One of our average velocities as u(z, r, t) with the noise at 1."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, z: Tensor, r: Tensor, t: Tensor) -> Tensor:
        return -self.net(z, 1 - t, 1 - r)


def test_mean_flow_losses_and_gradients_are_those_of_ours() -> None:
    net = plain_net(2)
    theirs = Reversed(copy.deepcopy(net))
    adapted = AdaptedAverageVelocity(theirs, (2,), "x, end, start", noise_at=1)
    x0, x1 = torch.randn(2, 6, 2, generator=stream(1))
    start, end = torch.linspace(0, 0.5, 6), torch.linspace(0.5, 1, 6)
    for each in (net, adapted):
        MeanFlowLoss(each)(x0, x1, start, end).backward()
    for own, other in zip(net.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(own.grad, other.grad, rtol=1e-4, atol=1e-5)
        assert own.grad is not None
        assert float(own.grad.abs().sum()) > 0


# Labels and guidance

CENTRES = torch.tensor([[-4.0, 0.0], [0.0, 3.0], [4.0, 0.0], [0.0, 0.0]])
"""Where each label's samples lie; the last is the null label."""


class Classes(nn.Module):
    """The straight flow from N(0, 1) to N(centre of the label, 0.1^2) at 0: dx/dtau, counting its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.centres = nn.Parameter(CENTRES.clone())
        self.config = {"builder": f"{__name__}:Classes", "options": {}}
        self.rows: list[int] = []

    def forward(self, x: Tensor, tau: Tensor, y: Tensor) -> Tensor:
        self.rows.append(len(x))
        tau, centre = tau[:, None], self.centres[y]
        sd = tau + 0.1 * (1 - tau)
        return -centre + 0.9 / sd * (x - centre * (1 - tau))


class AverageClasses(nn.Module):
    """u(z, r, t) of the same flow: z_tau = (1 - tau) centre + (tau + 0.1 (1 - tau)) noise."""

    def __init__(self) -> None:
        super().__init__()
        self.centres = nn.Parameter(CENTRES.clone())
        self.gain = nn.Parameter(torch.ones(len(CENTRES)))
        self.config = {"builder": f"{__name__}:AverageClasses", "options": {}}

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Tensor) -> Tensor:
        r, t, centre = r[:, None], t[:, None], self.centres[y]
        noise = (z - centre * (1 - t)) / (t + 0.1 * (1 - t))
        return 0.9 * noise * self.gain[y, None] - centre


def classes(**options: Any) -> AdaptedVelocity:
    return AdaptedVelocity(Classes(), (2,), "x, t, label", noise_at=1, **({"label": 0} | options))


def average_classes(label: int = 0) -> AdaptedAverageVelocity:
    return AdaptedAverageVelocity(AverageClasses(), (2,), "x, end, start, y=label", noise_at=1, label=label)


SHARES = [0.5, 0.2, 0.3]


def labelled(family: str, shares: list[float] = SHARES) -> Labelled:
    if family == "flow":
        return Labelled(Flow(classes(), (2,), "midpoint", 16), shares)
    return Labelled(FlowMap(average_classes(), (2,)), shares)


@pytest.mark.parametrize("label", [0, 1, 2])
def test_a_fixed_label_is_given_to_every_sample(label: int) -> None:
    z = torch.randn(6, 2, generator=stream(0))
    exact = CENTRES[label] + 0.1 * z
    flow = Flow(classes(label=label), (2,), "midpoint", 400)
    torch.testing.assert_close(flow.push(z), exact, rtol=0, atol=1e-4)
    torch.testing.assert_close(FlowMap(average_classes(label), (2,)).push(z), exact)


def test_guidance_mixes_the_label_with_the_null_label_in_one_call() -> None:
    x, t = torch.randn(5, 2, generator=stream(1)), torch.linspace(0, 1, 5)
    alone, null = classes(label=2)(x, t), classes(label=3)(x, t)
    for weight in (0.0, 0.5, 1.0, 3.0):
        guided: Any = classes(label=2, null_label=3, guidance=weight)
        guided.net.rows.clear()
        torch.testing.assert_close(guided(x, t), null + weight * (alone - null))
        assert guided.net.rows == [5 if weight == 1 else 10]
    assert torch.equal(classes(label=2, null_label=3, guidance=1.0)(x, t), alone)
    assert torch.equal(classes(label=2, null_label=3, guidance=0.0)(x, t), null)


def test_guidance_of_predicted_data_is_guidance_of_velocities() -> None:
    class Predicts(Classes):
        def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
            return x + (1 - t[:, None]) * self.centres[y]

    x, t = torch.randn(5, 2, generator=stream(1)), torch.linspace(0, 0.9, 5)
    guided = AdaptedVelocity(
        Predicts(), (2,), "x, t, label", predicts="data", label=0, null_label=1, guidance=2.0
    )
    exact = (2 * CENTRES[0] - CENTRES[1]).expand(5, 2)
    torch.testing.assert_close(guided(x, t), exact, rtol=0, atol=1e-4)


@pytest.mark.parametrize("family", ["flow", "flow_map"])
def test_the_labels_have_the_given_shares_and_do_not_depend_on_the_batch(family: str) -> None:
    model, n = labelled(family), 20000
    z = model.prior(n, stream(3))
    y = model.labels(z)
    found, exact = torch.bincount(y, minlength=3) / n, torch.tensor(SHARES)
    assert bool(((found - exact).abs() < 4 * (exact * (1 - exact) / n).sqrt()).all()), found
    order = torch.randperm(n, generator=stream(4))
    assert torch.equal(model.labels(z[order]), y[order])
    assert torch.equal(torch.cat([model.labels(row) for row in z[:50].split(1)]), y[:50])
    assert torch.equal(copy.deepcopy(model).double().labels(z.double()), y)


@pytest.mark.parametrize("family", ["flow", "flow_map"])
def test_a_labelled_model_is_its_inner_model_at_the_label_of_each_latent(family: str) -> None:
    model: Any = labelled(family)
    z = model.prior(40, stream(5))
    pushed, y = model.push(z), model.labels(z)
    assert set(y.tolist()) == {0, 1, 2}
    for label in range(3):
        net = model.inner.net.with_labels(torch.full((40,), label))
        inner = model.inner.with_velocity(net) if family == "flow" else FlowMap(net, (2,))
        torch.testing.assert_close(pushed[y == label], inner.push(z[:, :2])[y == label])
    assert (model.prior_shape, model.sample_shape, model.family) == ((3,), (2,), family)
    assert model.inner.net.label == 0


def test_the_noise_of_each_label_is_normal() -> None:
    """Mean 0 and variance 1, each within 4 standard errors: the label says nothing about the noise."""
    model = labelled("flow_map")
    z = model.prior(20000, stream(6))
    y = model.labels(z)
    for label in range(3):
        noise = z[y == label, :2]
        assert float(noise.mean(0).abs().max()) < 4 / len(noise) ** 0.5
        assert float((noise.var(0) - 1).abs().max()) < 4 * (2 / len(noise)) ** 0.5


def test_labels_of_probability_0_are_never_drawn() -> None:
    """Wherever u lies, also where the shares before them sum to 0.9999999999999999."""
    u = torch.linspace(-40, 40, 1001)
    z = torch.cat([torch.zeros(len(u), 2), u[:, None]], dim=1)
    for shares in ([0.0, 0.3, 0.7], [0.3, 0.0, 0.7], [0.7, 0.2, 0.1, 0.0], [0.0, 1.0, 0.0]):
        drawn = labelled("flow_map", shares).labels(z).tolist()
        assert set(drawn) == {k for k, share in enumerate(shares) if share > 0}, shares


def test_the_trajectories_of_one_latent_keep_one_label() -> None:
    seen: list[Tensor] = []

    class Watched(Classes):
        def forward(self, x: Tensor, tau: Tensor, y: Tensor) -> Tensor:
            seen.append(y)
            return super().forward(x, tau, y)

    net = AdaptedVelocity(Watched(), (2,), "x, t, label", noise_at=1, label=0, null_label=3, guidance=2.0)
    model = Labelled(Flow(net, (2,), "heun", 3), SHARES)
    seen.clear()
    z = model.prior(9, stream(0))
    model.push(z)
    assert len(seen) == model.num_evaluations == 6
    assert all(torch.equal(y, torch.cat([torch.full((9,), 3), model.labels(z)])) for y in seen)


# Unlearning


def left(x: Tensor) -> Tensor:
    """Return 8 for samples of label 0, 0 for the others."""
    return 8.0 * (x[:, 0] < -2)


def log_odds() -> ClassLogOdds:
    """Return softplus(-x_1 - 2) + 1, of a classifier that can be described."""
    net: Any = nn.Linear(2, 2)
    net.config = {"builder": "torch.nn:Linear", "options": {"in_features": 2, "out_features": 2}}
    net.weight.data, net.bias.data = torch.tensor([[-1.0, 0.0], [0.0, 0.0]]), torch.tensor([-2.0, 0.0])
    return ClassLogOdds(net, [0], margin=1.0)


def left_share(model: GenerativeModel) -> float:
    return float((model.sample(4000, stream(11))[:, 0] < -2).double().mean())


def problem(model: GenerativeModel) -> Problem:
    rows = torch.randn(64, 2, generator=stream(3))
    return Problem(
        model=model,
        target=Target(model, log_odds()),
        data=rows,
        retain=rows + 1,
        forget=rows - 1,
        teacher=Flow(plain_net(1), (2,), steps=2),
        held_out=rows,
    )


SMALL = {"steps": 2, "batch_size": 8, "bank_size": 64, "block_size": 32, "flow_steps": 2}


def small(method: Method) -> Method:
    names = {field.name for field in dataclasses.fields(method)}
    return dataclasses.replace(method, **{k: v for k, v in SMALL.items() if k in names})


IN_PLACE = {
    "flow": {
        "erfm_control",
        "neg_grad_plus",
        "fine_tune",
        "weight_extrapolation",
        "retrained",
        "flow_matching",
    },
    "flow_map": {"neg_grad_plus", "fine_tune", "retrained", "mean_flow", "distill"},
}
"""What needs the velocity at a label that it does not know."""
GENERATIVE = {
    **{name: method for name, method in UNLEARNERS.items() if not method.needs_conditional},
    **{k: v for k, v in TRAINERS.items() if k not in ("classification", "autoencoding")},
}
CASES = [(name, family) for name in GENERATIVE for family in IN_PLACE if family in GENERATIVE[name].families]


@pytest.mark.usefixtures("short_start")
@pytest.mark.parametrize(("name", "family"), CASES)
def test_methods_unlearn_a_labelled_model_or_refuse_it_before_training(
    name: str, family: str, tmp_path: Path
) -> None:
    model, method = labelled(family), small(GENERATIVE[name])
    if name in IN_PLACE[family]:
        words = (
            "got a labelled model for .*, which knows no labels; expected a|got data without labels for|"
            "needs retain_labels|got a teacher without conditions"
        )
        with pytest.raises(InputError, match=words):
            fit(method, problem(model), tmp_path)
        assert list(tmp_path.iterdir()) == []
        return
    before = sha256_module(model)
    after = fit(method, problem(model), tmp_path).model
    assert isinstance(after, GenerativeModel)
    assert (after.prior_shape, after.sample_shape) == ((3,), (2,))
    assert bool(after.sample(20, stream(1)).isfinite().all())
    assert sha256_module(model) == before
    bundle = uf.load(uf.save(after, tmp_path / "bundle"), trust_code=True)  # the energy of a filter is Linear
    assert torch.equal(bundle.sample(20, stream(1)), after.sample(20, stream(1)))


@pytest.mark.parametrize("name", [name for name, each in GENERATIVE.items() if "flow" in each.families])
def test_methods_train_a_flow_of_an_adapted_network(name: str, tmp_path: Path) -> None:
    """With guidance and a fixed label, too: what they train is the velocity as it is sampled."""
    model = Flow(classes(label=2, null_label=3, guidance=1.5), (2,), steps=2)
    after = fit(small(GENERATIVE[name]), problem(model), tmp_path).model
    assert isinstance(after, GenerativeModel)
    assert bool(after.sample(20, stream(1)).isfinite().all())
    unchanged = torch.equal(after.sample(20, stream(1)), model.sample(20, stream(1)))
    assert unchanged == (name in ("reject", "erfm_resample"))  # the target keeps every sample of label 2


def test_rejection_behind_a_labelled_model_leaves_the_exact_shares() -> None:
    """Labels and coins of the filter are independent: shares p_k exp(-F_k) / Z, of 8,000 samples."""
    filtered = Filtered(labelled("flow_map"), CallableEnergy(lambda x: left(x) / 8, 0.0))
    n, weight = 8000, torch.tensor(SHARES) * torch.exp(-torch.tensor([1.0, 0.0, 0.0]))
    x = filtered.sample(n, stream(8))
    found = torch.bincount(torch.cdist(x, CENTRES[:3]).argmin(1), minlength=3) / n
    exact = weight / weight.sum()
    assert bool(((found - exact).abs() < 4 * (exact * (1 - exact) / n).sqrt()).all()), (found, exact)


def test_a_flow_of_latents_moves_them_to_another_label() -> None:
    model = labelled("flow_map")
    target = Target(model, CallableEnergy(left, 0.0))
    method = LatentFlow(steps=120, batch_size=128, block_size=128, bank_size=1024, width=64)
    after: Any = uf.unlearn(target, method).model
    assert left_share(model) == pytest.approx(0.5, abs=0.04)
    assert left_share(after) < 0.1
    z = after.prior(500, stream(9))
    assert int((model.labels(after.base.push(z)) == 0).sum()) < 50


@pytest.mark.parametrize("place", ["chain", "prior"])
def test_the_place_of_erfm_is_trained_through_the_convention(place: Any) -> None:
    """An adapted MLP of the other convention forgets the left half as the MLP itself does."""
    inner = Theirs10(plain_net(1, seed=3).config)
    net = AdaptedVelocity(inner, (2,), "t, x", noise_at=1, time_scale=10)
    model = Flow(net, (2,), steps=4)
    target = Target(model, Softplus(CallableEnergy(lambda x: -6 * x[:, 0])))
    method = ERFM(
        steps=150,
        batch_size=128,
        bank_size=2048,
        learning_rate=5e-3,
        place=place,
        weighting="resample",
        integration_steps=4,
    )
    after = uf.unlearn(target, method).model
    before, found = (float((m.sample(2000, stream(2))[:, 0] < 0).double().mean()) for m in (model, after))
    assert before == pytest.approx(0.5, abs=0.05)
    assert found < 0.25


class Theirs10(nn.Module):
    """A described network with t first, from 10 at the noise to 0 at the data."""

    def __init__(self, of: dict[str, Any]) -> None:
        super().__init__()
        self.net = build_net(of)
        self.config = {"builder": f"{__name__}:Theirs10", "options": {"of": of}}

    def forward(self, tau: Tensor, x: Tensor) -> Tensor:
        return -self.net(x, 1 - strict(tau, x, "batch")[:, 0] / 10)


def test_a_third_party_network_gets_an_mlp_appended_that_knows_labels_if_they_are_asked_for() -> None:
    net = classes(label=2, null_label=3, guidance=4.0)
    chained = describe_appended_net(Problem(model=Flow(net, (2,))), None, None)
    assert (chained["net"], chained["shape"], chained["num_times"]) == ("mlp", [2], 1)
    asked = describe_appended_net(Problem(model=Labelled(Flow(net, (2,)), SHARES)), None, None)
    assert asked == chained | {"num_classes": 3}


def test_a_plain_velocity_has_neither_guidance_nor_prediction() -> None:
    net = classes(label=2, null_label=3, guidance=4.0)
    assert plain_velocity(net.config) == net.config | {"guidance": 1.0, "noise_at": 0}
    data = AdaptedVelocity(Theirs10(plain_net(1).config), (2,), "t, x", predicts="data")
    assert build_net(plain_velocity(data.config)).predicts == "velocity"
    for other in (net_config(plain_net(1)), average_classes().config):
        assert plain_velocity(other) == other


# Bundles


def bundled() -> dict[str, GenerativeModel]:
    guided = classes(label=2, null_label=3, guidance=2.5)
    ours = AdaptedVelocity(plain_net(1), (2,), noise_at=1, time_scale=0.5)
    return {
        "flow of ours": Flow(ours, (2,), "rk4", 2),
        "guided flow of theirs": Flow(guided, (2,), steps=3),
        "flow map of ours": FlowMap(AdaptedAverageVelocity(plain_net(2), (2,), "x, end, span"), (2,), 2),
        "flow map of theirs": FlowMap(average_classes(1), (2,)),
        "labelled flow": Labelled(Flow(guided, (2,), steps=3), SHARES),
        "labelled flow map": labelled("flow_map"),
    }


@pytest.mark.parametrize("name", bundled())
def test_a_bundle_gives_the_same_samples(name: str, tmp_path: Path) -> None:
    model = bundled()[name]
    for parameter in model.parameters():
        parameter.data.add_(0.1)
    again = uf.load(uf.save(model, tmp_path / "bundle"))
    assert type(again) is type(model)
    assert json.dumps(again.config()) == json.dumps(model.config())
    assert torch.equal(again.sample(30, stream(0)), model.sample(30, stream(0)))


@pytest.mark.parametrize("make", [classes, average_classes])
def test_an_adapted_network_is_rebuilt_from_its_description(make: Any) -> None:
    net = make(label=1)
    again = build_net(json.loads(json.dumps(net_config(net))))
    assert type(again) is type(net)
    assert net_config(again) == net_config(net)


@pytest.mark.parametrize("name", bundled())
def test_the_owners_network_comes_back_as_it_was_written(name: str) -> None:
    model = bundled()[name]
    found = plain_module(model)
    assert isinstance(found, MLP | Classes | AverageClasses)
    assert sum(p.numel() for p in found.parameters()) == sum(p.numel() for p in model.parameters())


def test_another_law_of_labels_is_another_model() -> None:
    same, other = labelled("flow"), labelled("flow", [0.4, 0.3, 0.3])
    assert sha256_module(same) == sha256_module(labelled("flow"))
    assert sha256_module(same) != sha256_module(other)


def test_a_network_that_cannot_be_described_samples_but_is_not_kept(tmp_path: Path) -> None:
    model = FlowMap(AdaptedAverageVelocity(Reversed(plain_net(2)), (2,), "x, end, start", noise_at=1), (2,))
    after = fit(small(UNLEARNERS["uot"]), problem(model)).model
    assert isinstance(after, FlowMap)
    assert not torch.equal(after.sample(3, stream(0)), model.sample(3, stream(0)))
    with pytest.raises(
        InputError, match=r"got a Reversed that cannot be described in a file.*set net\.config"
    ):
        uf.save(after, tmp_path / "bundle")
    inside: Any = after.net.net
    inside.config = {"builder": f"{__name__}:Reversed", "options": {}}
    assert uf.save(after, tmp_path / "bundle").is_dir()


def test_a_bundle_does_not_run_the_builder_of_the_network_inside_without_consent(tmp_path: Path) -> None:
    net = plain_net(1)
    net.config = {"builder": "colorsys:never_trusted", "options": {}}
    model = Flow(AdaptedVelocity(net, (2,)), (2,))
    assert builders(model.config()) == ["colorsys:never_trusted"]
    with pytest.raises(InputError, match="built by colorsys:never_trusted, which is not part of unflow"):
        uf.load(uf.save(model, tmp_path / "bundle"))
    assert builders(Flow(AdaptedVelocity(plain_net(1), (2,)), (2,)).config()) == []


# What is refused

LINEAR = {"shape": (2,)}
VELOCITIES: list[tuple[nn.Module, dict[str, Any], str]] = [
    (Noise0(), {"noise_at": 2}, "got noise_at=2; expected 0 or 1"),
    (Noise0(), {"time_scale": 0}, "got time_scale=0; expected a finite number > 0"),
    (Noise0(), {"time_scale": float("inf")}, "got time_scale=inf"),
    (Noise0(), {"time_shape": "row"}, "got time_shape='row'; expected one of batch, column, scalar"),
    (Noise0(), {"predicts": "noise"}, "got predicts='noise'; expected 'velocity' or 'data'"),
    (Noise0(), {"arguments": "x"}, 'got arguments="x" without a label; expected "x, t"'),
    (Noise0(), {"arguments": "x, t, x"}, 'got arguments="x, t, x"'),
    (Noise0(), {"arguments": "x, t, label"}, 'got arguments="x, t, label" without a label; expected "x, t"'),
    (Noise0(), {"arguments": "x, start"}, 'expected "x, t"'),
    (Noise0(), {"arguments": "t=t, x"}, "positional ones first, then keywords"),
    (Noise0(), {"arguments": "x, a-b=t"}, "expected the arguments of a call in Python"),
    (Classes(), {"label": 0}, 'got arguments="x, t" with a label; expected "x, t, label"'),
    (Classes(), {"label": -1, "arguments": "x, t, label"}, "got label=-1; expected a class index >= 0"),
    (Classes(), {"label": 1.0, "arguments": "x, t, label"}, "got label=1.0; expected a class index >= 0"),
    (Noise0(), {"null_label": 3}, "got null_label=3 without a label; expected both: write label="),
    (
        Classes(),
        {"label": 1, "guidance": 2, "arguments": "x, t, label"},
        "got guidance=2 without a null label; .*write null_label=",
    ),
    (Noise0(), {"guidance": float("nan")}, "got guidance=nan; expected a finite number"),
    (
        Other(Noise0(), "swapped"),
        {},
        r'the Other does not run as net\(x, t\) with time_shape="batch" \(ValueError: times of shape \[3, 2\]'
        r'\); expected samples of shape \[2\] in and out: write arguments="t, x", time_shape="batch" '
        r"\(in a line call=t/x,time_shape=batch\), with ",
    ),
    (Noise0(1.0, "column"), {}, 'write arguments="x, t", time_shape="column"'),
    (Noise0(1.0, "scalar"), {"arguments": "t, x"}, 'write arguments="x, t", time_shape="scalar"'),
    (nn.Bilinear(2, 1, 4), {}, "check shape, arguments and time_shape$"),
    (
        nn.Bilinear(2, 1, 4),
        {"time_shape": "column"},
        r"does not run as net\(x, t\).*\(it makes \[3, 4\] of \[3, 2\]\); expected samples of shape \[2\]",
    ),
    (Noise0(), {"arguments": "sample=x, timestep=t"}, r"\(TypeError: .*unexpected keyword argument"),
    (
        Classes(),
        {"label": 7, "arguments": "x, t, label"},
        r"not run as net\(x, t, label\).*\(IndexError: .*check shape, arguments and time_shape, and label",
    ),
    (nn.LSTM(2, 2), {}, "check shape, arguments and time_shape"),
    (Other(nn.Sequential(), "object"), {}, "check shape, arguments and time_shape"),
]


@pytest.mark.parametrize("number", range(len(VELOCITIES)))
def test_what_cannot_be_a_velocity_is_refused_in_one_sentence(number: int) -> None:
    net, options, words = VELOCITIES[number]
    with pytest.raises(InputError, match=words) as refused:
        AdaptedVelocity(net, (2,), **options)
    assert "\n" not in str(refused.value)


def test_an_output_that_is_no_tensor_is_refused() -> None:
    class Pair(Noise0):
        def forward(self, x: Tensor, t: Tensor) -> Any:
            return super().forward(x, t), x

    with pytest.raises(
        InputError, match=r"TypeError: it returns a tuple, no tensor and no object whose sample"
    ):
        AdaptedVelocity(Pair(), (2,))


def test_times_that_would_spread_over_the_sample_are_found_on_the_trial() -> None:
    class Spread(nn.Module):
        def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
            return x * t

    for side in (2, 3, 4, 6, 8):
        for guidance in (1.0, 2.0):
            options: dict[str, Any] = {"label": 0, "null_label": 1, "guidance": guidance}
            with pytest.raises(InputError, match=r'does not run .*write arguments=.*, time_shape="column"'):
                AdaptedVelocity(Spread(), (side,), "x, t, label", **options)
            AdaptedVelocity(Spread(), (side,), "x, t, label", time_shape="column", **options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"arguments": "x, start"}, 'expected "x, start, end" or "x, start, span" or "x, end, span", in the'),
        ({"arguments": "x, start, end, span"}, 'got arguments="x, start, end, span"'),
        ({"arguments": "x, t"}, 'got arguments="x, t"'),
        ({"arguments": "start, end, x"}, 'write arguments="x, '),
        ({"label": 1}, 'with a label; expected "x, start, end, label"'),
    ],
)
def test_what_cannot_be_an_average_velocity_is_refused_in_one_sentence(
    options: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        AdaptedAverageVelocity(plain_net(2), (2,), **options)


def test_predicted_data_have_no_velocity_at_1() -> None:
    net = AdaptedVelocity(Data(), (2,), noise_at=1, predicts="data")
    with pytest.raises(InputError, match=r'got t=1 for a network that predicts data.*integrator="midpoint"'):
        Flow(net, (2,), "heun", 4).sample(3, stream(0))
    assert bool(Flow(net, (2,), "euler", 4).sample(3, stream(0)).isfinite().all())


@pytest.mark.parametrize(
    ("shares", "words"),
    [
        ([], r"shape \[0\] that sum to 0"),
        ([0.5, 0.6], r"shape \[2\] that sum to 1.1; expected a list of numbers >= 0 that sum to 1"),
        ([1.5, -0.5], "got class probabilities"),
        ([float("nan"), 1.0], "sum to nan"),
        ([[0.5, 0.5]], r"shape \[1, 2\]"),
        ([0.2] * 5, "the Classes does not run with label 4 .*expected the index of one of its classes"),
    ],
)
def test_what_cannot_be_a_law_of_labels_is_refused(shares: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        Labelled(Flow(classes(), (2,)), shares)


def test_a_model_that_takes_no_label_is_not_labelled() -> None:
    with pytest.raises(
        InputError, match=r"got a network that is called without a label; .*write label=0 and"
    ):
        Labelled(Flow(AdaptedVelocity(Noise0(), (2,)), (2,)), [1.0])
    for model in (Flow(plain_net(1), (2,)), uf.Generator(nn.Identity(), (2,)), labelled("flow")):
        with pytest.raises(InputError, match=f"got a {type(model).__name__} to label; expected a Flow of an"):
            Labelled(model, [1.0])


def test_a_labelled_flow_is_no_teacher() -> None:
    student = FlowMap(plain_net(2), (2,))
    given = dataclasses.replace(problem(student), teacher=labelled("flow"))
    with pytest.raises(InputError, match="got a conditional flow to distil into a model without conditions"):
        Distill().check(given)


def test_adapting_leaves_modes_weights_and_the_global_stream_alone() -> None:
    net = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.BatchNorm1d(2)})

    class Called(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts, self.drop = net, nn.Dropout(0.5)

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return self.drop(self.parts["b"](self.parts["a"](x)))

    called, state = Called(), torch.get_rng_state()
    net["b"].eval()
    before = sha256_module(called)
    AdaptedVelocity(called, (2,))
    assert torch.equal(torch.get_rng_state(), state)
    assert sha256_module(called) == before
    assert (called.training, net["a"].training, net["b"].training) == (True, True, False)
    assert all(p.requires_grad and p.grad is None for p in called.parameters())
