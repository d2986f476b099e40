"""Classes that a guide or a judge gives to a model's samples, and findings that make the answer doubtful."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from unflow.data import LabelledData
from unflow.data.parts import name_class
from unflow.energies import ClassLogOdds, Energy, EstimatorLogOdds, ScoreLogOdds
from unflow.energies.opaque import Opaque
from unflow.ground.batches import in_batches
from unflow.ground.errors import InputError
from unflow.ground.logits import check_logits
from unflow.ground.streams import Stream, stream
from unflow.models import GenerativeModel
from unflow.models.classifier import Classifier

NUM_SAMPLES = 500
"""Samples of a one-step model that a classifier is inspected on."""
NUM_OF_FLOW = 250
"""The same for a flow, whose samples take many evaluations of its network."""
NUM_LABELLED = 2000
"""Labelled samples, at most, that measure its accuracy."""
LISTED = 12
"""Classes that the line lists."""
RARE = 0.005
"""A class with a smaller share of the samples is almost never drawn."""
SKILL = 0.25
"""Least useful skill: the share of the way from chance to perfect accuracy."""
MOSTLY = 0.6
"""Share of a class's samples that must go to another class before their order is called another one."""
FEW = 5
"""Fewer samples of a class, expected or labelled, say nothing about it."""
MANY = 25
"""Expected samples of each class, from which on the absence of any one is a finding."""


@dataclass(frozen=True)
class Voter:
    """A classifier under inspection.

    Attributes:
        who: "guide", "judge" and so on.
        logits: maps samples [n, *shape] to logits [n, num_classes].
        names: of its classes; None if they are not known.
        forget: the classes to forget, as it numbers them.
        is_score: whether it only separates samples to forget from the others.
    """

    who: str
    logits: Callable[[Tensor], Tensor]
    names: Sequence[str] | None = None
    forget: tuple[int, ...] = ()
    is_score: bool = False

    @torch.no_grad()
    def probabilities(self, x: Tensor) -> Tensor:
        """Return class probabilities [n, num_classes].

        Raises:
            InputError: for a classifier that returns probabilities as its logits.
        """
        logits = torch.cat([self.logits(rows) for rows in in_batches(x, 2048)])
        check_logits(logits)
        return logits.double().softmax(1)


class Sight(NamedTuple):
    """What was found about a classifier.

    Attributes:
        line: one line of text.
        warnings: sentences, if any.
    """

    line: str
    warnings: list[str]


def judge_voter(judge: Classifier, forget: Sequence[int] = (), who: str = "judge") -> Voter:
    """Return a classifier for inspection."""
    return Voter(who, judge.eval(), judge.class_names, tuple(forget))


def find_guide(energy: Energy) -> Voter | None:
    """Return the first classifier in an energy that distinguishes classes; None if there is none."""
    for part in energy.modules():
        if isinstance(part, ScoreLogOdds):
            return Voter("guide", part.logits, ["retain", "forget"], (1,), is_score=True)
        if isinstance(part, Opaque):
            names = [str(name) for name in part.labels] if isinstance(part, EstimatorLogOdds) else None
            return Voter("guide", part.logits, names, part.log_odds.forget)
        if isinstance(part, ClassLogOdds):
            return Voter(
                "guide", part.class_logits, getattr(part.classifier, "class_names", None), part.forget
            )
    return None


def draw_for_sight(model: GenerativeModel, seed: int) -> Tensor:
    """Return the samples of a model for ``inspect``, from a random stream of their own."""
    n = NUM_OF_FLOW if model.family == "flow" else NUM_SAMPLES
    return model.sample(n, stream(seed, Stream.SIGHT))


def inspect(voter: Voter, x: Tensor, labelled: LabelledData | None = None, of: str = "the model") -> Sight:
    """Return the classes that a classifier gives to samples, its accuracy, and what is wrong with it.

    Args:
        voter: the classifier.
        x: samples [n, *shape].
        labelled: real samples of the same classes, for the accuracy; those of another shape are left out.
        of: the origin of the samples, in words.

    Raises:
        InputError: for a classifier that returns probabilities, or whose classes are in another order than
            those of the labelled samples.
    """
    p = voter.probabilities(x)
    shares = p.argmax(1).bincount(minlength=p.shape[1]).double() / len(p)
    forget = ", ".join(name_class(k, voter.names) for k in voter.forget)
    line = f"the {voter.who} sees: {list_shares(shares.tolist(), voter)} in {len(x)} samples of {of}"
    warnings = [*_find_numerals(voter), *_find_rare(voter, shares, len(p)), *_find_unsure(voter, p)]
    if forget and not voter.is_score:
        line += f"; to forget: {forget}"
    if labelled is not None and not voter.is_score and len(labelled) and labelled.x.shape[1:] == x.shape[1:]:
        accuracy, found = _measure(voter, labelled)
        line += f"; right on {accuracy:.1%} of {min(len(labelled), NUM_LABELLED)} labelled samples".replace(
            "%", " %"
        )
        warnings += found
    return Sight(line, warnings)


