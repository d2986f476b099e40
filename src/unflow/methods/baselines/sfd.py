"""sfd: score forgetting distillation, into a one-step model from a conditional flow (arXiv 2409.11219)."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import torch
from torch import Tensor, nn

from unflow.ground.errors import InputError
from unflow.mathematics.paths import LinearPath, expand
from unflow.methods.baselines.forgotten_labels import (
    expand_labels,
    find_anchors,
    find_forgotten,
    find_labels,
    require_conditional_model,
    share_retained,
)
from unflow.methods.baselines.regression import check_weight
from unflow.models import Conditional, Flow, GenerativeModel
from unflow.nets import AdaptedVelocity
from unflow.training.losses import squared_error
from unflow.training.method import (
    Descend,
    Part,
    Parts,
    Problem,
    Tensors,
    Training,
    draw_rows,
    target_of,
    trainable_copy,
)

BETAS = (0.0, 0.999)
"""Adam's decay rates of both networks, the authors'."""
NUM_LEVELS, FIRST_BETA, LAST_BETA = 1000, 1e-4, 0.02
"""The authors' noise levels: those of a DDPM with linear beta (arXiv 2006.11239)."""


@cache
def noise_times() -> Tensor:
    """Return the time of the linear path with the signal-to-noise ratio of each noise level, [NUM_LEVELS].

    t = 1 / (1 + sigma),    sigma^2 = (1 - a) / a,    a = prod (1 - beta)
    """
    a = (1 - torch.linspace(FIRST_BETA, LAST_BETA, NUM_LEVELS, dtype=torch.float64)).cumprod(0)
    return (1 / (1 + ((1 - a) / a).sqrt())).float()


