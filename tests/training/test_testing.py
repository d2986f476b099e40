"""Every shipped energy and method obeys the laws in ``unflow.testing``, and broken ones are caught."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import numpy as np
import onnx
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from onnx_models import linear_onnx
from unflow import energies
from unflow.energies import (
    Anchor,
    AnchorLogOdds,
    AttributeLogOdds,
    Balanced,
    BlackBox,
    CallableEnergy,
    ClassLogOdds,
    Decoded,
    Energy,
    EstimatorLogOdds,
    Minimum,
    MixtureLogOdds,
    Negative,
    OnnxLogOdds,
    Region,
    Scaled,
    ScoreLogOdds,
    Softplus,
    Sum,
)
from unflow.ground.errors import InputError
from unflow.ground.streams import stream
from unflow.methods import UNLEARNERS, FineTune
from unflow.models import MODELS, Flow, FlowMap, GenerativeModel, Generator
from unflow.models.autoencoder import Autoencoder
from unflow.models.classifier import Classifier
from unflow.nets import MLP, new_net
from unflow.target import Target
from unflow.training.checks import FAMILIES, check_energy, check_method
from unflow.training.method import Method, Problem, Training
from unflow.training.originals import TRAINERS
from unflow.training.originals.flow_matching import FlowMatching

X = torch.randn(40, 2, generator=stream(0))


def left(x: Tensor) -> Tensor:
    return -2 * x[:, 0]


def up(x: Tensor) -> Tensor:
    return torch.sin(3 * x[:, 1])


def classifier() -> nn.Module:
    net = new_net({"net": "mlp", "shape": (2,), "width": 8, "depth": 1, "num_times": 0, "outputs": 3}, 0)
    assert isinstance(net, MLP)
    nn.init.normal_(net.last.weight, generator=stream(1))
    return nn.Sequential(net, nn.Dropout(0.5))


def autoencoder() -> Autoencoder:
    net = {"net": "conv_autoencoder", "shape": (1, 4, 4), "latent": 2, "width": 8, "depth": 1}
    return Autoencoder(new_net(net, 0))


def estimator() -> LogisticRegression:
    return LogisticRegression().fit(X.numpy(), (X[:, 0] > 0).int() + (X[:, 1] > 0).int())


def onnx_log_odds(fixed: int | None = None) -> OnnxLogOdds:
    weight = torch.randn(2, 3, generator=stream(5)).numpy()
    with TemporaryDirectory() as folder:
        onnx.save(linear_onnx(weight, fixed or "batch"), Path(folder) / "linear.onnx")
        return OnnxLogOdds(Path(folder) / "linear.onnx", [1], margin=2.0)


def chance(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x[:, 0]))


A, B = Softplus(CallableEnergy(left), 1.0), CallableEnergy(up, -1.0)
NEAR = Anchor(nn.Flatten(), torch.tensor([1.0, 0.5]), centre=torch.tensor([-0.1, 0.2]))
BLACK_BOX = CallableEnergy(up, -1.0, differentiable=False)

ENERGIES: dict[str, Energy] = {
    "ClassLogOdds": ClassLogOdds(classifier(), [1], margin=3.0),
    "ClassLogOdds of two classes, raw": ClassLogOdds(classifier(), [0, 2], margin=None),
    "Region": Region(lambda x: x[:, 0] > 0),
    "CallableEnergy": CallableEnergy(left),
    "CallableEnergy of a black box": BLACK_BOX,
    "CallableEnergy of a trainable network": CallableEnergy(nn.Sequential(nn.Linear(2, 1), nn.Flatten(0))),
    "Softplus": A,
    "Softplus of a black box": Softplus(BLACK_BOX),
    "Negative": Negative(A),
    "Scaled": Scaled(A, 2.5),
    "Scaled by 0": Scaled(A, 0.0),
    "Sum": A | B,
    "Sum with a black box": Sum([A, BLACK_BOX]),
    "Minimum": Minimum([A, B]),
    "Decoded": Decoded(CallableEnergy(lambda x: 4 * x.flatten(1).mean(1)), autoencoder()),
    "Decoded region": Decoded(Region(lambda x: x[:, 0, 0, 0] > 0), autoencoder()),
    "Balanced": Balanced(A, classifier(), [1], [0.7, -0.4]),
    "Balanced black box": Balanced(BLACK_BOX, classifier(), [1], [0.7, -0.4]),
    "Anchor": NEAR,
    "Anchor, rbf": Anchor(nn.Flatten(), torch.tensor([1.0, 0.5]), "rbf", radius=0.8),
    "AnchorLogOdds": AnchorLogOdds(NEAR, 0.2, 0.3, margin=1.0),
    "MixtureLogOdds": MixtureLogOdds(
        nn.Flatten(),
        torch.zeros(2),
        torch.eye(2),
        torch.tensor([0.2, 0.8]),
        torch.tensor([[1.0, 0.0], [0.0, 0.5]]),
        torch.eye(2).repeat(2, 1, 1),
        margin=2.0,
    ),
    "AttributeLogOdds": AttributeLogOdds(nn.Linear(2, 3), torch.tensor([1.0, -2.0, 0.5]), 0.1, 2.0),
    "EstimatorLogOdds": EstimatorLogOdds(estimator(), 1, margin=2.0),
    "EstimatorLogOdds, raw": EstimatorLogOdds(estimator(), [0, 2], None, "decision_function"),
    "OnnxLogOdds": onnx_log_odds(),
    "OnnxLogOdds in threes": onnx_log_odds(fixed=3),
    "ScoreLogOdds": ScoreLogOdds(BlackBox(chance), margin=1.0),
    "CallableEnergy of a BlackBox": CallableEnergy(BlackBox(chance, batch_size=7), 0.0, False),
    "Minimum of regions": Region(lambda x: x[:, 0] > 0) & Region(lambda x: x[:, 1] > 0, 5.0),
}


@pytest.mark.parametrize("name", ENERGIES)
def test_energies_obey_their_laws(name: str) -> None:
    check_energy(ENERGIES[name], X)


def test_no_energy_class_is_left_out() -> None:
    members = {
        name
        for name, kind in inspect.getmembers(energies, inspect.isclass)
        if issubclass(kind, Energy) and kind is not Energy and not name.startswith("_")
    }
    members -= {"ConditionEnergy"}  # it reads no sample
    assert members == {type(energy).__name__ for energy in ENERGIES.values()}


def test_one_sample_is_too_few() -> None:
    with pytest.raises(InputError, match="got 1 samples"):
        check_energy(A, X[:1])


NOISE = stream(7)


@dataclass(frozen=True)
class Claims:
    """The properties that a broken energy claims to have."""

    function: Callable[[Tensor], Tensor]
    lower_bound: float = -math.inf
    differentiable: bool = True
    words: str = "broken"


class Broken(Energy):
    """An energy that is only what it claims to be."""

    def __init__(self, claims: Claims) -> None:
        super().__init__()
        self.claims = claims
        self.weight = nn.Parameter(torch.ones(()), requires_grad=False)

    @property
    def lower_bound(self) -> float:
        return self.claims.lower_bound

    @property
    def differentiable(self) -> bool:
        return self.claims.differentiable

    def forward(self, x: Tensor) -> Tensor:
        return self.claims.function(x)

    def describe(self) -> str:
        return self.claims.words


class NoSlope(torch.autograd.Function):
    """left(x) with a gradient of the wrong sign."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return left(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return torch.stack([2 * grad, 0 * grad], dim=1)


