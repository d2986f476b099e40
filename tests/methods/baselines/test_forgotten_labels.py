"""ESD and concept ablation: which labels are forgotten, the optimum of each loss, small runs, bad input."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import unflow as uf
from unflow.energies import CallableEnergy, ConditionEnergy
from unflow.ground.errors import InputError
from unflow.ground.streams import stream
from unflow.methods import ESD, UNLEARNERS, ConceptAblation
from unflow.methods.baselines.concept_ablation import AblationLoss
from unflow.methods.baselines.esd import ErasureLoss
from unflow.methods.baselines.forgotten_labels import find_anchors, find_forgotten, measure_acceptance
from unflow.models import Chain, Conditional, Flow, FlowMap, Generator
from unflow.nets import MLP, AdaptedAverageVelocity, AdaptedGenerator, AdaptedVelocity
from unflow.target import Target
from unflow.training.checks import check_method
from unflow.training.loop import fit
from unflow.training.method import Problem

K, FORGET = 4, 1
CENTRES = torch.tensor([[2.0, 0.0], [0.0, 2.0], [-2.0, -0.5], [0.0, -3.0], [0.0, 0.0]])
"""Of four labels and the null condition. Centre 0 is the nearest one to the forgotten 1."""
SHARES = [0.4, 0.3, 0.2, 0.1]


class Table(nn.Module):
    """v = a row of a table for each label, which is the centre of its samples x = z + row."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Parameter(CENTRES.clone())

    def forward(self, x: Tensor, *arguments: Tensor) -> Tensor:
        return self.rows[arguments[-1]] + 0 * x


def flow(null: int | None = K) -> Conditional:
    net = AdaptedVelocity(Table(), (2,), "x, t, label", label=0, null_label=null)
    return Conditional(Flow(net, (2,), "euler", 2), SHARES)


def one_step() -> Conditional:
    net = AdaptedAverageVelocity(Table(), (2,), "x, start, end, label", label=0)
    return Conditional(FlowMap(net, (2,)), SHARES)


def gan() -> Conditional:
    return Conditional(Generator(AdaptedGenerator(Table(), (2,)), (2,)), SHARES)


def rejects(x: Tensor) -> Tensor:
    """The acceptance is exp(-6) above the line y = 1 and 1 below it."""
    return 6.0 * (x[:, 1] > 1)


def target_of(model: Conditional, energy: Any = None, **options: Any) -> Target:
    return Target(model, energy or ConditionEnergy([FORGET]), **options)


def rows(model: Any) -> Tensor:
    found: Tensor = model.inner.net.net.rows.detach()
    return found


OPTIONS: dict[str, Any] = {"steps": 300, "batch_size": 32, "learning_rate": 0.2, "average": 0.5}


# Labels


@pytest.mark.parametrize("model", [flow(), one_step(), gan()])
def test_the_acceptance_of_a_label_is_that_of_its_samples_and_the_least_accepted_is_forgotten(
    model: Conditional,
) -> None:
    """P(N(m, 1) > 1) of samples are kept with exp(-6); a generator of the table draws the row itself."""
    target = target_of(model, CallableEnergy(rejects, 0.0))
    found = measure_acceptance(target, stream(1))
    spread = 0.0 if model.family == "generator" else 1.0
    for k in range(K):
        above = 0.5 * math.erfc((1 - float(CENTRES[k, 1])) / 2**0.5) if spread else float(CENTRES[k, 1] > 1)
        assert found[k] == pytest.approx(1 - above * (1 - math.exp(-6)), abs=0.1)
    assert find_forgotten(target, stream(1)) == [FORGET]


def test_the_labels_of_a_condition_energy_are_forgotten_as_they_are() -> None:
    assert find_forgotten(target_of(flow(), ConditionEnergy([2, 0])), stream(1)) == [0, 2]


def test_the_anchor_is_the_named_label_then_that_of_the_replacement_then_the_nearest() -> None:
    model = flow()
    assert find_anchors(target_of(model), [1, 2], None, stream(1)) == {1: 0, 2: 3}
    assert find_anchors(target_of(model, replace="label:3"), [1], None, stream(1)) == {1: 3}
    assert find_anchors(target_of(model, replace="label:3"), [1, 0], 2, stream(1)) == {1: 2, 0: 2}


@pytest.mark.parametrize(("label", "words"), [(FORGET, "which the request forgets"), (7, "does not draw")])
def test_an_anchor_that_is_forgotten_or_unknown_is_refused(label: int, words: str) -> None:
    with pytest.raises(
        InputError, match=rf"got label {label}, .*{words}.*expected a retained label: one of 0"
    ):
        fit(ConceptAblation(**OPTIONS, anchor=label), Problem(model=flow(), target=target_of(flow())))


