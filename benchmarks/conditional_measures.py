"""What a conditional model draws when it is asked for each label, beside exact samples of the target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import Any

import torch
from torch import Tensor

import unflow as uf
from unflow.models import Conditional
from unflow.models.classifier import Classifier

GUIDANCE = (1.0, 2.0, 4.0)
PAIRS = 3
"""Independent pairs of exact target sets, between which the floor is measured."""
ASKING, EXACT = 910, 911
"""Random streams of the rows' latents and of the exact target's."""


@dataclass(frozen=True)
class Question:
    """A condition at a guidance scale.

    Attributes:
        label: class index, or "null".
        guidance: 1 is the model as it is.
    """

    label: int | str
    guidance: float = 1.0

    @property
    def key(self) -> str:
        """The label, and the guidance where it is not 1: 3, null, 3@4."""
        return f"{self.label}" if self.guidance == 1 else f"{self.label}@{self.guidance:g}"


def list_questions(model: Conditional, forget: int) -> list[Question]:
    """Return every label and null; for a flow also the forgotten label at the other guidance scales."""
    found = [*map(Question, model.drawn), Question("null")]
    scales = [g for g in GUIDANCE if g != 1 and model.family == "flow"]
    return found + [Question(forget, g) for g in scales]


def at_guidance(model: Conditional, guidance: float) -> Conditional:
    """Return the model at a guidance scale; at 1, a one-step model with a guidance of its own as it is."""
    return model if guidance == 1 else model.with_guidance(guidance)


def ask(model: Conditional, questions: Sequence[Question], n: int, seed: int) -> dict[str, Tensor]:
    """Return n samples for each question; every model gets the same latents."""
    return {
        q.key: at_guidance(model, q.guidance).sample(n, uf.stream(seed, ASKING, i), label=q.label)
        for i, q in enumerate(questions)
    }


def ask_target(
    target: uf.Target, questions: Sequence[Question], n: int, seed: int, which: int
) -> dict[str, Tensor]:
    """Return n exact samples of q*(x | c) for each question: the set ``which``, independent of all others."""
    found = {}
    for i, q in enumerate(questions):
        assert isinstance(target.model, Conditional)
        at = replace(target, model=at_guidance(target.model, q.guidance))
        found[q.key] = at.sample(n, uf.stream(seed, EXACT, which, i), label=q.label).x
    return found


def share(hits: Tensor) -> dict[str, float]:
    """Return a share with its 95 % interval (Wilson)."""
    low, high = uf.metrics.share_interval(int(hits.sum()), len(hits))
    return {"share": float(hits.double().mean()), "low": low, "high": high}


@torch.no_grad()
def judge_classes(judge: Classifier, x: Tensor) -> Tensor:
    """Return the judge's class of each sample."""
    return judge.probabilities(x).argmax(1)


@dataclass(frozen=True)
class Reference:
    """One request, its judge, and the features of exact target samples.

    Attributes:
        judge: counts classes; distances are between its features.
        forget: the label.
        exact: question -> features of ``PAIRS`` independent sets of exact target samples.
        floors: question -> mean and standard deviation of the distance of as many further sets to them.
        real: label -> features of real samples that no network was trained on.
    """

    judge: Classifier
    forget: int
    exact: Mapping[str, Sequence[Tensor]]
    floors: Mapping[str, Sequence[float]]
    real: Mapping[int, Tensor]


def fd(features: Tensor, reference: Tensor) -> float:
    return uf.metrics.frechet_distance(generated=features, reference=reference)


