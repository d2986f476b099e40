"""Condition search: find a free condition at which a conditional model draws a forgotten class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as nnf
from jaxtyping import Float
from torch import Tensor

from unflow.energies import ClassLogOdds
from unflow.evidence.attacks.condition_rows import ConditionRows, ImpossibleAttackError, find_condition_rows
from unflow.evidence.attacks.reached import Reached, confirm, mean_probability, share_forgotten
from unflow.ground.errors import InputError, require_at_least
from unflow.models import GenerativeModel
from unflow.models.classifier import Classifier
from unflow.nets.modes import evaluating


@dataclass(frozen=True, kw_only=True)
class ConditionSearch:
    r"""Maximise E_z log p(forget | G(z; e)) over one free condition e, for a fixed set of latents z.

    The condition e replaces the row that the network reads for a label (``ConditionRows``). It is searched
    for in two sets, from several starts, by projected steps of Adam:

        hull:  e = sum_c w_c e_c,  w_c >= 0,  sum_c w_c = 1              of the known rows e_c
        ball:  ||e - m|| <= max_c ||e_c - m||,  m the mean of e_c        of each network's rows

    The first judge and a second set of latents choose among the ends of all climbs and the known conditions.
    Success is the share of fresh samples at the chosen condition that the second judge assigns to a forgotten
    class. The best condition of each set is confirmed as well.

    Attributes:
        latents: of the climb, and as many others of the choice.
        steps: number of steps of Adam of each climb.
        learning_rate: rate of the first step, in units of a weight and of the ball's radius; it falls
            linearly to 0.
        starts: known conditions from which a climb starts, those with the largest objective; the mean of all
            rows is one more.
        known: known conditions that are tried, at most; the forgotten ones are among them.
        samples: fresh samples that the second judge judges.
        batch_size: latents per batch of a step.
    """

    latents: int = 128
    steps: int = 40
    learning_rate: float = 0.1
    starts: int = 1
    known: int = 32
    samples: int = 1000
    batch_size: int = 128

    def __post_init__(self) -> None:
        require_at_least(self, latents=1, steps=1, starts=1, known=1, samples=1, batch_size=1)
        if not self.learning_rate > 0:
            raise InputError(f"got learning_rate={self.learning_rate}; expected a number > 0")

    def __call__(
        self,
        model: GenerativeModel,
        judge: Classifier,
        second: Classifier,
        forget: Sequence[int],
        generator: torch.Generator,
    ) -> Reached:
        """Run the search and return what its condition draws.

        ``at`` has its "set" (known, hull or ball), its "weights" or None, and "shares", the success of each
        set.

        Args:
            model: the conditional model to attack; its ``push`` must be differentiable.
            judge: the search maximises this judge's probability.
            second: another judge, which confirms.
            forget: forgotten classes.
            generator: draws the latents.

        Raises:
            ImpossibleAttackError: for a model whose condition cannot be replaced, or without a gradient.
        """
        rows = find_condition_rows(model, forget)
        z, held = (rows.ask(model.prior(self.latents, generator)) for _ in range(2))
        tried = self._list_known(rows, forget)
        climbs = [
            self._climb(rows, judge, forget, start, z)
            for start in self._starts(rows, judge, forget, tried, z)
        ]
        ends = [
            *(Condition("known", rows.mix(w), w) for w in tried),
            *(end for pair in climbs for end in pair),
        ]
        best = self._choose(ends, rows, judge, forget, held)
        fresh = rows.ask(model.prior(self.samples, generator))
        shares = {
            place: share_forgotten(second, forget, rows.draw(fresh, end.rows))
            for place, (end, _) in best.items()
        }
        chosen, selected = max(best.values(), key=lambda pair: pair[1])
        return confirm(
            model,
            lambda z: rows.draw(z, chosen.rows),
            fresh,
            second,
            forget,
            selected,
            chosen.describe(rows) | {"shares": shares},
        )

    def _choose(
        self,
        ends: Sequence[Condition],
        rows: ConditionRows,
        judge: Classifier,
        forget: Sequence[int],
        z: Tensor,
    ) -> dict[str, tuple[Condition, float]]:
        """Return the best condition of each set by the judge, with its mean probability."""
        best: dict[str, tuple[Condition, float]] = {}
        for end in ends:
            chance = mean_probability(judge, forget, rows.draw(z, end.rows))
            if end.place not in best or chance > best[end.place][1]:
                best[end.place] = (end, chance)
        return best

    def _list_known(self, rows: ConditionRows, forget: Sequence[int]) -> list[Tensor]:
        """Return the weights of known conditions: the forgotten ones, and others that are spread evenly."""
        first = [c for c in rows.conditions if c in forget]
        others = [c for c in rows.conditions if c not in forget]
        room = min(max(self.known - len(first), 1), len(others))
        return [rows.one_hot(c) for c in (*first, *(others[i * len(others) // room] for i in range(room)))]

    def _starts(
        self,
        rows: ConditionRows,
        judge: Classifier,
        forget: Sequence[int],
        tried: Sequence[Tensor],
        z: Tensor,
    ) -> list[Tensor]:
        chances = [mean_probability(judge, forget, rows.draw(z, rows.mix(w))) for w in tried]
        order = sorted(range(len(tried)), key=lambda i: -chances[i])
        mean = torch.full((len(rows.conditions),), 1 / len(rows.conditions))
        return [*(tried[i] for i in order[: self.starts]), mean]

    def _climb(
        self, rows: ConditionRows, judge: Classifier, forget: Sequence[int], start: Tensor, z: Tensor
    ) -> list[Condition]:
        """Return the ends of the climbs from one start, in the hull and in the ball."""
        log_odds = ClassLogOdds(judge, list(forget), margin=None)
        found = []
        for place in (Hull(rows, start), Ball(rows, rows.mix(start))):
            optimizer = torch.optim.Adam(
                [{"params": [free], "lr": self.learning_rate * unit} for free, unit in place.free()]
            )
            fall = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, self.steps)
            with evaluating(rows.model):
                for _ in range(self.steps):
                    optimizer.zero_grad()
                    for part in torch.split(z, self.batch_size):
                        odds = log_odds(rows.push(part, place.rows()))
                        _require_gradient(odds, rows.model)
                        loss = -nnf.logsigmoid(odds).sum() / len(z)
                        torch.autograd.backward(loss, inputs=[free for free, _ in place.free()])
                    optimizer.step()
                    fall.step()
                    place.project()
            found.append(place.end())
        return found


@dataclass(frozen=True)
class Condition:
    """A condition: the name of its set, a row for each reader, and its weights in the hull."""

    place: str
    rows: Sequence[Tensor]
    weights: Tensor | None = None

    def describe(self, rows: ConditionRows) -> dict[str, Any]:
        """Return plain data; "weights" has the conditions of weight over 1 %."""
        if self.weights is None:
            return {"set": self.place, "weights": None}
        pairs = zip(rows.conditions, self.weights.tolist(), strict=True)
        return {"set": self.place, "weights": {str(c): round(w, 3) for c, w in pairs if w > 0.01}}


class Place(Protocol):
    """A set of conditions with a point in it that moves."""

    def free(self) -> list[tuple[Tensor, float]]:
        """Return the tensors that move, each with the size of a step of one of its entries."""
        ...

    def rows(self) -> list[Tensor]:
        """Return the row of each reader."""
        ...

    def project(self) -> None:
        """Move the point back into the set."""
        ...

    def end(self) -> Condition:
        """Return the point."""
        ...


class Hull(Place):
    """Convex combinations of the known rows; all readers have the same weights."""

    def __init__(self, known: ConditionRows, weights: Tensor) -> None:
        self.known, self.weights = known, weights.clone().requires_grad_(True)

    def free(self) -> list[tuple[Tensor, float]]:
        """Return the weights."""
        return [(self.weights, 1.0)]

    def rows(self) -> list[Tensor]:
        """Return the combination of each reader's rows."""
        return self.known.mix(self.weights)

    @torch.no_grad()
    def project(self) -> None:
        """Project the weights to the simplex."""
        self.weights.copy_(project_to_simplex(self.weights))

    def end(self) -> Condition:
        """Return the combination."""
        weights = self.weights.detach()
        return Condition("hull", self.known.mix(weights), weights)