@pytest.mark.parametrize(
    ("height", "words"),
    [
        (0.3, r"keeps at least \d+ % .*write --energy label:\d"),
        (9.0, "rejects more than 50 % .*expected a label"),
    ],
)
@pytest.mark.parametrize("method", [ESD(**OPTIONS), ConceptAblation(**OPTIONS)])
def test_a_request_that_forgets_no_label_or_all_is_refused(height: float, words: str, method: Any) -> None:
    energy = CallableEnergy(lambda x: height + 0.01 * x[:, 0].square(), 0.0)
    with pytest.raises(InputError, match=words):
        fit(method, Problem(model=flow(), target=target_of(flow(), energy)))


# ESD


@pytest.mark.parametrize("eta", [0.0, 1.0, 2.5])
def test_the_optimum_of_esd_is_the_null_velocity_minus_eta_times_the_guidance(eta: float) -> None:
    """v is a table, so the forgotten row becomes null - eta (c - null), and no other row moves."""
    model = flow()
    result = fit(ESD(**OPTIONS, eta=eta), Problem(model=model, target=target_of(model)), seed=1).model
    after, expected = rows(result), CENTRES.clone()
    expected[FORGET] = CENTRES[K] - eta * (CENTRES[FORGET] - CENTRES[K])
    torch.testing.assert_close(after, expected, atol=2e-3, rtol=0)
    assert torch.equal(after[[0, 2, 3, 4]], CENTRES[[0, 2, 3, 4]])
    assert torch.equal(rows(model), CENTRES)


def test_the_loss_of_esd_at_the_original_is_that_of_the_formula() -> None:
    """||c - null + eta (c - null)||^2 / 2, plus ``retain`` times 0."""
    original = flow().inner
    assert isinstance(original, Flow)
    assert isinstance(original.net, AdaptedVelocity)
    z, t, label = torch.zeros(3, 2), torch.rand(3), torch.full((3,), FORGET)
    loss = ErasureLoss(original.net, original, K, 0.5, 3.0, 7.0)
    assert loss(z, t, label).item() == pytest.approx(1.5**2 * 4 / 2)
    assert loss(z, t, label, z, t, label * 2).item() == pytest.approx(1.5**2 * 4 / 2)


def test_points_lie_on_the_guided_trajectory_of_each_rows_own_time() -> None:
    """x_t = z + t (null + 3 (c - null)) for a velocity that depends on the label alone."""
    original = flow().inner
    assert isinstance(original, Flow)
    assert isinstance(original.net, AdaptedVelocity)
    z, t, label = torch.randn(5, 2, generator=stream(1)), torch.linspace(0, 1, 5), torch.arange(5) % K
    found = ErasureLoss(original.net, original, K, 1.0, 3.0, 0.0).trace(z, t, label)
    torch.testing.assert_close(found, z + t[:, None] * 3 * CENTRES[label])


def test_the_retention_term_pulls_the_other_labels_and_the_null_condition_back() -> None:
    original, net = flow().inner, flow().inner
    assert isinstance(original, Flow)
    assert isinstance(net, Flow)
    assert isinstance(net.net, AdaptedVelocity)
    table: Any = net.net.net
    with torch.no_grad():
        table.rows += 1.0
    loss = ErasureLoss(net.net, original, K, 0.0, 1.0, 2.0)
    z, t = torch.zeros(2, 2), torch.rand(2)
    loss(z, t, torch.tensor([1, 1]), z, t, torch.tensor([0, K])).backward()
    assert [bool(g.any()) for g in table.rows.grad] == [True, True, False, False, True]
    torch.testing.assert_close(table.rows.grad[0], torch.full((2,), 2.0 * 2 / 2 / 2))


def test_esd_draws_retained_rows_only_with_a_weight_for_them() -> None:
    method, problem = ESD(**OPTIONS), Problem(model=flow(), target=target_of(flow()))
    prepared = method.prepare(problem, stream(1))
    assert set(method.draw(prepared, stream(2))) == {"z", "t", "label"}
    batch = ESD(**(OPTIONS | {"batch_size": 4000}), retain=1.0).draw(prepared, stream(2))
    assert set(batch["label"].tolist()) == {FORGET}
    share = torch.bincount(batch["retain/label"], minlength=K + 1).double() / 4000
    expected = torch.tensor([0.9 * 4 / 7, 0, 0.9 * 2 / 7, 0.9 / 7, 0.1])
    torch.testing.assert_close(share, expected.double(), atol=0.03, rtol=0)


def test_esd_refuses_a_model_without_a_null_condition_and_a_chain() -> None:
    model = flow(null=None)
    with pytest.raises(InputError, match=r"without a null condition for ESD.*write null=10"):
        ESD().check(Problem(model=model, target=target_of(model)))
    chained = Conditional(Chain(flow().inner, Flow(MLP((2,), 8, 1), (2,), steps=2)), SHARES, null=K)
    for method in (ESD(), ConceptAblation()):
        with pytest.raises(InputError, match=r"got a chained .* expected a Flow"):
            method.check(Problem(model=chained, target=target_of(chained)))


# Concept ablation


