"""Conditional one-step models: the exact mean map of Gaussian classes at a guidance scale, and small runs."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gaussians import CENTRES, MIDDLE, SHARES, Gaussians, Velocities, draw_labelled
from unflow.ground.errors import InputError
from unflow.ground.streams import stream
from unflow.models import Conditional, Flow, FlowMap
from unflow.nets import AdaptedAverageVelocity, AdaptedVelocity, new_net
from unflow.training.checks import check_method
from unflow.training.loop import fit
from unflow.training.losses import ConditionalMeanFlowLoss, JumpLoss, MeanFlowLoss
from unflow.training.method import Method, Problem
from unflow.training.originals import Distill, MeanFlow

K, N, NULL = 3, 6000, 3


def mean_map(null: int | None = NULL) -> Conditional:
    """A one-step model that has not learned any centre yet."""
    net = AdaptedAverageVelocity(Gaussians(torch.zeros(K + 1, 2)), (2,), "x, start, end, label", label=0)
    return Conditional(FlowMap(net, (2,)), SHARES, null)


def teacher(null: int | None = NULL, guidance: float = 1.0) -> Conditional:
    centres = torch.cat([CENTRES, MIDDLE[None]])
    if null == 0:  # its classes are 1, 2 and 3
        centres = centres.roll(1, 0)
    net = AdaptedVelocity(Velocities(centres), (2,), "x, t, label", label=0, null_label=null)
    return Conditional(Flow(net, (2,), "midpoint", 32), SHARES, null, guidance)


def exact(guidance: float) -> Tensor:
    """The centres of the flows of v_null + g (v_c - v_null): M_0 + g (M_c - M_0), and M_0 for null."""
    return torch.cat([MIDDLE + guidance * (CENTRES - MIDDLE), MIDDLE[None]])


def learned(model: nn.Module) -> Tensor:
    assert isinstance(model, Conditional)
    assert isinstance(model.inner, FlowMap)
    found: Any = model.inner.net
    return found.net.centres.detach()


# Laws


@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_mean_flow_learns_the_exact_map_of_each_condition_at_the_guidance(guidance: float) -> None:
    x, label = draw_labelled(N)
    method = MeanFlow(
        steps=200,
        batch_size=512,
        learning_rate=0.2,
        average=0.95,
        power=0.0,
        guidance=guidance,
        null_share=0.3,
    )
    model = fit(method, Problem(model=mean_map(), data=x, labels=label)).model
    torch.testing.assert_close(learned(model), exact(guidance), atol=0.2, rtol=0)
    assert isinstance(model, Conditional)
    assert (model.num_evaluations, model.guidance, model.null) == (1, 1.0, NULL)
    for c in range(K):
        mean = model.sample(4000, stream(3), label=c).mean(0)
        torch.testing.assert_close(mean, exact(guidance)[c], atol=0.2, rtol=0)


@pytest.mark.parametrize(("own", "given", "guidance"), [(1.0, None, 1.0), (1.0, 2.5, 2.5), (2.5, None, 2.5)])
def test_distillation_learns_the_teacher_at_the_given_guidance_or_else_at_its_own(
    own: float, given: float | None, guidance: float
) -> None:
    method = Distill(
        steps=300,
        batch_size=256,
        bank_size=2048,
        learning_rate=0.2,
        average=0.9,
        guidance=given,
        null_share=0.2,
    )
    model = fit(method, Problem(model=mean_map(), teacher=teacher(guidance=own))).model
    torch.testing.assert_close(learned(model), exact(guidance), atol=0.005, rtol=0)


def test_the_null_condition_of_a_teacher_may_have_another_index() -> None:
    """Its classes are 1 to 3 and 0 means none; the model's are the same, and 4 means none."""
    net = AdaptedAverageVelocity(Gaussians(torch.zeros(K + 2, 2)), (2,), "x, start, end, label", label=1)
    model = Conditional(FlowMap(net, (2,)), [0.0, *SHARES], 4)
    other = teacher(null=0)
    asked = Conditional(other.inner, [0.0, *SHARES], 0)
    method = Distill(steps=300, batch_size=256, bank_size=2048, learning_rate=0.2, average=0.9, guidance=2.0)
    found = learned(fit(method, Problem(model=model, teacher=asked)).model)
    torch.testing.assert_close(found[1:], exact(2.0), atol=0.005, rtol=0)