@pytest.mark.parametrize(
    ("claims", "law"),
    [
        (Claims(lambda x: x), "one number per sample"),
        (Claims(lambda x: left(x).log()), "is finite"),
        (Claims(lambda x: left(x) + torch.rand(len(x), generator=NOISE)), "deterministic"),
        (Claims(lambda x: left(x - x.mean(0))), "x_i alone.* one by one"),
        (Claims(lambda x: left(x) + torch.arange(len(x)).clamp(max=1)), "x_i alone"),
        (Claims(left, lower_bound=0.0), "F.x. >= lower_bound"),
        (Claims(left, lower_bound=math.nan), "a number or -inf"),
        (Claims(left, words=" "), "has words"),
        (Claims(lambda x: left(x).detach()), "slope .*without gradient"),
        (Claims(NoSlope.apply), "the slope in 0%"),
        (Claims(lambda x: left(x).round()), "0 everywhere for values that differ"),
        (Claims(left, differentiable=False), "has no gradient"),
        (Claims(lambda x: left(x) + 0 * torch.rand(1)), "global random stream"),
        (Claims(lambda x: left(x.mul_(1.01))), "determ"),
    ],
)
def test_broken_energies_are_caught(claims: Claims, law: str) -> None:
    with pytest.raises(AssertionError, match=law):
        check_energy(Broken(claims), X.clone())


def test_an_energy_that_collects_gradients_or_changes_itself_is_caught() -> None:
    energy = Broken(Claims(left))
    energy.claims = Claims(lambda x: energy.weight * left(x))
    check_energy(energy, X)
    energy.weight.requires_grad_(True)
    with pytest.raises(AssertionError, match=r"leaves everything else alone \(the energy\): got other gradi"):
        check_energy(energy, X)
    energy.weight.requires_grad_(False)
    energy.claims = Claims(lambda x: left(x + 0 * energy.weight.add_(1)))
    with pytest.raises(AssertionError, match="got other weights"):
        check_energy(energy, X)


