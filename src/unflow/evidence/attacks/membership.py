"""Membership inference: whether a model tells the training images of a class from other images of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from unflow.data import LabelledData
from unflow.evidence.attacks.condition_rows import ImpossibleAttackError
from unflow.evidence.attacks.scores import FEWEST, Scores
from unflow.ground.batches import in_batches
from unflow.ground.errors import InputError, require_at_least
from unflow.mathematics.paths import LinearPath
from unflow.models import Filtered, Flow, GenerativeModel, Latent, inner_model
from unflow.models.conditional import without_conditions
from unflow.nets import AdaptedVelocity
from unflow.nets.modes import evaluating
from unflow.training.losses import squared_error, velocity_error

Extract = Callable[[Tensor], Tensor]
"""Features of samples [n, *shape] in which distances are measured, [n, d]."""


@dataclass(frozen=True, kw_only=True)
class MembershipInference:
    r"""Score real images of the forgotten classes; images of the training set should score higher.

        distance   s(x) = - min_i || f(x) - f(G(z_i)) ||                              arXiv 1909.03935
        loss       s(x) = - mean_k || v(x_k, t_k) - (x - e_k) ||^2 / dim, x_k = (1 - t_k) e_k + t_k x
                                                                                      arXiv 2301.09956

    The times t_k = (k + 1/2) / draws and the noise e_k are the same for all images and all models. Models
    other than flows have no such loss; theirs is the error of a reconstruction (arXiv 1909.03935, the
    white-box attack): a few steps of Adam on z, from the latent of the nearest sample,

        loss       s(x) = - || G(z*) - x ||^2 / dim

    The loss of a flow behind a decoder is that of the encoded image. A conditional model is scored at the
    label of each image and, with the prefix ``null_``, at its null condition.

    Attributes:
        images: of the training set, and as many held-out ones, at most.
        samples: of the model, among which the nearest is found.
        draws: times and noises of a flow's loss.
        steps: of a reconstruction.
        learning_rate: of a reconstruction, in units of a latent's entries.
    """

    images: int = 200
    samples: int = 2000
    draws: int = 10
    steps: int = 20
    learning_rate: float = 0.05

    def __post_init__(self) -> None:
        require_at_least(self, images=FEWEST, samples=1, draws=1, steps=1)
        if not self.learning_rate > 0:
            raise InputError(f"got learning_rate={self.learning_rate}; expected a number > 0")

    def __call__(
        self,
        model: GenerativeModel,
        members: LabelledData,
        others: LabelledData,
        extract: Extract,
        generator: torch.Generator,
        *,
        labelled: bool = True,
    ) -> dict[str, Scores]:
        """Return the scores by name: "distance" and "loss", "null_distance" and "null_loss".

        There is no loss of a filter, whose weights are the original's, and of a model without gradients along
        its latents. There are no scores at labels that the model does not draw.

        Args:
            model: to attack; it is not changed.
            members: images of the training set, of the forgotten classes.
            others: images of these classes that are not in the training set.
            extract: features of the distance.
            generator: draws the images, the noise and the samples.
            labelled: whether the classes of the images are conditions of a conditional model.

        Raises:
            ImpossibleAttackError: for fewer than ``FEWEST`` images on a side.
        """
        chosen = [self._choose(each, generator) for each in (members, others)]
        x = torch.cat([each.x for each in chosen]).to(model.device, model.dtype)
        labels = torch.cat([each.labels for each in chosen]).to(model.device)
        z = model.prior(self.samples, generator)
        noise = _unconditional(model).prior(self.draws, generator)
        found = {}
        with evaluating(model):
            for prefix, condition in _list_conditions(model, labels, labelled=labelled):
                for name, score in self._score(model, x, condition, z, noise, extract).items():
                    found[prefix + name] = Scores(score[: len(chosen[0])], score[len(chosen[0]) :])
        return found

    def _choose(self, data: LabelledData, generator: torch.Generator) -> LabelledData:
        if len(data) < FEWEST:
            raise ImpossibleAttackError(
                f"a part of the data has {len(data)} images of the forgotten classes, of {FEWEST} or more"
            )
        return data.rows(torch.randperm(len(data), generator=generator)[: self.images])

    def _score(
        self,
        model: GenerativeModel,
        x: Tensor,
        condition: Tensor | None,
        z: Tensor,
        noise: Tensor,
        extract: Extract,
    ) -> dict[str, Tensor]:
        if condition is not None:
            asked = condition[torch.arange(len(z), device=x.device) % len(x)]
            z = model.require_conditional().ask(z, asked)
        samples = model.push_batches(z)
        distance, nearest = torch.cdist(extract(x).double(), extract(samples).double()).min(1)
        loss = self._flow_loss(model, x, condition, noise)
        if loss is None and not isinstance(inner_model(model), Filtered):
            loss = self._reconstruction_loss(model, x, z[nearest])
        scores = {"distance": -distance} | ({} if loss is None else {"loss": -loss})
        return {name: score.double().cpu() for name, score in scores.items()}

    @torch.no_grad()
    def _flow_loss(
        self, model: GenerativeModel, x: Tensor, condition: Tensor | None, noise: Tensor
    ) -> Tensor | None:
        """Return the flow-matching loss of each image, [n]; None for a model that is no flow."""
        flow = _unconditional(model)
        if not isinstance(flow, Flow):
            return None
        if isinstance(model, Latent):
            x = model.autoencoder.encode(x)
        net = flow.net
        if condition is not None:
            assert isinstance(net, AdaptedVelocity)  # ``Conditional`` has refused other networks
            net = net.unguided(condition)
        loss = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        for k, e in enumerate(noise):
            t = x.new_full((len(x),), (k + 0.5) / len(noise))
            x_t, dx_t = LinearPath().sample(e.expand_as(x), x, t)
            loss += velocity_error(net, x_t, t, dx_t).double() / len(noise)
        return loss

    def _reconstruction_loss(self, model: GenerativeModel, x: Tensor, z: Tensor) -> Tensor | None:
        """Return the error of the best sample near each start, [n]; None for a model without gradients."""
        losses = []
        for target, start in zip(in_batches(x, 250), in_batches(z, 250), strict=True):
            moved = start.clone().requires_grad_(True)
            optimizer = torch.optim.Adam([moved], self.learning_rate)
            best = torch.full((len(target),), torch.inf, dtype=torch.float64, device=x.device)
            for _ in range(self.steps):
                error = squared_error(model.push(moved), target)
                gradient = _find_gradient(error.sum(), moved)
                if gradient is None:
                    return None
                best = torch.minimum(best, error.detach().double())
                moved.grad = gradient
                optimizer.step()
            losses.append(torch.minimum(best, squared_error(model.push(moved), target).detach().double()))
        return torch.cat(losses)


def _find_gradient(loss: Tensor, z: Tensor) -> Tensor | None:
    """Return the gradient along z; None where the loss has none."""
    if not loss.requires_grad:
        return None
    found: Tensor | None = torch.autograd.grad(loss, z, allow_unused=True)[0]
    return found


def _unconditional(model: GenerativeModel) -> GenerativeModel:
    """Return the model whose latents are the noise alone, without conditions and decoder."""
    return without_conditions(inner_model(model))


def _list_conditions(
    model: GenerativeModel, labels: Tensor, *, labelled: bool
) -> list[tuple[str, Tensor | None]]:
    """Return prefix and condition of each image, [n]; None for a model without conditions."""
    inside = model.conditional
    if inside is None:
        return [("", None)]
    found: list[tuple[str, Tensor | None]] = []
    if labelled and set(labels.tolist()) <= set(inside.drawn):
        found.append(("", labels))
    if inside.null is not None:
        found.append(("null_", torch.full_like(labels, inside.null)))
    return found
