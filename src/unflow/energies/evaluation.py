"""An energy at many samples, and what cannot be one."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from unflow.batches import in_batches
from unflow.energies.base import Energy
from unflow.errors import InputError


def require_bounded(energy: Energy, purpose: str) -> None:
    """Raise InputError if ``energy`` has no lower bound."""
    if energy.lower_bound == -math.inf:
        raise InputError(
            f"got an energy without a lower bound ({energy.describe()}) for {purpose}; expected one "
            "that is bounded below: give ClassLogOdds a margin, or wrap it in energies.Softplus"
        )


def require_finite(F: Tensor) -> None:
    """Raise InputError if an energy of samples [n] is NaN or infinite for any."""
    if not torch.isfinite(F).all():
        raise InputError(
            f"the energy is NaN or infinite for {int((~torch.isfinite(F)).sum())} of {len(F)} "
            "samples; expected finite numbers: check the classifier or callable behind it"
        )


def evaluate(energy: Energy, x: Tensor, batch_size: int = 4096) -> Tensor:
    """Return F at many samples without gradient, and refuse what cannot be an energy.

    Raises:
        InputError: for a wrong shape, NaN or infinite values, a constant (which names nothing), or
            a value under the stated lower bound.
    """
    with torch.no_grad():
        values = [energy(chunk) for chunk in in_batches(x, batch_size)]
    for chunk, value in zip(in_batches(x, batch_size), values, strict=True):
        if value.shape != (len(chunk),):
            raise InputError(
                f"the energy returned shape {list(value.shape)} for {len(chunk)} samples; "
                f"expected [{len(chunk)}], one number per sample"
            )
    F = torch.cat(values)
    require_finite(F)
    if len(F) > 1 and float(F.max() - F.min()) == 0.0:
        raise InputError(
            f"the energy is the same number ({float(F[0]):.4g}) for all {len(F)} samples; expected it "
            "to differ between what to forget and what to keep"
        )
    bound = energy.lower_bound
    if len(F) and float(F.min()) < bound - 1e-4 * (1 + abs(bound)):
        raise InputError(
            f"the energy is {float(F.min()):.4g} for one of {len(F)} samples, under its stated "
            f"lower bound {bound:.4g}; expected a lower_bound that lies under every value"
        )
    return F
