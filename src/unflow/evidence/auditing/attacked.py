"""The attacks of an audit, the same on the original, the unlearned and the retrained model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from unflow.evidence import metrics
from unflow.evidence.attacks import (
    ConditionSearch,
    GuidanceSearch,
    LatentSearch,
    LinearProbe,
    MembershipInference,
    MixtureSearch,
    Relearning,
    find_original,
)
from unflow.evidence.attacks.reached import ask_forgotten
from unflow.evidence.attacks.relearning import Point, steps_to
from unflow.evidence.auditing.attacked_conditions import (
    ConditionSearches,
    attack_conditions,
    find_attack_obstacle,
    make_target_model,
)
from unflow.evidence.auditing.evidence import Evidence
from unflow.evidence.auditing.relearned import compare_sweeps, find_ratios
from unflow.evidence.auditing.scored import attack_scores, compare_scores, list_score_numbers
from unflow.evidence.condition_attacks import CONDITION_ATTACKS
from unflow.evidence.metrics.forgetting import is_forgotten
from unflow.evidence.score_attacks import SCORE_ATTACKS
from unflow.ground.progress import Progress
from unflow.ground.streams import Stream, stream
from unflow.models import Filtered, GenerativeModel, Latent, inner_model
from unflow.models.classifier import Classifier
from unflow.target import Target

Models = Mapping[str, GenerativeModel]


@dataclass(frozen=True, kw_only=True)
class Attacks:
    """Settings of the attacks of an audit.

    Attributes:
        relearning: settings of the training on a few images.
        search: settings of the search over latents.
        condition: settings of the search over a free condition of a conditional model.
        guidance: settings of the search over guidance.
        mixture: settings of the search over mixtures of two labels.
        membership: settings of membership inference.
        probe: settings of the linear probe.
        images: numbers of images of the forgotten classes that the attacker has, one curve each.
        rates: learning rates of the sweep of relearning, from the largest number of images; () for none.
        retained: images of the retained classes, for the curve without forgotten ones.
        samples: drawn to measure one point of a curve.
    """

    relearning: Relearning = field(default_factory=Relearning)
    search: LatentSearch = field(default_factory=LatentSearch)
    condition: ConditionSearch = field(default_factory=ConditionSearch)
    guidance: GuidanceSearch = field(default_factory=GuidanceSearch)
    mixture: MixtureSearch = field(default_factory=MixtureSearch)
    membership: MembershipInference = field(default_factory=MembershipInference)
    probe: LinearProbe = field(default_factory=LinearProbe)
    images: tuple[int, ...] = (1, 10, 100)
    rates: tuple[float, ...] = (1e-5, 1e-4, 1e-3)
    retained: int = 1000
    samples: int = 1000

    def __post_init__(self) -> None:
        self.list_sweep(has_decoder=False)  # a wrong rate is refused before the audit begins

    @property
    def most_images(self) -> str:
        """The largest number of images, as a name of a curve."""
        return str(max(self.images, default=0))

    def list_sweep(self, *, has_decoder: bool) -> list[Relearning]:
        """Return the trainings of the sweep: each rate, with a decoder frozen and then free."""
        return [
            replace(self.relearning, learning_rate=rate, free_decoder=free)
            for free in ([False, True] if has_decoder else [False])
            for rate in (self.rates if self.images else ())
        ]

    @property
    def over_condition(self) -> ConditionSearches:
        """The settings of the attacks over the condition."""
        return ConditionSearches(self.condition, self.guidance, self.mixture)


def attack(
    models: Models,
    evidence: Evidence,
    attacks: Attacks,
    seed: int,
    target: Target | None = None,
    obstacle: str | None = None,
) -> dict[str, Any]:
    """Attack every model and return the results side by side.

    Conditional models are attacked over the condition as well, and the exact target with them; they relearn
    from labelled images, and are asked for the forgotten labels.

    Args:
        models: row name -> model, "original" among them.
        evidence: judges, request, and the held-out images, which the attacker has.
        attacks: settings.
        seed: of images, latents and starts.
        target: the request; None: the exact target is not attacked.
        obstacle: why the labels are not the judge's classes, where that is known.

    Returns:
        As ``compare_attacks``.
    """
    original = models["original"]
    if original.conditional is None:
        records = {
            name: attack_one(model, evidence, attacks, seed, name, original=original)
            for name, model in models.items()
        }
        return compare_attacks(records, attacks)
    obstacle = obstacle or find_attack_obstacle(original, evidence)
    records = {
        name: attack_one(model, evidence, attacks, seed, name, original=original, labelled=obstacle is None)
        for name, model in models.items()
    }
    found = compare_attacks(records, attacks)
    if obstacle is not None:
        return found | {each: {row: {"obstacle": obstacle} for row in models} for each in CONDITION_ATTACKS}
    exact = make_target_model(target)
    if exact is not None:
        with Progress("attack target", 1) as progress:
            beside = attack_conditions(exact, evidence, attacks.over_condition, seed)
            progress.advance(1)
        found |= {each: found[each] | {"target": beside[each]} for each in CONDITION_ATTACKS}
    return found


def attack_one(
    model: GenerativeModel,
    evidence: Evidence,
    attacks: Attacks,
    seed: int,
    name: str = "",
    *,
    original: GenerativeModel,
    labelled: bool = False,
) -> dict[str, Any]:
    """Attack one model; return "rate", "inside", "latent_search", "curves", and ``SCORE_ATTACKS``.

    "rate" is the forget rate without an attack. With labels, the attacks over the condition come as well.

    Args:
        model: to attack; it is not changed.
        evidence: as in ``attack``.
        attacks: settings.
        seed: as in ``attack``.
        name: row name, for the progress line.
        original: before unlearning, which a chain or a filter contains.
        labelled: whether the classes are conditions of the model, which is then asked for the forgotten ones:
            by the attacks over the condition, and during relearning, whose images have labels.
    """
    curves = [*(str(k) for k in attacks.images), "retain"]
    sweep = attacks.list_sweep(has_decoder=isinstance(original, Latent))
    record: dict[str, Any] = {
        "rate": rate_of(model, evidence, attacks.samples, seed),
        "curves": {},
        "sweep": [],
    }
    if labelled:
        record["labelled_rate"] = labelled_rate_of(model, evidence, attacks.samples, seed)
    with Progress(f"attack {name}".strip(), len(curves) + 3 + len(sweep) + labelled) as progress:
        record["inside"] = _inside(model, original, evidence, attacks, seed)
        progress.advance(1)
        record["latent_search"] = _searched(model, evidence, attacks, seed)
        progress.advance(2)
        record |= attack_scores(
            model, original, evidence, attacks.membership, attacks.probe, seed, labelled=labelled
        )
        progress.advance(3)
        for done, k in enumerate(curves, 4):
            record["curves"][k] = _relearn(
                attacks.relearning, model, k, evidence, attacks, seed, labelled=labelled
            )
            progress.advance(done)
        for done, setting in enumerate(sweep, 4 + len(curves)):
            curve = record["curves"].get(attacks.most_images) if setting == attacks.relearning else None
            if curve is None:
                curve = _relearn(
                    setting, model, attacks.most_images, evidence, attacks, seed, labelled=labelled
                )
            record["sweep"].append(
                {"learning_rate": setting.learning_rate, "free_decoder": setting.free_decoder, "curve": curve}
            )
            progress.advance(done)
        if labelled:
            record |= attack_conditions(model, evidence, attacks.over_condition, seed)
    return record


def compare_attacks(records: Mapping[str, Mapping[str, Any]], attacks: Attacks) -> dict[str, Any]:
    """Return the results of the attacks on all models side by side.

    Args:
        records: row name -> result of ``attack_one``, "original" among them.
        attacks: settings.

    Returns:
        "rate": forget rates without an attack; "inside": the original inside a chain or filter, and its
        forget rate, None for models that do not contain it; "latent_search": shares of starts that reach a
        forgotten class, None without a second judge; "relearning": curves, and steps until half of the
        original's rate is back, per number of images; its
        rate where it is asked for the forgotten labels, if the images are "labelled"; a record for each row
        of each of ``SCORE_ATTACKS``; and, for conditional models, of each of ``CONDITION_ATTACKS``.
    """
    labelled = records["original"].get("labelled_rate") is not None
    half = records["original"]["labelled_rate" if labelled else "rate"] / 2
    images: dict[str, Any] = {}
    for k in records["original"]["curves"]:
        curves = {row: record["curves"][k] for row, record in records.items()}
        steps = {row: None if curve is None else steps_to(curve, half) for row, curve in curves.items()}
        images[k] = {"curves": curves, "steps_to_half": steps, "ratio": find_ratios(steps)}
    return {
        "rate": {row: record["rate"] for row, record in records.items()},
        "inside": {row: record["inside"] for row, record in records.items()},
        "latent_search": {row: record["latent_search"] for row, record in records.items()},
        "relearning": {
            "half": half,
            "steps": attacks.relearning.steps,
            "labelled": labelled,
            "images": images,
            **compare_sweeps(
                {row: record.get("sweep") or [] for row, record in records.items()}, attacks.most_images, half
            ),
        },
        **{
            each: compare_scores({row: record[each] for row, record in records.items()})
            for each in SCORE_ATTACKS
            if all(each in record for record in records.values())  # records of earlier versions have none
        },
        **{
            each: {row: record[each] for row, record in records.items()}
            for each in CONDITION_ATTACKS
            if labelled
        },
    }


def list_attack_shares(found: Mapping[str, Any], row: str) -> dict[str, Any]:
    """Return the numbers of one row for gates: shares that the attacks reach, AUCs, and their intervals.

    "relearned" is the largest share during relearning from forgotten images; "fewest_steps" are those until
    half of it is back in the best setting of the sweep, and "fewest_steps_ratio" their ratio to the retrained
    model's. Attacks that were impossible on
    the row are left out.

    Args:
        found: result of ``attack``.
        row: its name.
    """
    relearning = found["relearning"]
    searches = {each: (found.get(each) or {}).get(row) for each in ("latent_search", *CONDITION_ATTACKS)}
    known = {each: one for each, one in searches.items() if one is not None and "obstacle" not in one}
    curves = [images["curves"].get(row) for k, images in relearning["images"].items() if k != "retain"]
    ends = [point.value for curve in curves if curve for point in curve]
    scores = list_score_numbers(found, row)
    fewest = (relearning.get("fewest") or {}).get(row)
    ratio = (relearning.get("fewest_ratio") or {}).get(row)
    return {
        **{each: one["success_share"] for each, one in known.items()},
        **({"relearned": max(ends)} if ends else {}),
        **({"fewest_steps": fewest["steps"]} if fewest else {}),
        **({"fewest_steps_ratio": ratio} if ratio is not None else {}),
        **scores,
        "intervals": {each: one["interval"] for each, one in known.items()} | scores["intervals"],
    }


def rate_of(model: GenerativeModel, evidence: Evidence, n: int, seed: int) -> float:
    """Return the forget rate of n samples."""
    x = model.push_batches(model.prior(n, stream(seed, Stream.ATTACK_RATE)))
    return metrics.forget_rate(evidence.judge.probabilities(x), evidence.forget)


def labelled_rate_of(model: GenerativeModel, evidence: Evidence, n: int, seed: int) -> float | None:
    """Return the share of forgotten classes in n samples asked for with the forgotten labels.

    None for a model that does not draw them all.
    """
    if not _draws_forgotten(model, evidence):
        return None
    z = ask_forgotten(model, model.prior(n, stream(seed, Stream.ATTACK_ASKED)), evidence.forget)
    return metrics.forget_rate(evidence.judge.probabilities(model.push_batches(z)), evidence.forget)


def _draws_forgotten(model: GenerativeModel, evidence: Evidence) -> bool:
    inside = model.conditional
    return inside is not None and set(evidence.forget) <= set(inside.drawn)


# Taking off a chain or filter


def _inside(
    model: GenerativeModel, original: GenerativeModel, evidence: Evidence, attacks: Attacks, seed: int
) -> dict[str, Any] | None:
    """Return the original inside and its forget rate; None for a model that does not contain it."""
    inner = find_original(model, original)
    if inner is None:
        return None
    rate = rate_of(inner, evidence, attacks.samples, seed)
    return {"model": type(inner).__name__, "forget_rate": rate}


# Latent search


def _searched(
    model: GenerativeModel, evidence: Evidence, attacks: Attacks, seed: int
) -> dict[str, Any] | None:
    judge, second = evidence.judge, evidence.second
    if not isinstance(judge, Classifier) or not isinstance(second, Classifier):
        return None  # the search follows the judge's gradient, and the second judge confirms it
    search = attacks.search
    found = search(model, judge, second, evidence.forget, stream(seed, Stream.LATENT_SEARCH))
    return {
        "success_share": found.success_share,
        "interval": list(found.interval),
        "fooled_share": float(found.fooled.double().mean()),
        "starts": search.starts,
    }


# Relearning


def _images(evidence: Evidence, attacks: Attacks, name: str, seed: int) -> tuple[Tensor, Tensor]:
    """Return the images of the attacker, and their labels."""
    held_out = evidence.held_out
    inside = is_forgotten(held_out.labels, evidence.forget)
    (rows,) = (~inside if name == "retain" else inside).nonzero(as_tuple=True)
    order = torch.randperm(len(rows), generator=stream(seed, Stream.ATTACK_IMAGES))
    rows = rows[order[: attacks.retained if name == "retain" else int(name)]]
    return held_out.x[rows], held_out.labels[rows]


def _relearn(
    relearning: Relearning,
    model: GenerativeModel,
    name: str,
    evidence: Evidence,
    attacks: Attacks,
    seed: int,
    *,
    labelled: bool,
) -> list[Point] | None:
    """Return the curve of one training; None where there is nothing to relearn, or no label to ask for."""
    if isinstance(inner_model(model), Filtered):
        return None  # its weights are the original's: the filter can be taken off, nothing is relearned
    images, labels = _images(evidence, attacks, name, seed)
    if not labelled:
        return relearning(
            model,
            images,
            lambda attacked: rate_of(attacked, evidence, attacks.samples, seed),
            stream(seed, Stream.RELEARNING),
        )
    if not _draws_forgotten(model, evidence):
        return None  # it has no such label, so that it cannot be asked

    def measure(attacked: GenerativeModel) -> float:
        rate = labelled_rate_of(attacked, evidence, attacks.samples, seed)
        assert rate is not None
        return rate

    return relearning(model, images, measure, stream(seed, Stream.RELEARNING), labels)
