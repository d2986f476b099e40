"""esd: erased stable diffusion, negative guidance as a regression target (arXiv 2303.07345)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from unflow.ground.errors import InputError
from unflow.mathematics.integrators import INTEGRATORS
from unflow.mathematics.paths import expand
from unflow.methods.baselines.forgotten_labels import (
    find_forgotten,
    require_conditional_model,
    share_retained,
)
from unflow.methods.baselines.regression import check_weight
from unflow.models import Flow
from unflow.nets import AdaptedVelocity
from unflow.training.losses import velocity_error
from unflow.training.method import (
    Part,
    Parts,
    Problem,
    Tensors,
    check_share,
    draw_rows,
    drop_labels,
    target_of,
    trainable_copy,
)
from unflow.training.originals.flow_matching import VelocityTraining, flow_of, with_velocity


class ErasureLoss(nn.Module):
    r"""Regression of the forgotten condition on the negatively guided velocity of the original.

        E_f ||v(x_t, t; c) - [v0(x_t, t; null) - eta (v0(x_t, t; c) - v0(x_t, t; null))]||^2 / dim
            + retain E_r ||v(x_t, t; c) - v0(x_t, t; c)||^2 / dim

    x_t are points of the trajectories of v itself, at ``guidance``, without gradient.

    Args:
        net: v, in training.
        flow: the original, of whose velocity v0 is; read and not trained, so not registered here. Its
            integrator and steps draw x_t.
        null: the null condition.
        eta: >= 0.
        guidance: of the trajectories.
        retain: weight of the retained conditions, >= 0.
    """

    def __init__(
        self, net: AdaptedVelocity, flow: Flow, null: int, eta: float, guidance: float, retain: float
    ) -> None:
        super().__init__()
        self.net, self.null, self.eta, self.guidance, self.retain = net, null, eta, guidance, retain
        self._read = (flow,)

    def forward(
        self,
        z: Tensor,
        t: Tensor,
        label: Tensor,
        z_r: Tensor | None = None,
        t_r: Tensor | None = None,
        label_r: Tensor | None = None,
    ) -> Tensor:
        """Return the loss at forgotten and retained conditions label [batch], from noise z, at times t."""
        x_t = self.trace(z, t, label)
        with torch.no_grad():
            v_null = self._original(x_t, t, torch.full_like(label, self.null))
            goal = v_null - self.eta * (self._original(x_t, t, label) - v_null)
        loss = velocity_error(self.net.unguided(label), x_t, t, goal).mean()
        if z_r is None or t_r is None or label_r is None:
            return loss
        x_r = self.trace(z_r, t_r, label_r)
        with torch.no_grad():
            goal = self._original(x_r, t_r, label_r)
        return loss + self.retain * velocity_error(self.net.unguided(label_r), x_r, t_r, goal).mean()

    @torch.no_grad()
    def trace(self, z: Tensor, t: Tensor, label: Tensor) -> Tensor:
        """Return x(t) of dx/ds = v(x, s; label), guided, from x(0) = z, for a time t [batch] of each row."""
        (flow,) = self._read
        velocity = self.net.with_labels(label).with_guidance(self.null, self.guidance)
        return INTEGRATORS[flow.integrator]().solve(
            lambda x, share: expand(t, x) * velocity(x, share * t), z, flow.steps
        )

    def _original(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        (flow,) = self._read
        assert isinstance(flow.net, AdaptedVelocity)
        v: Tensor = flow.net.unguided(label)(x, t)
        return v


@dataclass(frozen=True, kw_only=True)
class ESD(VelocityTraining):
    r"""Regress the velocity of a forgotten label on the original's, guided away from that label.

        L(theta) = E ||v_theta(x_t, t; c) - [v0(x_t, t; null) - eta (v0(x_t, t; c) - v0(x_t, t; null))]||^2

    (arXiv 2303.07345, Eq. 7, with velocities for predicted noises; divided by the entries of a sample.) x_t
    lies on the trajectory of v_theta itself, asked for c. The optimum with eta = 0 is the null condition's
    velocity. Nothing in the paper's loss holds the other labels or the null condition.

    Attributes:
        eta: of the negative guidance, >= 0 (the authors': 1).
        guidance: of the trajectories of x_t, finite (the authors': 3).
        retain: weight, >= 0, of a term that holds retained labels and the null condition at v0 (the
            authors': 0).
        null_share: with ``retain``: share of its rows without their condition, in [0, 1).
        average: decay of the weight average that becomes the model.
    """

    steps: int = 1000
    learning_rate: float | None = 1e-5
    eta: float = 1.0
    guidance: float = 3.0
    retain: float = 0.0
    null_share: float = 0.1
    average: float = 0.99

    needs: ClassVar[frozenset[str]] = frozenset({"target"})
    families: ClassVar[frozenset[str]] = frozenset({"flow"})
    needs_conditional: ClassVar[bool] = True
    falling_loss: ClassVar[str] = ""  # x_t moves with the weights
    label: ClassVar[str] = "ESD"
    summary: ClassVar[str] = "baseline: a forgotten label learns the velocity guided away from it"
    citation: ClassVar[str] = "2303.07345"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("eta", "retain"):
            check_weight(name, getattr(self, name))
        check_share(self.null_share, "null_share")
        if not math.isfinite(self.guidance):
            raise InputError(f"got guidance={self.guidance}; expected a finite number")

    def check(self, problem: Problem) -> None:
        """Raise InputError for a chained model, or one without a null condition."""
        super().check(problem)
        model = require_conditional_model(problem)
        if not isinstance(model.inner, Flow):
            raise InputError("got a chained model for ESD; expected a Flow: unlearn its base instead")
        if model.null is None:
            raise InputError(
                "got a conditional model without a null condition for ESD, whose loss needs one; expected "
                "its label: write null=10, or unlearn by concept_ablation"
            )

    def prepare(self, problem: Problem, generator: torch.Generator) -> Tensors:
        """Return the forgotten labels, and the retained ones with their probabilities."""
        model = require_conditional_model(problem)
        forgotten = find_forgotten(target_of(problem), generator)
        return {
            "forgotten": torch.tensor(forgotten),
            **share_retained(model, forgotten),
            "null": torch.tensor([model.null]),
            "like": model.inner.prior(1, generator),
        }

    def init(self, problem: Problem, prepared: Tensors, seed: int) -> Parts:
        """Return the velocity, starting at its trained weights."""
        flow, null = flow_of(problem), require_conditional_model(problem).null
        net = trainable_copy(flow.net)
        assert isinstance(net, AdaptedVelocity)
        assert null is not None
        loss = ErasureLoss(net, flow, null, self.eta, self.guidance, self.retain)
        return {"velocity": Part(loss, net, self.learning_rate, decay=self.average)}

    def draw(self, prepared: Tensors, generator: torch.Generator) -> Tensors:
        """Draw noise, times and forgotten labels, and with ``retain`` as many of retained ones."""
        forgotten = prepared["forgotten"]
        rows = draw_rows(len(forgotten), self.batch_size, generator)
        batch = self._draw_noise(prepared, generator) | {"label": forgotten[rows]}
        if self.retain == 0:
            return batch
        rows = torch.multinomial(prepared["share"].cpu(), self.batch_size, True, generator=generator)
        label = drop_labels(prepared["retained"][rows], prepared["null"], self.null_share, generator)
        other = self._draw_noise(prepared, generator) | {"label": label}
        return batch | {f"retain/{name}": part for name, part in other.items()}

    def _draw_noise(self, prepared: Tensors, generator: torch.Generator) -> Tensors:
        like, n = prepared["like"], self.batch_size
        z = torch.randn((n, *like.shape[1:]), generator=generator).to(like)
        return {"z": z, "t": torch.rand(n, generator=generator).to(like)}

    def result(self, problem: Problem, parts: Parts) -> nn.Module:
        """Return the conditional flow with the averaged velocity."""
        return with_velocity(problem, parts["velocity"].average)