def make_reference(
    target: uf.Target,
    judge: Classifier,
    forget: int,
    questions: Sequence[Question],
    n: int,
    seed: int,
    real: Mapping[int, Tensor],
) -> tuple[Reference, dict[str, Any]]:
    """Draw the exact target; return the reference, and the record of the target's row.

    The record's shares are of all sets together, its distances the floors.
    """
    exact: dict[str, list[Tensor]] = {q.key: [] for q in questions}
    found: dict[str, list[float]] = {q.key: [] for q in questions}
    classes: dict[str, list[Tensor]] = {q.key: [] for q in questions}
    features: dict[str, Tensor] = {}
    for which in range(2 * PAIRS):
        for key, x in ask_target(target, questions, n, seed, which).items():
            classes[key].append(judge_classes(judge, x))
            features[key] = judge.features(x)
            if which % 2 == 0:
                exact[key].append(features[key])
            else:
                found[key].append(fd(features[key], exact[key][-1]))
    floors = {key: [fmean(values), stdev(values)] for key, values in found.items()}
    real_features = {k: judge.features(x) for k, x in real.items()}
    reference = Reference(judge, forget, exact, floors, real_features)
    together = {key: torch.cat(parts) for key, parts in classes.items()}
    return reference, describe(
        reference, together, features, {key: mean for key, (mean, _) in floors.items()}
    )


def measure(reference: Reference, samples: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the record of a row from its samples by question."""
    features = {key: reference.judge.features(x) for key, x in samples.items()}
    classes = {key: judge_classes(reference.judge, x) for key, x in samples.items()}
    distances = {key: fmean(fd(features[key], each) for each in reference.exact[key]) for key in samples}
    found = describe(reference, classes, features, distances)
    return found | {"finite": all(bool(torch.isfinite(x).all()) for x in samples.values())}


def describe(
    reference: Reference,
    classes: Mapping[str, Tensor],
    features: Mapping[str, Tensor],
    distances: Mapping[str, float],
) -> dict[str, Any]:
    """Return shares and distances by question; UA and RA are those of the field (arXiv 2409.11219)."""
    forget = reference.forget
    asked = {
        key: share(found == forget) for key, found in classes.items() if key.split("@")[0] == str(forget)
    }
    labels: list[dict[str, Any]] = [
        {
            "label": k,
            "own": share(classes[str(k)] == k),
            "distance": distances[str(k)],
            "floor": reference.floors[str(k)][0],
            "real": fd(features[str(k)], reference.real[k]),
        }
        for k in sorted(reference.real)
        if k != forget
    ]
    drawn = classes[str(forget)].bincount(minlength=reference.judge.num_classes).double()
    return {
        "asked": {key.partition("@")[2] or "1": value for key, value in asked.items()},
        "null": share(classes["null"] == forget),
        "labels": labels,
        "others": {
            key: {"distance": distances[key], "floor": reference.floors[key][0]}
            for key in distances
            if key == "null" or key.split("@")[0] == str(forget)
        },
        "drawn": (drawn / drawn.sum()).tolist(),
        "ua": 1 - asked[str(forget)]["share"],
        "ra": fmean(each["own"]["share"] for each in labels),
    }


def list_misses(row: Mapping[str, Any], original: Mapping[str, Any], target: Mapping[str, Any]) -> list[str]:
    """Return the bounds of a conditional model that has forgotten, which a row misses.

    The exact target has no seconds.
    """
    asked = [row["asked"][g]["share"] - target["asked"][g]["share"] for g in row["asked"]]
    own = [
        a["own"]["share"] - b["own"]["share"] for a, b in zip(row["labels"], original["labels"], strict=True)
    ]
    over = [each["distance"] / each["floor"] for each in row["labels"]]
    missed = {
        "asked": max(asked) > 0.02,
        "own": min(own) < -0.01,
        "distance": max(over) > 2,
        "null": row["null"]["share"] - target["null"]["share"] > 0.02,
        "seconds": row.get("share_of_training", 0) > 0.2,
    }
    return [name for name, is_missed in missed.items() if is_missed]


def forgets_too_much(row: Mapping[str, Any], target: Mapping[str, Any]) -> list[str]:
    """Return the questions at which a row draws significantly less of the forgotten class than the target.

    The 95 % intervals of both shares do not meet.
    """
    pairs = {f"asked at {g}": (row["asked"][g], target["asked"][g]) for g in row["asked"]}
    pairs["null"] = row["null"], target["null"]
    return [name for name, (own, exact) in pairs.items() if own["high"] < exact["low"]]
