"""Which samples count as forgotten, and their class, by the guide of a request."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from unflow.energies import ClassLogOdds, Energy, ScoreLogOdds
from unflow.energies.balanced import Balanced
from unflow.energies.base import Decoded, Decoder, Minimum, Negative, Scaled, Softplus, Sum
from unflow.energies.opaque import Opaque
from unflow.ground.batches import in_batches
from unflow.mathematics.divergences import KL
from unflow.target import Target

ROWS = 2048
"""Samples that are scored at once."""


@dataclass(frozen=True)
class Votes:
    """What the guide of a request says of samples of the original (m) and of the result (n).

    Attributes:
        words: how a sample counts as forgotten.
        before: whether each sample of the original is forgotten, [m].
        after: the same of the result's, [n].
        label_before: class of each sample of the original; 0 or 1 without classes, [m].
        label_after: the same of the result's, [n].
        acceptance: probability that rejection keeps a sample of the original, [m].
        ratio: q*/q0 of the original's samples, [m].
    """

    words: str
    before: Tensor
    after: Tensor
    label_before: Tensor
    label_after: Tensor
    acceptance: Tensor
    ratio: Tensor


def count_votes(target: Target, before: Tensor, after: Tensor) -> Votes:
    """Return the guide's votes on samples of the original and of the result.

    Args:
        target: of the request.
        before: samples of the original [m, *shape].
        after: samples of the result [n, *shape].
    """
    both = torch.cat([before, after])
    energy = torch.cat([target.energy(rows) for rows in in_batches(both, ROWS)]).double()
    m = len(before)
    ratio = target.density_ratio(energy[:m])
    acceptance, side = _accept(target, energy, m, ratio)
    read = find_classes(target.energy)
    if read is None:
        forgotten, labels = side, side.long()
        words = "acceptance under 1/2"
    else:
        found = [read(rows) for rows in in_batches(both, ROWS)]
        forgotten, labels = (torch.cat(parts) for parts in zip(*found, strict=True))
        words = "forgotten by the guide"
    return Votes(words, forgotten[:m], forgotten[m:], labels[:m], labels[m:], acceptance, ratio)


def _accept(target: Target, energy: Tensor, m: int, ratio: Tensor) -> tuple[Tensor, Tensor]:
    """Return the acceptance of m samples of the original, and which of all samples it rejects rather.

    An energy without a lower bound has no exact acceptance: the largest ratio of the samples stands for it.
    """
    kappa = target.multiplier(energy[:m])
    if target.energy.lower_bound > -float("inf"):
        given = target.acceptance(energy, 0.0 if isinstance(target.divergence, KL) else kappa)
        return given[:m], given < 0.5
    every = target.divergence.tilt(kappa - target.strength * energy)
    return ratio / ratio.max(), every < 0.5


Reader = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Maps samples [n, *shape] to (whether each is forgotten [n], its class [n])."""


def find_classes(energy: Energy) -> Reader | None:
    """Return the function that reads forgotten samples and classes from an energy's classifiers.

    A sample is forgotten if its most probable class is one to forget; unions, intersections and inversions
    of requests combine these answers. None for an energy with a part without classes.
    """
    found: Reader | None = None
    match energy:
        case ScoreLogOdds():
            found = None
        case Opaque():
            found = _read_logits(energy.logits, energy.log_odds.forget)
        case ClassLogOdds():
            found = _read_logits(energy.class_logits, energy.forget)
        case Softplus() | Scaled() | Balanced():
            found = find_classes(energy.energy)
        case Negative():
            found = _combine([find_classes(energy.energy)], lambda votes: ~votes[0])
        case Decoded():
            found = _decode(energy)
        case Sum():
            found = _combine([find_classes(part) for part in energy.parts], lambda votes: votes.any(0))
        case Minimum():
            found = _combine([find_classes(part) for part in energy.parts], lambda votes: votes.all(0))
    return found


def _read_logits(logits: Callable[[Tensor], Tensor], forget: tuple[int, ...]) -> Reader:
    def read(x: Tensor) -> tuple[Tensor, Tensor]:
        labels = logits(x).argmax(1)
        return torch.isin(labels, torch.tensor(forget, device=labels.device)), labels

    return read


def _decode(energy: Decoded) -> Reader | None:
    inner, decoder = find_classes(energy.energy), cast(Decoder, energy.autoencoder)
    return None if inner is None else lambda x: inner(decoder.decode(x))


def _combine(readers: list[Reader | None], vote: Callable[[Tensor], Tensor]) -> Reader | None:
    """Return the reader of a combined request; the class is the first part's."""
    known = [reader for reader in readers if reader is not None]
    if len(known) < len(readers):
        return None

    def read(x: Tensor) -> tuple[Tensor, Tensor]:
        found = [reader(x) for reader in known]
        return vote(torch.stack([forgotten for forgotten, _ in found])), found[0][1]

    return read
