"""Filtered: rejection sampling from a model, by an energy."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from unflow.energies import Energy, require_bounded, require_finite
from unflow.ground.errors import InputError
from unflow.mathematics.divergences import DIVERGENCES, KL, Divergence
from unflow.models.base import Askable, GenerativeModel
from unflow.models.saved_energies import describe_energy


class Filtered(GenerativeModel):
    r"""x = G(z_k) for the first k whose sample is accepted: x has the law q*, and no weight changes.

        z_0 = z,  z_1, z_2, ... from the prior,  P(accept x) = (q*/q0) / sup(q*/q0)

    ``push`` is a deterministic function of each row z. A hash of the bits of z (in single precision) seeds
    the uniform numbers and the latents z_1, z_2, ..., so neither the batch nor the order of rows matters.

    Args:
        model: G, the original model, unchanged.
        energy: F, bounded below; used as it is, not copied.
        strength: lam >= 0.
        divergence: the divergence that keeps q* near q0; None: KL.
        kappa: its multiplier, which KL does not need.
        rounds: the most draws for one latent, >= 1.

    Raises:
        InputError: for an energy without a lower bound, a filtered model, or rounds under 1; from
            ``push``, if a latent is rejected in every round or the energy is not finite.
    """

    def __init__(
        self,
        model: GenerativeModel,
        energy: Energy,
        strength: float = 1.0,
        divergence: Divergence | None = None,
        kappa: float = 0.0,
        rounds: int = 1000,
    ) -> None:
        require_bounded(energy, "a filter")
        if isinstance(model, Filtered):
            raise InputError("got a filtered model to filter; expected one filter of both energies (A | B)")
        if rounds < 1:
            raise InputError(f"got rounds={rounds}; expected 1 or more")
        super().__init__(model.prior_shape, model.sample_shape)
        self.model, self.energy, self.family = model, energy, model.family
        self.strength, self.divergence = strength, KL() if divergence is None else divergence
        self.kappa, self.rounds = kappa, rounds
        self.train(model.training)

    def train(self, mode: bool = True) -> Filtered:
        """Set the mode of the model; the energy is always in evaluation mode."""
        super().train(mode)
        self.energy.eval()
        return self

    def prior(self, n: int, generator: torch.Generator) -> Float[Tensor, " n *prior"]:
        """Draw from the model's prior."""
        return self.model.prior(n, generator)

    def push(self, z: Float[Tensor, " batch *prior"]) -> Float[Tensor, " batch *shape"]:
        """Return the first accepted sample of each row; a rejected row draws again from its own stream."""
        keys = [hash_latent(row) for row in z]
        x = drawn = self.model.push(z)
        rows = torch.arange(len(z))[self._rejects(drawn, torch.tensor([uniform for uniform, _ in keys]))]
        streams = [torch.Generator().manual_seed(keys[row][1]) for row in rows]
        for _ in range(1, self.rounds):
            if len(rows) == 0:
                break
            drawn = self.model.push(torch.cat([self.model.prior(1, stream) for stream in streams]))
            x = x.index_copy(0, rows.to(x.device), drawn)
            again = self._rejects(drawn, torch.cat([torch.rand(1, generator=stream) for stream in streams]))
            rows, streams = rows[again], [streams[i] for i in again.nonzero()]
        if len(rows):
            raise InputError(
                f"the filter rejected {len(rows)} of {len(z)} latents in all of {self.rounds} rounds; "
                "expected some samples to pass: lower the strength or the margin, or raise rounds"
            )
        return x

    @torch.no_grad()
    def _rejects(self, x: Tensor, uniform: Tensor) -> Tensor:
        energy, bound = self.energy(x), self.energy.lower_bound
        require_finite(energy)  # a comparison with NaN is false, so the sample would pass
        chance = self.divergence.acceptance(energy, bound, self.strength, self.kappa)
        return uniform >= chance.to("cpu", torch.float64)

    @property
    def conditional(self) -> Askable | None:
        """That of the filtered model."""
        return self.model.conditional

    def with_guidance(self, guidance: float) -> GenerativeModel:
        """Return the same model with the filtered model at another guidance."""
        return Filtered(
            self.model.with_guidance(guidance),
            self.energy,
            self.strength,
            self.divergence,
            self.kappa,
            self.rounds,
        )

    @property
    def num_evaluations(self) -> int:
        """That of the model, for a sample accepted at once; evaluations of the energy are not counted."""
        return self.model.num_evaluations

    @property
    def original_recoverable(self) -> bool:
        """True: the original model is inside."""
        return True

    def config(self) -> dict[str, Any]:
        """Return the architecture of model and energy as plain data.

        Raises:
            InputError: for an energy or divergence that cannot be described in a file.
        """
        names = [name for name, kind in DIVERGENCES.items() if type(self.divergence) is kind]
        if not names:
            raise InputError(
                f"got a {type(self.divergence).__name__} that cannot be described in a file; expected one of "
                f"{', '.join(DIVERGENCES)}"
            )
        return {
            "model": "filtered",
            "inner": self.model.config(),
            "energy": describe_energy(self.energy),
            "strength": self.strength,
            "divergence": names[0],
            "kappa": self.kappa,
            "rounds": self.rounds,
        }


def hash_latent(z: Float[Tensor, " *prior"]) -> tuple[float, int]:
    """Return a uniform number in [0, 1) for the first draw and a seed for later draws, from z's bits."""
    digest = hashlib.blake2b(z.detach().cpu().float().numpy().tobytes(), digest_size=14).digest()
    return int.from_bytes(digest[:6], "little") / 2**48, int.from_bytes(digest[6:], "little") >> 1