@pytest.mark.parametrize("make", [flow, one_step, gan])
@pytest.mark.parametrize(("replace", "anchor"), [("retained", 0), ("label:3", 3)])
def test_the_optimum_of_concept_ablation_gives_the_anchors_output(
    make: Any, replace: str, anchor: int
) -> None:
    """With the same noise, and without regularisation no other label moves."""
    model = make()
    problem = Problem(model=model, target=target_of(model, replace=replace))
    options = OPTIONS | {"bank_size": 512}
    result: Any = fit(ConceptAblation(**options, regularisation=0.0), problem, seed=1).model
    z = model.prior(50, stream(4))
    torch.testing.assert_close(
        result.push(model.ask(z, FORGET)), model.push(model.ask(z, anchor)), atol=3e-3, rtol=0
    )
    others = [k for k in range(len(CENTRES)) if k != FORGET]
    after = result.inner.net.net.rows.detach()
    assert torch.equal(after[others], CENTRES[others])


def test_the_regularisation_is_flow_matching_on_the_anchor() -> None:
    net = flow().inner.net
    assert isinstance(net, AdaptedVelocity)
    x0, x1, t = torch.zeros(4, 2), torch.ones(4, 2), torch.rand(4)
    label, anchor = torch.full((4,), FORGET), torch.zeros(4, dtype=torch.long)
    first = float((CENTRES[FORGET] - CENTRES[0]).square().mean())
    second = float((CENTRES[0] - 1).square().mean())
    for weight in (0.0, 2.0):
        found = AblationLoss(net, net, weight)(x0, x1, t, label, anchor)
        assert found.item() == pytest.approx(first + weight * second)


def test_a_network_that_predicts_data_is_held_by_the_error_of_its_predictions() -> None:
    """The error of its velocity would count (1 - t)^-2 times as much."""
    net = AdaptedVelocity(Table(), (2,), "x, t, label", label=0, null_label=K, predicts="data")
    x, t = torch.randn(4, 2), torch.tensor([0.0, 0.5, 0.9, 0.999])
    label, anchor = torch.full((4,), FORGET), torch.zeros(4, dtype=torch.long)
    error = (CENTRES[FORGET] - CENTRES[0]).square().mean()
    found = AblationLoss(net, net, 0.0)(x, x, t, label, anchor)
    assert found.item() == pytest.approx(error.item(), rel=1e-3)


def test_two_forgotten_labels_learn_each_its_own_anchor() -> None:
    model = one_step()
    method = ConceptAblation(**OPTIONS, bank_size=512)
    prepared = method.prepare(
        Problem(model=model, target=target_of(model, ConditionEnergy([1, 3]))), stream(1)
    )
    pairs = {tuple(pair) for pair in torch.stack([prepared["label"], prepared["anchor"]], 1).tolist()}
    assert pairs == {(1, 0), (3, 2)}
    torch.testing.assert_close(prepared["y"], model.push(prepared["z_a"]))
    assert torch.equal(model.conditions(prepared["z_c"]), prepared["label"])
    assert torch.equal(prepared["z_a"][:, :-1], prepared["z_c"][:, :-1])


# Both


LABEL_ROWS = [
    (name, family) for name, m in UNLEARNERS.items() if m.needs_conditional for family in sorted(m.families)
]
READ_TARGET = [(name, family) for name, family in LABEL_ROWS if "target" in UNLEARNERS[name].needs]
"""All but the retrained model, which has a file of its own."""
MODELS = {"flow": flow, "flow_map": one_step, "generator": gan}


@pytest.mark.parametrize(("name", "family"), READ_TARGET)
def test_methods_that_forget_labels_obey_the_laws_of_methods(name: str, family: str, tmp_path: Any) -> None:
    kind: Any = type(UNLEARNERS[name])
    known = {each.name for each in dataclasses.fields(kind)}
    options = {"steps": 4, "batch_size": 8, "bank_size": 64}
    method = kind(**{key: value for key, value in options.items() if key in known})
    model = MODELS[family]()
    check_method(method, Problem(model=model, target=target_of(model), teacher=flow()), tmp_path)


@pytest.mark.parametrize(("name", "family"), LABEL_ROWS)
def test_a_model_without_conditions_is_refused_before_training(name: str, family: str) -> None:
    plain: Any = {
        "flow": Flow(MLP((2,), 8, 1), (2,)),
        "flow_map": FlowMap(MLP((2,), 8, 1, num_times=2), (2,)),
        "generator": Generator(nn.Linear(2, 2), (2,)),
    }[family]
    with pytest.raises(
        InputError, match=r"got a model without conditions for .*expected a conditional model"
    ):
        uf.unlearn(uf.Target(plain, CallableEnergy(rejects, 0.0)), name)


@pytest.mark.parametrize(
    ("method", "options"),
    [(ESD, {"eta": -1.0}), (ESD, {"retain": math.nan}), (ConceptAblation, {"regularisation": -2.0})],
)
def test_a_weight_below_zero_is_refused(method: Any, options: dict[str, float]) -> None:
    with pytest.raises(InputError, match=r"got .*expected a finite number >= 0"):
        method(**options)


def test_an_infinite_guidance_of_the_trajectories_is_refused() -> None:
    with pytest.raises(InputError, match="got guidance=inf; expected a finite number"):
        ESD(guidance=math.inf)