def test_at_guidance_1_the_loss_is_mean_flow_at_the_labels() -> None:
    net = AdaptedAverageVelocity(Gaussians(torch.randn(K + 1, 2)), (2,), "x, start, end, label", label=0)
    x0, x1, start = torch.randn(8, 2), torch.randn(8, 2), torch.rand(8)
    end, label = start + (1 - start) * torch.rand(8), torch.arange(8) % (K + 1)
    found = ConditionalMeanFlowLoss(net, NULL, 1.0)(x0, x1, label, start, end)
    torch.testing.assert_close(found, MeanFlowLoss(net.with_labels(label))(x0, x1, start, end))


def test_guidance_moves_the_target_of_a_condition_and_not_that_of_null() -> None:
    net = AdaptedAverageVelocity(Gaussians(torch.randn(K + 1, 2)), (2,), "x, start, end, label", label=0)
    x, v, t = torch.randn(4, 2), torch.randn(4, 2), torch.rand(4)
    label = torch.tensor([0, NULL, 2, NULL])
    v_null = net.with_labels(torch.full((4,), NULL))(x, t, t)
    found = ConditionalMeanFlowLoss(net, NULL, 3.0).guide(x, v, label, t)
    torch.testing.assert_close(found[::2], (3 * v - 2 * v_null)[::2])
    assert torch.equal(found[1::2], v[1::2])
    assert not found.requires_grad


@torch.no_grad()
def test_a_perfect_conditional_map_has_no_distillation_loss() -> None:
    centres = torch.randn(K + 1, 2)
    net = AdaptedAverageVelocity(Gaussians(centres), (2,), "x, start, end, label", label=0)
    z, label = torch.randn(12, 2), torch.arange(12) % K
    start, end = torch.rand(12) / 2, 0.5 + torch.rand(12) / 2
    x_s = z + start[:, None] * net.with_labels(label)(z, torch.zeros(12), start)
    x_e = z + end[:, None] * net.with_labels(label)(z, torch.zeros(12), end)
    assert float(JumpLoss(net)(x_s, x_e, start, end, label)) < 1e-9
    assert float(JumpLoss(net)(x_s, x_e, start, end, (label + 1) % K)) > 0.1


# Networks


NET = {"net": "mlp", "shape": [2], "width": 8, "depth": 1, "num_classes": K}


def mlp_map() -> Conditional:
    net = new_net({**NET, "num_times": 2}, 0)
    adapted = AdaptedAverageVelocity(net, (2,), "x, start, end, label", label=0)
    return Conditional(FlowMap(adapted, (2,)), SHARES, NULL)


def mlp_flow() -> Conditional:
    net = new_net({**NET, "num_times": 1}, 1)
    for weight in net.parameters():
        nn.init.normal_(weight, std=0.3, generator=stream(4))
    adapted = AdaptedVelocity(net, (2,), "x, t, label", label=0, null_label=NULL)
    return Conditional(Flow(adapted, (2,), "euler", 2), SHARES)


def test_a_student_starts_at_the_velocity_of_its_teacher_at_each_label() -> None:
    flow, method = mlp_flow(), Distill(steps=2, batch_size=4, bank_size=8)
    problem = Problem(model=mlp_map(), teacher=flow)
    net: Any = method.init(problem, method.prepare(problem, stream(0)), 0)["velocity"].net
    x, t, label = torch.randn(8, 2), torch.rand(8), torch.arange(8) % (K + 1)
    velocity: Any = flow.inner.net
    found, expected = net.with_labels(label)(x, t, torch.rand(8)), velocity.unguided(label)(x, t)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("kind", [MeanFlow, Distill])
