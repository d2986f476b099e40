"""The energy of a condition: it depends on the label or prompt of a sample, not on the sample."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unflow.energies.base import Energy
from unflow.ground.errors import InputError

HEIGHT = 30.0
"""The energy of a forgotten condition, in nats: exp(-30) of its samples are kept."""


class ConditionEnergy(Energy):
    """F = ``HEIGHT`` for samples of forgotten conditions, 0 for others: w(c) = 1[c is retained].

    It reads no sample, only what a conditional model was asked for; ``Target.score`` evaluates it. So it
    needs no guide, and combines with no other energy.

    Args:
        forget: the conditions, one or more, each >= 0.

    Raises:
        InputError: for no condition, and from ``forward``, for samples without their conditions.
    """

    forgotten: Tensor

    def __init__(self, forget: Sequence[int]) -> None:
        super().__init__()
        if len(forget) == 0 or not all(type(k) is int and k >= 0 for k in forget):
            raise InputError(f"got the conditions {list(forget)} to forget; expected numbers >= 0")
        self.forget = tuple(forget)
        self.register_buffer("forgotten", torch.tensor(self.forget))

    @property
    def lower_bound(self) -> float:
        """0."""
        return 0.0

    @property
    def differentiable(self) -> bool:
        """False: it does not depend on the sample."""
        return False

    def check_model(self, model: object) -> None:
        """Raise InputError for a model that cannot be asked, or of which no condition would be left."""
        asked = getattr(model, "conditional", None)
        if asked is None:
            raise InputError(
                f"got the energy of {self.describe()} for a model without conditions; expected a conditional "
                "model: write --energy classifier:DIR"
            )
        known = range(asked.num_conditions)
        wrong = [k for k in self.forget if k not in known]
        if wrong:
            raise InputError(
                f"got label {wrong[0]} to forget; expected one of the model's conditions, 0 to "
                f"{len(known) - 1}"
            )
        if not set(asked.drawn) - {*self.forget, asked.null}:
            raise InputError(
                "got every condition that the model draws to forget; expected at least one that is kept: "
                "name fewer"
            )

    def at(self, conditions: Int[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """Return F of conditions."""
        return HEIGHT * torch.isin(conditions, self.forgotten.to(conditions.device)).float()

    def forward(self, x: Float[Tensor, " batch *shape"]) -> Float[Tensor, " batch"]:
        """Raise InputError: a sample does not say what it was asked for."""
        raise InputError(
            f"got {len(x)} samples for the energy of {self.describe()}, which needs what they were asked "
            "for; expected a conditional model and a method for one: write --energy classifier:DIR, or erfm, "
            "erfm_resample or latent_transport with a conditional model"
        )

    def describe(self) -> str:
        """Return the conditions."""
        return f"label {' or '.join(map(str, self.forget))}, whatever it draws"
