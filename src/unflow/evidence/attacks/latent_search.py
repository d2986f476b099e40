"""Latent search: look for typical latents that still give what was to be forgotten."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from unflow.energies import ClassLogOdds, Energy
from unflow.ground.errors import InputError
from unflow.models import GenerativeModel, latent_norm
from unflow.models.classifier import Classifier
from unflow.nets.modes import evaluating


@dataclass(frozen=True)
class Found:
    """Where a search ended.

    Attributes:
        z: latents, [starts, *prior_shape], each as long as it began.
        x: their samples, [starts, *sample_shape].
        fooled: where the judge that was climbed says forgotten, [starts] booleans.
        confirmed: where a judge that was not climbed says so too.
    """

    z: Tensor
    x: Tensor
    fooled: Tensor
    confirmed: Tensor

    @property
    def success_share(self) -> float:
        """Share of starts that end in the forgotten, as both judges see it: in [0, 1]."""
        return float(self.confirmed.double().mean())


@dataclass(frozen=True, kw_only=True)
class LatentSearch:
    r"""Climb the log-odds of P(forget | G(z)) over z, from many latents of the prior, with ||z|| held.

    Log-odds, since they go on where the judge is sure, until a second judge is.

    Every latent that is visited has the norm of a latent of the prior, and lies within the box of the
    starts: its sample is one that the model makes, if seldom. Starts that the judge gives to the forgotten,
    but a second judge does not, end in adversarial noise: they are counted apart.

    Attributes:
        starts: latents.
        steps: of Adam.
        learning_rate: of its first step, in units of a latent's entries; it falls to 0.
    """

    starts: int = 500
    steps: int = 60
    learning_rate: float = 0.1
    batch_size: int = 250

    def __post_init__(self) -> None:
        for name in ("starts", "steps", "batch_size"):
            if getattr(self, name) < 1:
                raise InputError(f"got {name}={getattr(self, name)}; expected 1 or more")
        if not self.learning_rate > 0:
            raise InputError(f"got learning_rate={self.learning_rate}; expected a number > 0")

    def __call__(
        self,
        model: GenerativeModel,
        judge: Classifier,
        second: Classifier,
        forget: list[int],
        generator: torch.Generator,
    ) -> Found:
        """Return where the search ends.

        Args:
            model: to attack; its ``push`` must have gradients.
            judge: whose probability is climbed.
            second: another judge, which must agree.
            forget: forgotten classes.
            generator: draws the starts.

        Raises:
            InputError: for an impossible request, or a model without gradients.
        """
        log_odds = ClassLogOdds(judge, forget, margin=None)
        starts = model.prior(self.starts, generator)
        box = (starts.amin(0), starts.amax(0))
        with evaluating(model):
            parts = starts.split(self.batch_size)
            z = torch.cat([self._climb(model, log_odds, part, box) for part in parts])
        x = model.push_batches(z)
        fooled, agreed = (
            torch.isin(j.probabilities(x).argmax(1).cpu(), torch.tensor(forget)) for j in (judge, second)
        )
        return Found(z, x, fooled, fooled & agreed)

    def _climb(
        self, model: GenerativeModel, log_odds: Energy, z: Tensor, box: tuple[Tensor, Tensor]
    ) -> Tensor:
        norm, moved = latent_norm(z), z.clone().requires_grad_(True)
        optimizer = torch.optim.Adam([moved], self.learning_rate)
        fall = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, self.steps)
        for _ in range(self.steps):
            odds = log_odds(model.push(moved))
            if not odds.requires_grad:
                raise InputError(
                    f"got a {type(model).__name__} whose samples have no gradient; expected one to climb: "
                    "attack the model inside (unflow.attacks.models_inside)"
                )
            (gradient,) = torch.autograd.grad(-odds.sum(), moved)
            moved.grad = gradient
            optimizer.step()
            fall.step()
            with torch.no_grad():
                # A latent at 0 has no direction.
                moved.copy_((moved * norm / latent_norm(moved).clamp(min=1e-12)).clamp(*box))
        return moved.detach()