def denoise(net: AdaptedVelocity, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
    """Return E[x1 | x_t = x] = x + (1 - t) v(x, t; label), at guidance 1, for the law of the flow v."""
    v: Tensor = net.unguided(label)(x, t)
    return x + expand(1 - t, x) * v


class FakeScoreLoss(nn.Module):
    r"""Flow matching of the fake velocity on the student's samples, weighted as a prediction of the noise.

        E_r t^2 ||v(x_t, t; c) - (x1 - x0)||^2 / dim + forget E_f of the same

    Args:
        net: v, in training.
        forget: weight of the forgotten conditions, >= 0.
    """

    def __init__(self, net: AdaptedVelocity, forget: float) -> None:
        super().__init__()
        self.net, self.forget = net, forget

    def forward(self, x0: Tensor, x1: Tensor, t: Tensor, label: Tensor, is_forgotten: Tensor) -> Tensor:
        """Return the loss of noise x0 and the student's samples x1 of conditions label [batch] at times t."""
        x_t, dx_t = LinearPath().sample(x0, x1, t)
        v = self.net.unguided(label)(x_t, t)
        return weigh(t.square() * squared_error(v, dx_t), is_forgotten, self.forget)


class ScoreForgettingLoss(nn.Module):
    r"""The student's loss: score identity distillation, with another label where the teacher is asked.

        E_r l(c, c) + forget E_f l(c, a)
        l(c, a) = <p - s, (p - x) - alpha (p - s)> / (omega dim),    omega = |p - x| on average over entries

    x = G(z; c) with a point x_t of the linear path to it, p = E_teacher[x1 | x_t; a] and
    s = E_fake[x1 | x_t; c]. The gradient passes through x and x_t, not into the weights of p and s, nor
    through omega.

    Args:
        model: the student G, in training.
        teacher: p's velocity; read and not trained, so not registered here.
        fake: s's velocity; trained by ``FakeScoreLoss``, so not registered here.
        alpha: finite.
        forget: weight of the forgotten conditions, >= 0.
    """

    def __init__(
        self,
        model: GenerativeModel,
        teacher: AdaptedVelocity,
        fake: AdaptedVelocity,
        alpha: float,
        forget: float,
    ) -> None:
        super().__init__()
        self.model, self.alpha, self.forget = model, alpha, forget
        self._read = (teacher, fake)

    def forward(
        self, z: Tensor, x0: Tensor, t: Tensor, label: Tensor, anchor: Tensor, is_forgotten: Tensor
    ) -> Tensor:
        """Return the loss of latents z of conditions label, with noise x0, at times t; anchor is a."""
        teacher, fake = self._read
        x = self.model.push(z)
        x_t, _ = LinearPath().sample(x0, x, t)
        fake.requires_grad_(False)
        p, s = denoise(teacher, x_t, t, anchor), denoise(fake, x_t, t, label)
        fake.requires_grad_(True)
        omega = (p - x).detach().abs().flatten(1).mean(1).clamp(min=1e-5)
        product = ((p - s) * ((p - x) - self.alpha * (p - s))).flatten(1).mean(1)
        return weigh(product / omega, is_forgotten, self.forget)


def weigh(each: Tensor, is_forgotten: Tensor, forget: float) -> Tensor:
    """Return the mean of the retained half of a batch plus ``forget`` times that of the forgotten half."""
    return 2 * (each * torch.where(is_forgotten, forget, 1.0)).mean()


@dataclass(frozen=True, kw_only=True)
class SFD(Training):
    r"""Match the scores of a one-step model to a teacher's, whose label is overridden where it is forgotten.

    The teacher is the conditional flow that the original was distilled from, with all labels. In each step,
    a fake velocity is trained on samples of the student, then the student by

        l(c, a) = <p - s, (p - x) - alpha (p - s)> / omega                   arXiv 2409.11219

    with the teacher's prediction p of the sample x for the label a, and the fake one's, s, for c. It is a = c
    for retained labels, and the anchor for a forgotten c. The optimum draws for c what the teacher draws for
    a. The student starts at the trained one-step model (the authors' second stage), the fake velocity at the
    teacher. The defaults are the authors' for CIFAR-10: 50,000 steps at a small rate, which take long. They
    also clip gradients at 1; this loop does not.

    Attributes:
        batch_size: half of it forgotten labels, even (the authors': 128 of each kind).
        anchor: the label that overrides; None: that of the target's replacement ``label:5``, else for each
            forgotten label the retained one whose samples of the original lie nearest at the same noise.
        alpha: finite (the authors': 1.2).
        forget: weight of forgotten labels in both losses, >= 0.
        fake_rate: learning rate of the fake velocity, > 0.
        first_level, last_level: noise levels of x_t, among 1000 of a DDPM, the last excluded;
            0 <= first_level < last_level <= 1000.
        average: decay of the weight average that becomes the model.
    """

    steps: int = 50000
    batch_size: int = 256
    learning_rate: float | None = 1e-5
    anchor: int | None = None
    alpha: float = 1.2
    forget: float = 0.01
    fake_rate: float = 3e-5
    first_level: int = 38
    last_level: int = 712
    average: float = 0.9999

    needs: ClassVar[frozenset[str]] = frozenset({"target", "teacher"})
    families: ClassVar[frozenset[str]] = frozenset({"flow_map", "generator"})
    needs_conditional: ClassVar[bool] = True
    label: ClassVar[str] = "SFD"
    summary: ClassVar[str] = (
        "baseline: score distillation from a flow, whose label is another where it is forgotten"
    )
    citation: ClassVar[str] = "2409.11219"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_weight("forget", self.forget)
        if self.batch_size % 2:
            raise InputError(f"got batch_size={self.batch_size}; expected an even number")
        if not math.isfinite(self.alpha):
            raise InputError(f"got alpha={self.alpha}; expected a finite number")
        if not (self.fake_rate > 0 and math.isfinite(self.fake_rate)):
            raise InputError(f"got fake_rate={self.fake_rate}; expected a number > 0")
        if not 0 <= self.first_level < self.last_level <= NUM_LEVELS:
            raise InputError(
                f"got first_level={self.first_level} and last_level={self.last_level}; expected 0 <= "
                f"first_level < last_level <= {NUM_LEVELS}"
            )

    def check(self, problem: Problem) -> None:
        """Raise InputError unless the teacher is a conditional flow with the student's labels and shape."""
        super().check(problem)
        model, teacher = require_conditional_model(problem), problem.teacher
        if not isinstance(teacher, Conditional) or not isinstance(teacher.inner, Flow):
            raise InputError(
                f"got a {type(teacher).__name__} as the teacher of SFD; expected the conditional flow that "
                "the one-step model was distilled from"
            )
        known, own = find_labels(teacher), find_labels(model)
        if not set(own) <= set(known) or teacher.sample_shape != model.sample_shape:
            raise InputError(
                f"got a teacher of the labels {known} with samples of shape {list(teacher.sample_shape)}; "
                f"expected the labels {own} and the shape {list(model.sample_shape)} of the model"
            )

    def prepare(self, problem: Problem, generator: torch.Generator) -> Tensors:
        """Return the forgotten labels with their anchors, and the retained labels with their shares."""
        target, model = target_of(problem), require_conditional_model(problem)
        pairs = find_anchors(target, find_forgotten(target, generator), self.anchor, generator)
        return {
            **expand_labels(pairs, len(pairs)),
            **share_retained(model, pairs),
            "times": noise_times()[self.first_level : self.last_level],
            "z": model.prior(1, generator),
            "x": torch.zeros(1, *model.sample_shape),
        }

    def init(self, problem: Problem, prepared: Tensors, seed: int) -> Parts:
        """Return the student, starting at the trained weights, and the fake velocity, at the teacher's."""
        teacher, model = problem.teacher, trainable_copy(require_conditional_model(problem))
        assert isinstance(teacher, Conditional)
        assert isinstance(teacher.inner, Flow)
        net = teacher.inner.net
        assert isinstance(net, AdaptedVelocity)
        fake = copy.deepcopy(net).train().requires_grad_(True)
        frozen = copy.deepcopy(net).eval().requires_grad_(False)  # the caller's keeps its gradients
        loss = ScoreForgettingLoss(model, frozen, fake, self.alpha, self.forget)
        return {
            "fake": Part(FakeScoreLoss(fake, self.forget), fake, self.fake_rate, BETAS),
            "model": Part(loss, model, self.learning_rate, BETAS, decay=self.average),
        }

    def draw(self, prepared: Tensors, generator: torch.Generator) -> Tensors:
        """Draw conditions, every second one forgotten, with latents, noise and times for both losses."""
        n = self.batch_size
        rows = draw_rows(len(prepared["label"]), n, generator)
        kept = prepared["retained"][
            torch.multinomial(prepared["share"].cpu(), n, True, generator=generator).to(rows.device)
        ]
        is_forgotten = torch.arange(n) % 2 == 1
        batch = {
            "label": torch.where(is_forgotten, prepared["label"][rows], kept),
            "anchor": torch.where(is_forgotten, prepared["anchor"][rows], kept),
            "is_forgotten": is_forgotten,
        }
        for part in ("fake", "model"):
            for name, like in (("z", prepared["z"]), ("x0", prepared["x"])):
                batch[f"{part}/{name}"] = torch.randn((n, *like.shape[1:]), generator=generator).to(like)
            batch[f"{part}/t"] = prepared["times"][draw_rows(len(prepared["times"]), n, generator)]
        return batch

    def step(self, parts: Parts, batch: Tensors, descend: Descend, progress: float) -> Tensors:
        """Take one step on the fake velocity, on samples of the student, then one on the student."""
        model, label = parts["model"].net, batch["label"]
        assert isinstance(model, Conditional)
        with torch.no_grad():
            x1 = model.push(model.ask(batch["fake/z"], label))
        x0, t, is_forgotten = batch["fake/x0"], batch["fake/t"], batch["is_forgotten"]
        fake = descend("fake", x0, x1, t, label, is_forgotten)
        z, x0, t = model.ask(batch["model/z"], label), batch["model/x0"], batch["model/t"]
        return {"fake": fake, "loss": descend("model", z, x0, t, label, batch["anchor"], is_forgotten)}

    def result(self, problem: Problem, parts: Parts) -> nn.Module:
        """Return the averaged student."""
        return parts["model"].average