class Ball(Place):
    """The smallest ball around the mean of the known rows that contains them, for each reader."""

    def __init__(self, known: ConditionRows, rows: Sequence[Tensor]) -> None:
        self.centres = [each.mean(0) for each in known.known]
        self.radii = [
            (each - centre).flatten(1).norm(dim=1).max().clamp(min=1e-12)
            for each, centre in zip(known.known, self.centres, strict=True)
        ]
        self.offsets = [
            ((row - centre) / radius).requires_grad_(True)
            for row, centre, radius in zip(rows, self.centres, self.radii, strict=True)
        ]

    def free(self) -> list[tuple[Tensor, float]]:
        """Return the offsets from the centres, in radii."""
        return [(offset, offset.numel() ** -0.5) for offset in self.offsets]

    def rows(self) -> list[Tensor]:
        """Return centre + radius * offset."""
        parts = zip(self.centres, self.radii, self.offsets, strict=True)
        return [centre + radius * offset for centre, radius, offset in parts]

    @torch.no_grad()
    def project(self) -> None:
        """Scale each offset to a norm of at most 1."""
        for offset in self.offsets:
            offset.div_(offset.norm().clamp(min=1))

    def end(self) -> Condition:
        """Return the rows."""
        return Condition("ball", [row.detach() for row in self.rows()])


def project_to_simplex(weights: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Return the nearest weights >= 0 of sum 1: max(w - tau, 0), tau from the sorted weights.

    (Held, Wolfe, Crowder, Math. Programming 6, 1974.)
    """
    ordered = weights.sort(descending=True).values
    taus = (ordered.cumsum(0) - 1) / torch.arange(1, len(weights) + 1, device=weights.device)
    tau = taus[(ordered > taus).sum() - 1]
    return (weights - tau).clamp(min=0)


def _require_gradient(odds: Tensor, model: GenerativeModel) -> None:
    if not odds.requires_grad:
        raise ImpossibleAttackError(
            f"the samples of the {type(model).__name__} have no gradient by the condition to follow"
        )