def list_shares(shares: Sequence[float], voter: Voter) -> str:
    """Return "0 (airplane) 9.8 %, 1 (automobile) 10.2 %"; the rarest of many classes are summed up."""
    shown = list(range(len(shares)))
    if len(shares) > LISTED:
        common = sorted(shown, key=lambda k: -shares[k])
        shown = sorted({*voter.forget, *common[: LISTED - 2]})
    parts = [f"{name_class(k, voter.names)} {100 * shares[k]:.1f} %" for k in shown]
    others = len(shares) - len(parts)
    if others:
        rest = sum(shares) - sum(shares[k] for k in shown)
        parts.append(f"{others} other classes {100 * max(rest, 0.0):.1f} %")
    return ", ".join(parts)


def _find_numerals(voter: Voter) -> list[str]:
    """Return a finding for each number to forget that is the name of another class."""
    names = [] if voter.names is None else list(voter.names)
    return [
        f"class {k} to forget is {name_class(k, names)} of the {voter.who}, and not the class that is named "
        f"{str(k)!r}; expected no doubt: write --forget {names.index(str(k))} for that one"
        for k in voter.forget
        if str(k) in names and names.index(str(k)) != k
    ]


def _find_rare(voter: Voter, shares: Tensor, n: int) -> list[str]:
    classes = len(shares)
    checked = range(classes) if classes * MANY <= n else voter.forget
    limit = min(RARE, 0.1 / classes)
    rare = [k for k in checked if classes * FEW <= n and shares[k] < limit]
    if not rare:
        return []
    named = ", ".join(f"{name_class(k, voter.names)} ({100 * shares[k]:.1f} %)" for k in rare[:FEW])
    more = f" and {len(rare) - FEW} other classes" if len(rare) > FEW else ""
    loss = "; there is nothing to forget" if set(rare) & set(voter.forget) else ""
    return [
        f"the {voter.who} (almost) never finds class {named}{more} in the samples{loss}; expected "
        f"{100 * limit:g} % or more of each class: check that it reads images of this range, shape and kind, "
        "and the order of its classes"
    ]


def _find_unsure(voter: Voter, p: Tensor) -> list[str]:
    top, classes = p.max(1).values, p.shape[1]
    sure = 0.5 + 0.5 / classes
    if float((top >= sure).double().mean()) >= 0.05:
        return []
    return [
        f"the {voter.who} is sure of nothing: its largest probability is {float(top.mean()):.2f} on average, "
        f"where chance is {1 / classes:.2f}; expected {sure:.2f} or more for many samples: check that it is "
        "trained, that it returns logits, and that it reads images of this range and shape"
    ]


def _measure(voter: Voter, labelled: LabelledData) -> tuple[float, list[str]]:
    """Return the accuracy on labelled samples, and what is wrong with it."""
    chosen = torch.randperm(len(labelled), generator=stream(0, Stream.SIGHT))[:NUM_LABELLED]
    x, labels = labelled.x[chosen], labelled.labels[chosen]
    predicted = voter.probabilities(x).argmax(1)
    check_order(predicted, labels, voter, labelled.class_names)
    accuracy = float((predicted == labels).double().mean())
    return accuracy, [*_find_chance(voter, accuracy, labels), *_find_blind(voter, predicted, labels)]


