"""Distillation: a flow map learns the jumps of a trained flow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from unflow.ground.batches import in_batches
from unflow.ground.errors import InputError
from unflow.mathematics.integrators import INTEGRATORS
from unflow.models import Flow
from unflow.nets import MLP
from unflow.training.losses import JumpLoss
from unflow.training.method import (
    Part,
    Parts,
    Problem,
    Tensors,
    draw_rows,
    require_batch,
    require_unlabelled,
    trainable_copy,
)
from unflow.training.originals.flow_matching import VelocityTraining
from unflow.training.originals.mean_flow import flow_map_of, make_flow_map


@dataclass(frozen=True, kw_only=True)
class Distill(VelocityTraining):
    """Regress U(x_s; s, e) on (x_e - x_s)/(e - s) for points of the teacher's trajectories.

    Attributes:
        bank_size: trajectories of the teacher, computed once.
        whole_share: share of a batch, in [0, 1], with s = 0 and e = 1 (the one-step map); the others take
            two random points, which trains the map between all times.
        average: decay of the weight average that becomes the model.
    """

    steps: int = 3000
    learning_rate: float | None = 1e-3
    bank_size: int = 16384
    whole_share: float = 0.75
    average: float = 0.999

    needs: ClassVar[frozenset[str]] = frozenset({"teacher"})
    families: ClassVar[frozenset[str]] = frozenset({"flow_map"})
    citation: ClassVar[str] = "2505.13447"
    keeps_prepared: ClassVar[bool] = True

    def check(self, problem: Problem) -> None:
        """Raise InputError for a labelled model, or unless the teacher is a flow of the model's shape."""
        super().check(problem)
        require_unlabelled(problem, "distillation")
        teacher = problem.teacher
        if not isinstance(teacher, Flow) or teacher.sample_shape != flow_map_of(problem).sample_shape:
            raise InputError(
                f"got a {type(teacher).__name__} to distil from; expected a Flow with samples of "
                f"shape {list(flow_map_of(problem).sample_shape)}"
            )

    def prepare(self, problem: Problem, generator: torch.Generator) -> Tensors:
        """Return the teacher's trajectories, [bank_size, points, *shape]."""
        require_batch(self.bank_size, self.batch_size, "trajectories (bank_size)")
        assert isinstance(problem.teacher, Flow)
        z = problem.teacher.prior(self.bank_size, generator)
        return {
            "points": torch.cat([compute_trajectory(problem.teacher, part) for part in in_batches(z, 2048)])
        }

    def init(self, problem: Problem, prepared: Tensors, seed: int) -> Parts:
        """Return the average velocity; an MLP like the teacher's starts from the teacher's weights."""
        assert isinstance(problem.teacher, Flow)
        net = trainable_copy(flow_map_of(problem).net)
        copy_velocity(problem.teacher.net, net)
        return {"velocity": Part(JumpLoss(net), net, self.learning_rate, decay=self.average)}

    def draw(self, prepared: Tensors, generator: torch.Generator) -> Tensors:
        """Draw pairs of points of the same trajectory."""
        points = prepared["points"]
        last = points.shape[1] - 1
        rows = draw_rows(len(points), self.batch_size, generator)
        start = torch.randint(last, (self.batch_size,), generator=generator)
        length = torch.rand(self.batch_size, generator=generator) * (last - start)
        end = start + 1 + length.long().clamp(max=last - 1)
        whole = torch.rand(self.batch_size, generator=generator) < self.whole_share
        start, end = start.masked_fill(whole, 0), end.masked_fill(whole, last)
        return {
            "x_s": points[rows, start],
            "x_e": points[rows, end],
            "start": start / last,
            "end": end / last,
        }

    def result(self, problem: Problem, parts: Parts) -> nn.Module:
        """Return the flow map with the averaged network."""
        return make_flow_map(problem, parts)


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

    Networks that do not fit each other stay as they are.
    """
    if not isinstance(teacher, MLP) or not isinstance(student, MLP):
        return
    own, given = student.state_dict(), teacher.state_dict()
    wide, first = own["first.weight"].clone().zero_(), given.pop("first.weight")
    if any(k not in own or own[k].shape != v.shape for k, v in given.items()):
        return
    if wide.shape[1] != first.shape[1] + student.embed.width:
        return  # other Fourier features
    wide[:, : first.shape[1]] = first
    student.load_state_dict(own | given | {"first.weight": wide})
