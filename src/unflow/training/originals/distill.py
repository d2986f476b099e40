"""Distillation: a flow map learns the jumps of a trained flow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from unflow.ground.batches import in_batches
from unflow.ground.errors import InputError
from unflow.mathematics.integrators import INTEGRATORS
from unflow.models import Conditional, Flow, GenerativeModel, without_conditions
from unflow.models.conditional import at_conditions
from unflow.nets import MLP
from unflow.nets.adapted import Adapted
from unflow.training.losses import JumpLoss
from unflow.training.method import (
    Part,
    Parts,
    Problem,
    Tensors,
    check_share,
    draw_rows,
    drop_labels,
    require_batch,
    trainable_copy,
)
from unflow.training.originals.flow_matching import VelocityTraining, conditional_of
from unflow.training.originals.mean_flow import check_guidance, flow_map_of, make_flow_map, require_null


@dataclass(frozen=True, kw_only=True)
class Distill(VelocityTraining):
    """Regress U(x_s; s, e) on (x_e - x_s)/(e - s) for points of the teacher's trajectories.

    A conditional model learns the trajectories of a conditional teacher, at ``guidance``: one evaluation then
    draws a sample at that guidance (arXiv 2210.03142, Section 3.1, in one step and at one scale).

    Attributes:
        bank_size: trajectories of the teacher, computed once.
        whole_share: share of a batch, in [0, 1], with s = 0 and e = 1 (the one-step map); the others take
            two random points, which trains the map between all times.
        guidance: guidance scale of a conditional teacher; None: its own. A scale other than 1 needs a null
            condition.
        null_share: share of the trajectories of the null condition, in [0, 1), if the teacher has one.
        average: decay of the weight average that becomes the model.
    """

    steps: int = 3000
    learning_rate: float | None = 1e-3
    bank_size: int = 16384
    whole_share: float = 0.75
    guidance: float | None = None
    null_share: float = 0.1
    average: float = 0.999

    needs: ClassVar[frozenset[str]] = frozenset({"teacher"})
    families: ClassVar[frozenset[str]] = frozenset({"flow_map"})
    citation: ClassVar[str] = "2505.13447"
    keeps_prepared: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share(self.null_share, "null_share")
        if self.guidance is not None:
            check_guidance(self.guidance)

    def check(self, problem: Problem) -> None:
        """Raise InputError unless the teacher is a flow of the model's shape, with its conditions."""
        super().check(problem)
        teacher, model = problem.teacher, conditional_of(problem)
        if self.guidance is not None and self.guidance != 1:
            require_null(teacher, self.guidance, "teacher")
        if isinstance(teacher, Conditional) and model is None:
            raise InputError(
                "got a conditional flow to distil into a model without conditions; expected a conditional "
                "model: write --conditional true"
            )
        flow = without_conditions(teacher)
        shape = flow_map_of(problem).sample_shape
        if not isinstance(flow, Flow) or flow.sample_shape != shape:
            raise InputError(
                f"got a {type(flow).__name__} to distil from; expected a Flow with samples of shape "
                f"{list(shape)}"
            )
        if model is not None:
            check_conditions(model, teacher)

    def prepare(self, problem: Problem, generator: torch.Generator) -> Tensors:
        """Return the teacher's trajectories, [bank_size, points, *shape], and the condition of each."""
        require_batch(self.bank_size, self.batch_size, "trajectories (bank_size)")
        teacher, model = problem.teacher, conditional_of(problem)
        if model is None:
            assert isinstance(teacher, Flow)
            z = teacher.prior(self.bank_size, generator)
            return {"points": torch.cat([compute_trajectory(teacher, part) for part in in_batches(z, 2048)])}
        assert isinstance(teacher, Conditional)
        z = model.prior(self.bank_size, generator)
        label = model.conditions(z)
        if model.null is not None:
            label = drop_labels(label, torch.tensor(model.null).to(label), self.null_share, generator)
        guidance = teacher.guidance if self.guidance is None else self.guidance
        parts = zip(in_batches(model.noise(z), 2048), in_batches(label, 2048), strict=True)
        found = [compute_trajectory(ask_teacher(teacher, model, k, guidance), noise) for noise, k in parts]
        return {"points": torch.cat(found), "label": label}

    def init(self, problem: Problem, prepared: Tensors, seed: int) -> Parts:
        """Return the average velocity; an MLP like the teacher's starts from the teacher's weights."""
        teacher = problem.teacher
        flow = without_conditions(teacher)
        assert isinstance(flow, Flow)
        net = trainable_copy(flow_map_of(problem).net)
        copy_velocity(unwrap(flow.net), unwrap(net))
        return {"velocity": Part(JumpLoss(net), net, self.learning_rate, decay=self.average)}

    def draw(self, prepared: Tensors, generator: torch.Generator) -> Tensors:
        """Draw pairs of points of the same trajectory, and its condition."""
        points = prepared["points"]
        last = points.shape[1] - 1
        rows = draw_rows(len(points), self.batch_size, generator)
        start = torch.randint(last, (self.batch_size,), generator=generator)
        length = torch.rand(self.batch_size, generator=generator) * (last - start)
        end = start + 1 + length.long().clamp(max=last - 1)
        whole = torch.rand(self.batch_size, generator=generator) < self.whole_share
        start, end = start.masked_fill(whole, 0), end.masked_fill(whole, last)
        batch = {
            "x_s": points[rows, start],
            "x_e": points[rows, end],
            "start": start / last,
            "end": end / last,
        }
        return batch | ({"label": prepared["label"][rows]} if "label" in prepared else {})

    def result(self, problem: Problem, parts: Parts) -> nn.Module:
        """Return the model with the averaged network."""
        return make_flow_map(problem, parts)


