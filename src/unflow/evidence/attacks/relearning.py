"""Relearning: how many training steps on a few images bring a forgotten class back."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from unflow.ground.errors import InputError, require_at_least
from unflow.mathematics.couplings import ExactOT
from unflow.models import Conditional, Flow, GenerativeModel, Latent
from unflow.nets import AdaptedVelocity
from unflow.nets.modes import evaluating
from unflow.training.losses import ConditionalVelocityLoss, VelocityLoss, squared_error

Measure = Callable[[GenerativeModel], float]


class Point(NamedTuple):
    """A point of a relearning curve: the measured value after a number of steps."""

    step: int
    value: float


@dataclass(frozen=True, kw_only=True)
class Relearning:
    r"""Train a copy of a model on a few images, and measure it during training.

    A flow is trained by flow matching. A one-step model is trained by minibatch optimal transport
    (arXiv 1706.00292 without the entropy):

        L(G) = E || G(z_i) - x_pi(i) ||^2,    pi the permutation of least cost in a batch

    A conditional model can be given the label of each image. Its flow is then trained at those labels
    (arXiv 2207.12598, without dropout), and a one-step model is asked for them: pi pairs images of one label.

    A decoder after the model is frozen, or trained as well, to reconstruct the images:

        L(inner) + E || decode(encode(x)) - x ||^2

    A class whose traces are still in the weights returns sooner than it could be learned. Compare the curve
    with that of a retrained model, which has never seen the class.

    Attributes:
        steps: number of steps of Adam.
        batch_size: images per step, drawn with replacement.
        learning_rate: constant rate of Adam; small, so that the curves of different models differ visibly.
        growth: ratio of consecutive steps at which the model is measured, > 1.
        free_decoder: whether a decoder is trained as well; without effect on a model that has none.
    """

    steps: int = 300
    batch_size: int = 64
    learning_rate: float = 1e-5
    growth: float = 1.5
    free_decoder: bool = False

    def __post_init__(self) -> None:
        require_at_least(self, steps=1, batch_size=1)
        if not (self.learning_rate > 0 and self.growth > 1):
            raise InputError(
                f"got learning_rate={self.learning_rate}, growth={self.growth}; expected a rate > 0 and a "
                "growth > 1"
            )

    @property
    def measured_at(self) -> list[int]:
        """The steps after which the model is measured: 0, 1, 2, 3, 5, ... and the last."""
        steps, at = [0], 1.0
        while round(at) < self.steps:
            steps.append(max(round(at), steps[-1] + 1))
            at *= self.growth
        return [*[step for step in steps if step < self.steps], self.steps]

    def __call__(
        self,
        model: GenerativeModel,
        images: Tensor,
        measure: Measure,
        generator: torch.Generator,
        labels: Tensor | None = None,
    ) -> list[Point]:
        """Return the relearning curve; the model itself does not change.

        Args:
            model: the model to attack.
            images: the attacker's images, [k, *sample_shape].
            measure: function of a model, for example its forget rate.
            generator: draws latents, images and times.
            labels: of the images, conditions of the model, [k]; None: the images have no labels.

        Raises:
            InputError: for no images, images of another shape, and labels that the model does not draw.
        """
        _require_images(images, model)
        attacked = copy.deepcopy(model)
        trained, data = attacked, images.to(model.device, model.dtype)
        if isinstance(attacked, Latent):
            trained, data = attacked.inner, attacked.autoencoder.encode(data)
        loss = _new_loss(trained, labelled=labels is not None)
        weights = [*trained.requires_grad_(True).parameters()]
        decoder = attacked.autoencoder if isinstance(attacked, Latent) and self.free_decoder else None
        if decoder is not None:
            weights += decoder.requires_grad_(True).parameters()
        given = None if labels is None else labels.to(model.device)
        optimizer = torch.optim.Adam(weights, self.learning_rate)
        at, curve = set(self.measured_at), [Point(0, measure(attacked))]
        with evaluating(attacked):
            for step in range(1, self.steps + 1):
                rows = torch.randint(len(data), (self.batch_size,), generator=generator)
                optimizer.zero_grad()
                at_rows = rows.to(data.device)
                label = None if given is None else given[at_rows]
                error = loss(data[at_rows], label, generator)
                if decoder is not None:
                    x = images[rows].to(model.device, model.dtype)
                    error = error + squared_error(decoder.decode(data[at_rows]), x).mean()
                torch.autograd.backward(error)
                optimizer.step()
                if step in at:
                    curve.append(Point(step, measure(attacked)))
        return curve


def steps_to(curve: Sequence[tuple[int, float]], value: float) -> float | None:
    """Return the first step at which a curve reaches a value, interpolated linearly; None if never."""
    if curve[0][1] >= value:
        return float(curve[0][0])
    for (start, low), (end, high) in itertools.pairwise(curve):
        if high >= value:
            return start + (value - low) / (high - low) * (end - start)
    return None


def _new_loss(model: GenerativeModel, *, labelled: bool) -> nn.Module:
    """Return the loss of images, with their labels or without."""
    if labelled and isinstance(model, Conditional) and isinstance(model.inner, Flow):
        assert isinstance(model.inner.net, AdaptedVelocity)  # ``Conditional`` has refused other networks
        return _FlowMatching(model.inner, ConditionalVelocityLoss(model.inner.net))
    if isinstance(model, Flow):
        return _FlowMatching(model, VelocityLoss(model.net))
    return _NearestImages(model)


class _FlowMatching(nn.Module):
    def __init__(self, flow: Flow, loss: nn.Module) -> None:
        super().__init__()
        self.flow, self.loss = flow, loss

    def forward(self, x: Tensor, label: Tensor | None, generator: torch.Generator) -> Tensor:
        noise = self.flow.prior(len(x), generator)
        t = torch.rand(len(x), generator=generator).to(x)
        loss: Tensor = self.loss(noise, x, t, *(() if label is None else (label,)))
        return loss


class _NearestImages(nn.Module):
    def __init__(self, model: GenerativeModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, label: Tensor | None, generator: torch.Generator) -> Tensor:
        z = self.model.prior(len(x), generator)
        if label is not None:
            z = self.model.require_conditional().ask(z, label)
        y = self.model.push(z)
        return squared_error(y, x[_pair(y, x, label)]).mean()


def _pair(y: Tensor, x: Tensor, label: Tensor | None) -> Tensor:
    """Return the row of x for each row of y, by optimal transport among those of one label."""
    if label is None:
        return ExactOT().pair(y, x)
    pairs = torch.empty_like(label)
    for k in torch.unique(label):
        (rows,) = (label == k).nonzero(as_tuple=True)
        pairs[rows] = rows[ExactOT().pair(y[rows], x[rows])]
    return pairs


def _require_images(images: Tensor, model: GenerativeModel) -> None:
    if len(images) == 0 or tuple(images.shape[1:]) != model.sample_shape:
        raise InputError(
            f"got {len(images)} images of shape {list(images.shape[1:])} to relearn from; expected 1 or more "
            f"of {list(model.sample_shape)}"
        )
