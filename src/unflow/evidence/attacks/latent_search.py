"""Latent search: find typical latents whose samples are still of a forgotten class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unflow.energies import ClassLogOdds, Energy
from unflow.evidence.metrics.forgetting import is_forgotten
from unflow.ground.errors import InputError, require_at_least
from unflow.mathematics.shares import Interval, share_interval
from unflow.models import GenerativeModel, latent_norm
from unflow.models.classifier import Classifier
from unflow.nets.modes import evaluating


@dataclass(frozen=True)
class Found:
    """The result of a latent search.

    Attributes:
        z: latents, [starts, *prior_shape], each with the norm of its start.
        x: their samples, [starts, *sample_shape].
        fooled: whether the attacked judge assigns each sample to a forgotten class, booleans [starts].
        confirmed: whether the second judge, which the search does not follow, does so too, booleans [starts].
    """

    z: Tensor
    x: Tensor
    fooled: Tensor
    confirmed: Tensor

    @property
    def success_share(self) -> float:
        """Share of starts that end in a forgotten class according to both judges, in [0, 1]."""
        return float(self.confirmed.double().mean())

    @property
    def interval(self) -> Interval:
        """The 95 % interval of the share."""
        return share_interval(int(self.confirmed.sum()), len(self.confirmed))


@dataclass(frozen=True, kw_only=True)
class LatentSearch:
    r"""Maximise the log-odds of P(forget | G(z)) over z at fixed ||z||, from many latents of the prior.

    The search uses log-odds because they do not saturate: it continues where the judge is already certain,
    until the second judge agrees.

    Every latent keeps the norm of its start and stays in the bounding box of all starts, so the model can
    produce its sample, if rarely. A start that fools only the attacked judge ends in adversarial noise; it
    is not counted as a success.

    Attributes:
        starts: number of latents to start from.
        steps: number of steps of Adam.
        learning_rate: rate of the first step, in units of a latent's entries; it falls linearly to 0.
        batch_size: latents per batch.
    """

    starts: int = 500
    steps: int = 60
    learning_rate: float = 0.1
    batch_size: int = 250

    def __post_init__(self) -> None:
        require_at_least(self, starts=1, steps=1, batch_size=1)
        if not self.learning_rate > 0:
            raise InputError(f"got learning_rate={self.learning_rate}; expected a number > 0")

    def __call__(
        self,
        model: GenerativeModel,
        judge: Classifier,
        second: Classifier,
        forget: Sequence[int],
        generator: torch.Generator,
    ) -> Found:
        """Run the search and return the latents that it finds.

        Args:
            model: the model to attack; its ``push`` must be differentiable.
            judge: the search maximises this judge's log-odds.
            second: another judge, which confirms a success.
            forget: forgotten classes.
            generator: draws the starts.

        Raises:
            InputError: for an impossible request, or a model without gradients.
        """
        log_odds = ClassLogOdds(judge, list(forget), margin=None)
        starts = model.prior(self.starts, generator)
        box = (starts.amin(0), starts.amax(0))
        with evaluating(model):
            parts = torch.split(starts, self.batch_size)
            z = torch.cat([self._maximise(model, log_odds, part, box) for part in parts])
        x = model.push_batches(z)
        fooled, agreed = (is_forgotten(j.probabilities(x).argmax(1).cpu(), forget) for j in (judge, second))
        return Found(z, x, fooled, fooled & agreed)

    def _maximise(
        self, model: GenerativeModel, log_odds: Energy, z: Tensor, box: tuple[Tensor, Tensor]
    ) -> Tensor:
        norm, moved = latent_norm(z), z.clone().requires_grad_(True)
        optimizer = torch.optim.Adam([moved], self.learning_rate)
        fall = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, self.steps)
        for _ in range(self.steps):
            odds = log_odds(model.push(moved))
            if not odds.requires_grad:
                raise InputError(
                    f"got a {type(model).__name__} whose samples have no gradient; expected one to follow: "
                    "attack the original inside (unflow.attacks.find_original)"
                )
            (gradient,) = torch.autograd.grad(-odds.sum(), moved)
            moved.grad = gradient
            optimizer.step()
            fall.step()
            with torch.no_grad():
                # The clamp avoids 0 / 0 for a latent at 0.
                moved.copy_((moved * norm / latent_norm(moved).clamp(min=1e-12)).clamp(*box))
        return moved.detach()