def check_conditions(model: Conditional, teacher: GenerativeModel | None) -> None:
    """Raise InputError unless a teacher can be asked for all conditions of a conditional model."""
    if not isinstance(teacher, Conditional):
        raise InputError(
            "got a teacher without conditions for a conditional model; expected a conditional flow: train it "
            "with --conditional true, or leave conditional out"
        )
    unknown = sorted(set(model.drawn) - set(teacher.drawn))
    if unknown or (model.null is not None and teacher.null is None):
        what = f"label {unknown[0]}" if unknown else "null condition"
        raise InputError(
            f"got a teacher without the {what}; expected one with all conditions of the model: "
            f"{', '.join(map(str, model.drawn))}{'' if model.null is None else ' and null'}"
        )


def ask_teacher(teacher: Conditional, model: Conditional, label: Tensor, guidance: float) -> Flow:
    """Return the teacher's flow at conditions of the model, [batch], and a guidance scale."""
    if model.null is not None and teacher.null is not None:
        label = torch.where(label == model.null, teacher.null, label)
    flow = at_conditions(teacher.inner, label, teacher.null, guidance)
    assert isinstance(flow, Flow)
    return flow


def unwrap(net: nn.Module) -> nn.Module:
    """Return the network in an adapter; another network as it is."""
    return net.wrapped if isinstance(net, Adapted) else net


@torch.no_grad()
def compute_trajectory(flow: Flow, z: Tensor) -> Tensor:
    """Return a flow's points after each of its steps, [batch, steps + 1, *shape]."""
    integrator, points = INTEGRATORS[flow.integrator](), [z]
    for i in range(flow.steps):
        t0, t1 = i / flow.steps, (i + 1) / flow.steps
        points.append(integrator.solve(flow.net, points[-1], 1, t0, t1))
    return torch.stack(points, dim=1)


def copy_velocity(teacher: nn.Module, student: nn.Module) -> None:
    """Copy the weights that two MLPs share; the student's second time and further layers have no effect yet.

    The entries of a label, if there are any, are the last of the input.

    Networks that do not fit each other stay as they are.
    """
    if not isinstance(teacher, MLP) or not isinstance(student, MLP):
        return
    if teacher.num_classes != student.num_classes:
        return
    own, given = student.state_dict(), teacher.state_dict()
    wide, first = own["first.weight"].clone().zero_(), given.pop("first.weight")
    if any(k not in own or own[k].shape != v.shape for k, v in given.items()):
        return
    if wide.shape[1] != first.shape[1] + student.embed.width:
        return  # other Fourier features
    before = first.shape[1] - teacher.num_classes
    wide[:, :before], wide[:, wide.shape[1] - teacher.num_classes :] = first.tensor_split([before], dim=1)
    student.load_state_dict(own | given | {"first.weight": wide})