def test_a_conditional_training_obeys_the_laws_of_methods(kind: Any, tmp_path: Path) -> None:
    x, label = draw_labelled(64)
    options: dict[str, Any] = {"steps": 12, "batch_size": 16, "guidance": 2.0, "average": 0.9}
    options |= {"bank_size": 64} if kind is Distill else {}
    problem = Problem(model=mlp_map(), data=x, labels=label, teacher=mlp_flow())
    check_method(kind(**options), problem, tmp_path)


# Bad input


X, LABEL = draw_labelled(64)
PLAIN = Flow(new_net({"net": "mlp", "shape": [2], "width": 8, "depth": 1}, 0), (2,))
PLAIN_MAP = FlowMap(new_net({"net": "mlp", "shape": [2], "width": 8, "depth": 1, "num_times": 2}, 0), (2,))
DATA = Problem(model=mean_map(), data=X, labels=LABEL)
TAUGHT = Problem(model=mean_map(), teacher=teacher())
REFUSED: dict[str, tuple[Method, Problem, str]] = {
    "data without labels": (MeanFlow(), dataclasses.replace(DATA, labels=None), "got data without labels"),
    "unknown label": (MeanFlow(), dataclasses.replace(DATA, labels=LABEL + 1), "got the label 3 for a model"),
    "guidance without conditions": (
        MeanFlow(guidance=2.0),
        dataclasses.replace(DATA, model=PLAIN_MAP),
        "got guidance=2 for a model without conditions",
    ),
    "guidance without null": (
        MeanFlow(guidance=2.0),
        dataclasses.replace(DATA, model=mean_map(None)),
        "got guidance=2 for a model without a null condition",
    ),
    "guidance of a teacher without null": (
        Distill(guidance=2.0),
        Problem(model=mean_map(None), teacher=teacher(None)),
        "got guidance=2 for a teacher without a null condition",
    ),
    "guidance of a teacher without conditions": (
        Distill(guidance=2.0),
        Problem(model=PLAIN_MAP, teacher=PLAIN),
        "got guidance=2 for a teacher without conditions",
    ),
    "a conditional teacher of another model": (
        Distill(),
        dataclasses.replace(TAUGHT, model=PLAIN_MAP),
        "expected a conditional model: write --conditional true",
    ),
    "a teacher without conditions": (
        Distill(),
        dataclasses.replace(TAUGHT, teacher=PLAIN),
        "got a teacher without conditions for a conditional model",
    ),
    "a teacher without a label": (
        Distill(),
        dataclasses.replace(TAUGHT, teacher=Conditional(teacher().inner, [0.5, 0.5, 0.0], NULL)),
        "got a teacher without the label 2",
    ),
    "a teacher without null": (
        Distill(),
        dataclasses.replace(TAUGHT, teacher=teacher(None)),
        "got a teacher without the null condition",
    ),
}


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_does_not_fit_is_refused_in_one_sentence(name: str) -> None:
    method, problem, words = REFUSED[name]
    with pytest.raises(InputError, match=words) as caught:
        method.check(problem)
    assert "expected" in str(caught.value)


@pytest.mark.parametrize("kind", [MeanFlow, Distill])
def test_guidance_is_finite_and_reads_a_null_condition_that_is_trained(kind: Any) -> None:
    with pytest.raises(InputError, match="got guidance=nan; expected a finite number"):
        kind(guidance=float("nan"))
    with pytest.raises(InputError, match=r"null_share=1\.0"):
        kind(null_share=1.0)
    with pytest.raises(InputError, match="got guidance=2 and null_share=0"):
        MeanFlow(guidance=2.0, null_share=0.0)