# Methods

STEPS, ROWS = 12, 16


def velocity(num_times: int) -> nn.Module:
    net = new_net({"net": "mlp", "shape": (2,), "width": 8, "depth": 1, "num_times": num_times}, 0)
    assert isinstance(net, MLP)
    nn.init.normal_(net.last.weight, std=0.1, generator=stream(2))
    return net


def model_of(family: str) -> GenerativeModel:
    """A model as it comes from a bundle, in evaluation mode and without gradients."""
    models = {
        "flow": lambda: Flow(velocity(1), (2,), steps=2),
        "flow_map": lambda: FlowMap(velocity(2), (2,)),
        "generator": lambda: Generator(velocity(0), (2,)),
    }
    return models[family]().eval().requires_grad_(False)


def problem_of(family: str) -> Problem:
    model, rows = model_of(family), torch.randn(64, 2, generator=stream(3))
    return Problem(
        model=model,
        target=Target(model, Softplus(CallableEnergy(left))),
        data=rows,
        labels=torch.arange(64) % 3,
        retain=rows + 1,
        forget=rows - 1,
        teacher=model_of("flow"),
        held_out=rows / 2,
    )


SMALL = {"steps": STEPS, "batch_size": ROWS, "bank_size": 128, "block_size": 64, "width": 8, "depth": 1}


def small(method: Method) -> Method:
    """The same method with few steps, small batches and banks."""
    names = {field.name for field in dataclasses.fields(method)}
    return dataclasses.replace(method, **{k: v for k, v in SMALL.items() if k in names})


SPECIAL = ("classification", "autoencoding")
"""Trainers of what is no generative model."""
MEMBERS = {
    **{name: method for name, method in UNLEARNERS.items() if not method.needs_conditional},
    **{name: method for name, method in TRAINERS.items() if name not in SPECIAL},
}
CASES = [(name, family) for name, method in MEMBERS.items() for family in sorted(method.families)]


@pytest.mark.usefixtures("short_start")
@pytest.mark.parametrize(("name", "family"), CASES)
def test_methods_obey_their_laws(name: str, family: str, tmp_path: Path) -> None:
    check_method(small(MEMBERS[name]), problem_of(family), tmp_path)


def test_classification_obeys_the_laws(tmp_path: Path) -> None:
    images = torch.randn(64, 1, 4, 4, generator=stream(4))
    net = new_net({"net": "mlp", "shape": (1, 4, 4), "width": 8, "depth": 1, "num_times": 0, "outputs": 3}, 0)
    model = Classifier(net, ["a", "b", "c"])
    problem = Problem(model=model, data=images, labels=torch.arange(64) % 3)
    check_method(small(TRAINERS["classification"]), problem, tmp_path)


@pytest.mark.parametrize("options", [{}, {"flip": True, "noise": 0.0}])
def test_autoencoding_obeys_the_laws(options: dict[str, Any], tmp_path: Path) -> None:
    method = dataclasses.replace(small(TRAINERS["autoencoding"]), **options)
    images = torch.randn(64, 1, 4, 4, generator=stream(4)).tanh()
    check_method(method, Problem(model=autoencoder(), data=images), tmp_path)


PLANNED = [name for name, method in MEMBERS.items() if getattr(method, "coupling", "") == "independent"]


@pytest.mark.parametrize("name", [name for name in PLANNED if not name.startswith("erfm")])
def test_methods_that_plan_their_pairs_obey_the_laws(name: str, tmp_path: Path) -> None:
    method: Any = small(MEMBERS[name])
    method = dataclasses.replace(method, coupling="exact_ot")
    check_method(method, problem_of("flow"), tmp_path)


def test_families_are_those_of_models_and_not_what_wraps_a_model() -> None:
    assert {kind.family for kind in MODELS.values() if hasattr(kind, "family")} == FAMILIES


@pytest.mark.usefixtures("short_start")
@pytest.mark.parametrize(("name", "family"), CASES)
def test_a_model_in_training_mode_stays_in_it(name: str, family: str, tmp_path: Path) -> None:
    problem = problem_of(family)
    problem.model.train().requires_grad_(True)
    check_method(small(MEMBERS[name]), problem, tmp_path)


# Broken methods: flow matching that breaks one law


@dataclass(frozen=True, kw_only=True)
class Undocumented(FlowMatching):
    """Flow matching."""

    flavour: float = 0.0


@dataclass(frozen=True, kw_only=True)
class NotPlain(FlowMatching):
    """Flow matching in some `precision`."""

    precision: torch.dtype = torch.float32


@dataclass(frozen=True)
class Positional(FlowMatching):
    """Flow matching with a `flavour`."""

    flavour: float = 0.0


