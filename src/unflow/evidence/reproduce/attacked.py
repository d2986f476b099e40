"""Attacks on every row of a request, the retrained model included, and their table."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from unflow.evidence.auditing import Attacks, Evidence, attack_one, compare_attacks
from unflow.evidence.condition_attacks import CONDITION_ATTACKS, NAMES
from unflow.evidence.report.terminal import format_cell, format_pipe_table, mean_sd
from unflow.evidence.reproduce.request import Request
from unflow.evidence.score_attacks import SCORES, list_scores
from unflow.ground.files import stage

NAMED = {"membership": "membership", "linear_probe": "probe"}
"""Column headings of the attacks that score points."""
Found = Mapping[str, Any]
"""The result of ``attack_rows`` for one seed."""


def attack_rows(request: Request, attacks: Attacks) -> dict[str, Any]:
    """Attack every row of a request, or load the results from disk."""
    evidence = make_attack_evidence(request)
    records = {
        name: stage(
            request.out / "attacks" / f"{name}.json", partial(_attack_row, request, name, evidence, attacks)
        )
        for name in ("original", *request.rows)
    }
    return compare_attacks(records, attacks)


def make_attack_evidence(request: Request) -> Evidence:
    """Return the evidence for attacks: two judges, and images that no model was trained on."""
    study = request.study
    return dataclasses.replace(
        request.make_evidence(), judge=study.classifier_judge, second=study.second_judge
    )


def _attack_row(request: Request, name: str, evidence: Evidence, attacks: Attacks) -> dict[str, Any]:
    study = request.study
    model, original = (request.find_images_model(each) for each in (name, "original"))
    return attack_one(
        model, evidence, attacks, study.seed, name, original=original, labelled=study.conditional
    )


def format_attacks(found: Sequence[Found], rows: Sequence[str]) -> str:
    """Return one line per row: means and standard deviations over seeds.

    Args:
        found: results of ``attack_rows``, one per seed.
        rows: names of the methods, in the order of the table.
    """
    images = list(found[0]["relearning"]["images"])
    head = [
        "",
        "forgotten left %",
        "original inside %",
        "search finds it %",
        *(f"{NAMES[attack]} %" for attack in _list_condition_attacks(found)),
        *(f"steps, {_name_images(k)}" for k in images),
        *(["steps, best setting"] if _has_sweep(found) else []),
        *(f"{NAMED[attack]}, {score.replace('_', ' ')}: AUC" for attack, score in _list_scores(found)),
    ]
    lines = [[f"`{name}`", *_format_cells(found, name, images)] for name in ("original", *rows)]
    return format_pipe_table(head, lines)


def _list_condition_attacks(found: Sequence[Found]) -> list[str]:
    """Return the attacks over the condition that were made; none on models without conditions."""
    return [attack for attack in CONDITION_ATTACKS if attack in found[0]]


def _name_images(k: str) -> str:
    return "retained images" if k == "retain" else "1 image" if k == "1" else f"{k} images"


def _format_cells(found: Sequence[Found], name: str, images: Sequence[str]) -> list[str]:
    inside = [one["inside"][name] and one["inside"][name]["forget_rate"] for one in found]
    searches = [one["latent_search"][name] and one["latent_search"][name]["success_share"] for one in found]
    rates = [one["rate"][name] for one in found]
    return [
        *(_format_mean(shares, 100, 1) for shares in (rates, inside, searches)),
        *(_format_condition_attack(found, name, attack) for attack in _list_condition_attacks(found)),
        *(_format_steps(found, name, k) for k in images),
        *([_format_fewest(found, name)] if _has_sweep(found) else []),
        *(_format_auc(found, name, *each) for each in _list_scores(found)),
    ]


def _has_sweep(found: Sequence[Found]) -> bool:
    return all(one["relearning"].get("fewest") for one in found)


def _list_scores(found: Sequence[Found]) -> list[tuple[str, str]]:
    """Return attack and score of each AUC that some row has."""
    rows = found[0]["rate"]
    known = {(attack, score) for row in rows for attack, score, _ in list_scores(found[0], row)}
    return [(attack, score) for attack in SCORES for score in SCORES[attack] if (attack, score) in known]


def _format_auc(found: Sequence[Found], name: str, attack: str, score: str) -> str:
    """Return the mean AUC; a dash where the attack is impossible on the row."""
    records = [{each[:2]: each[2] for each in list_scores(one, name)} for one in found]
    return _format_mean(
        [each[attack, score]["auc"] if (attack, score) in each else None for each in records], 1, 2
    )


def _format_fewest(found: Sequence[Found], name: str) -> str:
    """Return the mean number of steps to half in the attacker's best setting of each seed."""
    best = [one["relearning"]["fewest"][name] for one in found]
    return _format_mean([each and each["steps"] for each in best], 1, 1)


def _format_condition_attack(found: Sequence[Found], name: str, attack: str) -> str:
    """Return the mean success; a dash where the attack is impossible on the row."""
    return _format_mean([one[attack][name].get("success_share") for one in found], 100, 1)


def _format_steps(found: Sequence[Found], name: str, k: str) -> str:
    """Return the mean number of steps to half; if some seeds do not reach it, how many do."""
    records = [one["relearning"]["images"][k] for one in found]
    if any(record["curves"][name] is None for record in records):
        return "–"
    steps = [record["steps_to_half"][name] for record in records]
    reached = [step for step in steps if step is not None]
    if len(reached) == len(steps):
        return _format_mean(reached, 1, 0)
    never = f"> {found[0]['relearning']['steps']}"
    return f"{never} ({len(reached)} of {len(steps)} get there)" if reached else never


def _format_mean(values: Sequence[float | None], factor: float, decimals: int) -> str:
    return format_cell(mean_sd("value", values), "value", {"value": ("", factor, decimals)})