def check_order(predicted: Tensor, labels: Tensor, voter: Voter, names: Sequence[str]) -> None:
    """Raise InputError if a classifier gives the samples of some classes to each other's numbers."""
    goes: dict[int, int] = {}
    for k in sorted(set(labels.tolist())):
        given = predicted[labels == k]
        most = int(given.mode().values)
        if len(given) >= FEW and float((given == most).double().mean()) >= MOSTLY:
            goes[k] = most
    for k in goes:
        cycle = _follow(goes, k)
        if len(cycle) > 1:
            pairs = ", ".join(
                f"{name_class(a, names)} to class {name_class(goes[a], voter.names)}" for a in cycle
            )
            raise InputError(
                f"the {voter.who} numbers the classes in another order than the data: it gives most samples "
                f"of class {pairs}; expected one order: train it with the data's order, or name its outputs "
                "and the data's classes in one order"
            )


def _follow(goes: dict[int, int], start: int) -> list[int]:
    """Return the cycle of classes that leads back to ``start``; the empty list if there is none."""
    path, k = [start], goes.get(start)
    while k is not None and k not in path:
        path.append(k)
        k = goes.get(k)
    return path if k == start else []


def _find_chance(voter: Voter, accuracy: float, labels: Tensor) -> list[str]:
    chance = float(labels.bincount().max()) / len(labels)
    skill = (accuracy - chance) / (1 - chance) if chance < 1 else 1.0
    if skill >= SKILL:
        return []
    return [
        f"the {voter.who} is near chance: it is right on {100 * accuracy:.1f} % of {len(labels)} labelled "
        f"samples, and the most frequent class alone is {100 * chance:.1f} %; expected far more: train it "
        "longer, or check that its classes and its images are those of the data"
    ]


def _find_blind(voter: Voter, predicted: Tensor, labels: Tensor) -> list[str]:
    """Return a finding if most real samples of the classes to forget are given to other classes."""
    forget = torch.tensor(voter.forget, dtype=torch.long)
    inside = torch.isin(labels, forget)
    if int(inside.sum()) < FEW:
        return []
    found = float(torch.isin(predicted[inside], forget).double().mean())
    if found >= 0.5:
        return []
    named = ", ".join(name_class(k, voter.names) for k in voter.forget)
    return [
        f"the {voter.who} recognises {100 * found:.1f} % of {int(inside.sum())} labelled samples of class "
        f"{named}, the classes to forget; expected most of them: its rates of these classes say little"
    ]


# Names


def compare_names(named: Sequence[tuple[str, Sequence[str] | None]], forget: Sequence[int] = ()) -> list[str]:
    """Return the differences between the class names of a guide, a judge and the data, one sentence each.

    Args:
        named: who, and the names in order; None or the numbers themselves for classes without names.
        forget: classes to forget, which are named first.

    Raises:
        InputError: for the same names in another order.
    """
    known = [(who, list(names)) for who, names in named if names is not None]
    pairs = [(known[i], known[j]) for i in range(len(known)) for j in range(i + 1, len(known))]
    return [found for one, other in pairs if (found := _compare_two(*one, *other, forget))]


def _compare_two(
    one: str, ours: Sequence[str], other: str, theirs: Sequence[str], forget: Sequence[int]
) -> str | None:
    if not (is_anonymous(ours) or is_anonymous(theirs)):
        a, b = [plain_name(name) for name in ours], [plain_name(name) for name in theirs]
        for k in (*forget, *range(len(a))):
            if k < len(a) and a[k] in b and (k >= len(b) or a[k] != b[k]):
                raise InputError(
                    f"got {ours[k]!r} as class {k} of the {one} and class {b.index(a[k])} of the {other}; "
                    "expected one order of the classes: name them in one order, and number --forget by it"
                )
        differ = [k for k in range(min(len(a), len(b))) if a[k] != b[k]]
        if differ:
            differ.sort(key=lambda k: (k not in forget, k))
            some = ", ".join(f"{k} is {ours[k]!r} and {theirs[k]!r}" for k in differ[:3])
            return (
                f"the {one} and the {other} name {len(differ)} classes differently (class {some}); expected "
                "one name for a class: check that they number the same classes"
            )
    if len(ours) != len(theirs):
        return (
            f"the {one} has {len(ours)} classes and the {other} has {len(theirs)}; expected the same "
            "classes: check that both number the classes to forget alike"
        )
    return None


def is_anonymous(names: Sequence[str] | None) -> bool:
    """Return whether classes have no names, or only their numbers."""
    return names is None or [str(name) for name in names] == [str(k) for k in range(len(names))]


def plain_name(name: str) -> str:
    """Return a class name without differences of case and punctuation: "T-shirt_top" is "t shirt top"."""
    return " ".join("".join(c if c.isalnum() else " " for c in str(name).casefold()).split())