class Undecorated(FlowMatching):
    """Flow matching."""


@dataclass(frozen=True, kw_only=True)
class UnknownNeed(FlowMatching):
    """Flow matching."""

    needs: ClassVar[frozenset[str]] = frozenset({"images"})


@dataclass(frozen=True, kw_only=True)
class UnknownFamily(FlowMatching):
    """Flow matching."""

    families: ClassVar[frozenset[str]] = frozenset({"flow", "gan"})


@dataclass(frozen=True, kw_only=True)
class Unchecked(FlowMatching):
    """Flow matching."""

    def check(self, problem: Problem) -> None:
        """Refuse nothing."""


@dataclass(frozen=True, kw_only=True)
class SmallBatch(FlowMatching):
    """Flow matching."""

    def draw(self, prepared: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        batch = super().draw(prepared, generator)
        return batch | {"t": batch["t"][1:]}


@dataclass(frozen=True, kw_only=True)
class GlobalRandomness(FlowMatching):
    """Flow matching."""

    def draw(self, prepared: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        batch = super().draw(prepared, generator)
        return batch | {"t": torch.rand_like(batch["t"])}


@dataclass(frozen=True, kw_only=True)
class InPlace(FlowMatching):
    """Flow matching."""

    def init(self, problem: Problem, prepared: dict[str, Tensor], seed: int) -> Any:
        parts = super().init(problem, prepared, seed)
        model: Any = problem.model
        nn.init.ones_(model.net.last.bias)
        return parts


@dataclass(frozen=True, kw_only=True)
class Silent(FlowMatching):
    """Flow matching."""

    def step(self, parts: Any, batch: dict[str, Tensor], descend: Any, progress: float) -> dict[str, Tensor]:
        super().step(parts, batch, descend, progress)
        return {}


COUNT = [0]


@dataclass(frozen=True, kw_only=True)
class Counting(FlowMatching):
    """Flow matching with a memory beside the seed."""

    def step(self, parts: Any, batch: dict[str, Tensor], descend: Any, progress: float) -> dict[str, Tensor]:
        COUNT[0] += 1
        batch["x1"] = batch["x1"] + COUNT[0] / 100
        return super().step(parts, batch, descend, progress)


@dataclass(frozen=True, kw_only=True)
class Forgetful(FlowMatching):
    """Flow matching with a memory that is not in the checkpoint."""

    def init(self, problem: Problem, prepared: dict[str, Tensor], seed: int) -> Any:
        COUNT[0] = 0
        return super().init(problem, prepared, seed)

    def step(self, parts: Any, batch: dict[str, Tensor], descend: Any, progress: float) -> dict[str, Tensor]:
        COUNT[0] += 1
        batch["x1"] = batch["x1"] + COUNT[0]
        return super().step(parts, batch, descend, progress)


@dataclass(frozen=True, kw_only=True)
class BareNet(FlowMatching):
    """Flow matching."""

    def result(self, problem: Problem, parts: Any) -> nn.Module:
        return parts["velocity"].average


@dataclass(frozen=True, kw_only=True)
class Short(FineTune):
    """Fine-tuning that loses its own number of steps."""

    def training(self, problem: Problem, seed: int) -> tuple[Training, Problem]:
        loop, problem = super().training(problem, seed)
        return dataclasses.replace(loop, steps=5), problem


@pytest.mark.parametrize(
    ("kind", "law"),
    [
        (Undocumented, "docstring names every hyper-parameter: got nothing about flavour"),
        (NotPlain, "plain data with defaults"),
        (Positional, r"positional fields \['flavour'\]"),
        (Undecorated, "no decorator on Undecorated"),
        (UnknownNeed, r"needs are fields of Problem: got \['images'\]"),
        (UnknownFamily, "families are known names"),
        (Unchecked, "no InputError without data"),
        (SmallBatch, "batch_size rows: got 15 in 't'; expected 16"),
        (GlobalRandomness, "torch's global random stream"),
        (InPlace, r"\(the original model\): got other weights"),
        (Silent, "at least one loss"),
        (Counting, "the same seed gives the same bits"),
        (Forgetful, "stopped and resumed"),
        (BareNet, "a model like the original"),
        (Short, "steps and batch_size: got .5, 16.; expected .12, 16."),
    ],
)
def test_broken_methods_are_caught(kind: Any, law: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=law):
        check_method(kind(steps=STEPS, batch_size=ROWS), problem_of("flow"), tmp_path)


def test_a_training_that_cannot_be_stopped_in_the_middle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="got steps=3 to check; expected 4 or more"):
        check_method(FlowMatching(steps=3, batch_size=ROWS), problem_of("flow"), tmp_path)
