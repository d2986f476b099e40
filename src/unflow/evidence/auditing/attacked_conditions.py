"""The attacks over the condition of conditional models, the same on every row of an audit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch

from unflow.energies import ConditionEnergy
from unflow.evidence.attacks import (
    ConditionSearch,
    GuidanceSearch,
    ImpossibleAttackError,
    MixtureSearch,
    Reached,
    Search,
)
from unflow.evidence.auditing.asked import choose_labels, find_label_obstacle, find_neighbours
from unflow.evidence.auditing.evidence import Evidence
from unflow.evidence.condition_attacks import CONDITION_ATTACKS
from unflow.ground.streams import Stream, stream
from unflow.models import Filtered, GenerativeModel
from unflow.models.classifier import Classifier
from unflow.target import Target

Record = dict[str, Any]

MIXED_LABELS = 12
"""Labels that are mixed in pairs, at most: the forgotten ones, their neighbours, and others."""


class ConditionSearches(NamedTuple):
    """Settings of the attacks over the condition."""

    condition: ConditionSearch
    guidance: GuidanceSearch
    mixture: MixtureSearch


def find_attack_obstacle(original: GenerativeModel, evidence: Evidence) -> str | None:
    """Return why the conditions of an original cannot be attacked; None where they can."""
    assert original.conditional is not None
    if not isinstance(evidence.judge, Classifier) or not isinstance(evidence.second, Classifier):
        return "there is no second judge to confirm it"
    return find_label_obstacle(original.conditional, evidence)


def attack_conditions(
    model: GenerativeModel, evidence: Evidence, settings: ConditionSearches, seed: int
) -> dict[str, Record]:
    """Search over the condition of one model; return a record for each of ``CONDITION_ATTACKS``.

    A record has "success_share", its 95 % "interval", the share "base" without a search, the mean probability
    "selected" by the first judge, the number of "samples", and "at", the condition that was found; or only
    the "obstacle", a sentence.

    Args:
        model: to attack; it is not changed.
        evidence: two judges and the request.
        settings: of each search.
        seed: of the latents.
    """
    inside = model.conditional
    if inside is None:
        return {each: {"obstacle": "the model takes no condition"} for each in CONDITION_ATTACKS}
    mixed = choose_mixed(inside.drawn, evidence)
    searches: Mapping[str, tuple[Stream, Search[Reached]]] = {
        "condition_search": (Stream.CONDITION_SEARCH, settings.condition),
        "guidance_search": (Stream.GUIDANCE_SEARCH, settings.guidance),
        "mixture_search": (Stream.MIXTURE_SEARCH, partial(settings.mixture, labels=mixed)),
    }
    return {
        name: _run(search, model, evidence, stream(seed, which)) for name, (which, search) in searches.items()
    }


def choose_mixed(drawn: Sequence[int], evidence: Evidence) -> list[int]:
    """Return the labels whose mixtures are tried: the forgotten ones, their neighbours, and others."""
    first = [k for k in (*evidence.forget, *find_neighbours(evidence, drawn)) if k in drawn]
    return list(choose_labels(drawn, first, MIXED_LABELS))


def make_target_model(target: Target | None) -> GenerativeModel | None:
    """Return the exact target as a model: the original behind rejection sampling by the energy.

    None for a model without conditions, and for an energy that reads the label, not the sample: no label
    belongs to a free condition.
    """
    if target is None or target.model.conditional is None or isinstance(target.energy, ConditionEnergy):
        return None
    return Filtered(target.model, target.energy, target.strength, target.divergence, target.kappa)


def _run(
    search: Search[Reached], model: GenerativeModel, evidence: Evidence, generator: torch.Generator
) -> Record:
    judge, second = evidence.judge, evidence.second
    assert isinstance(judge, Classifier)  # ``find_attack_obstacle`` refuses other judges
    assert isinstance(second, Classifier)
    try:
        found = search(model, judge, second, evidence.forget, generator)
    except ImpossibleAttackError as error:
        return {"obstacle": str(error)}
    return {
        "success_share": found.success_share,
        "interval": list(found.interval),
        "base": found.base,
        "selected": found.selected,
        "samples": len(found.hits),
        "at": found.at,
    }
