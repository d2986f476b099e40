"""Attacks on every row of a request: what could bring the forgotten back, beside the retrained model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from unflow.evidence.auditing import Attacks, Evidence, attack_one, compare_attacks
from unflow.evidence.report.terminal import format_cell, format_table, mean_sd
from unflow.evidence.reproduce.request import Request
from unflow.ground.files import stage

Found = Mapping[str, Any]
"""``auditing.together`` of one seed."""


def attacked(request: Request, attacks: Attacks) -> dict[str, Any]:
    """Return the attacks on every row of a request, each found on disk or made."""
    evidence = attack_evidence(request)
    records = {
        name: stage(request.out / "attacks" / f"{name}.json", partial(_one, request, name, evidence, attacks))
        for name in ("original", *request.rows)
    }
    return compare_attacks(records, attacks)


def attack_evidence(request: Request) -> Evidence:
    """Return what attacks are made with: two judges, and images that no model was trained on."""
    study = request.study
    return dataclasses.replace(request.evidence(), judge=study.classifier_judge, second=study.second_judge)


def _one(request: Request, name: str, evidence: Evidence, attacks: Attacks) -> dict[str, Any]:
    model = request.study.whole(request.model_of(name))
    return attack_one(model, evidence, attacks, request.study.seed, name)


def attack_table(found: Sequence[Found], rows: Sequence[str]) -> str:
    """Return one line per row: means and standard deviations over seeds.

    Args:
        found: of each seed.
        rows: names of the methods, in the order of the table.
    """
    images = list(found[0]["relearning"]["images"])
    head = [
        "",
        "forgotten left %",
        "inside %",
        "search finds it %",
        *(f"steps, {_caption(k)}" for k in images),
    ]
    lines = [[f"`{name}`", *_cells(found, name, images)] for name in ("original", *rows)]
    return format_table(head, lines)


def _caption(k: str) -> str:
    return "retained images" if k == "retain" else "1 image" if k == "1" else f"{k} images"


def _cells(found: Sequence[Found], name: str, images: Sequence[str]) -> list[str]:
    inside = [one["inside"][name] and one["inside"][name]["forget_rate"] for one in found]
    searches = [one["latent_search"][name] and one["latent_search"][name]["success_share"] for one in found]
    rates = [one["rate"][name] for one in found]
    return [
        *(_mean(shares, 100, 1) for shares in (rates, inside, searches)),
        *(_steps(found, name, k) for k in images),
    ]


def _steps(found: Sequence[Found], name: str, k: str) -> str:
    """Return the steps to half, their mean where every seed gets there, else how many do."""
    records = [one["relearning"]["images"][k] for one in found]
    if any(record["curves"][name] is None for record in records):
        return "–"
    steps = [record["steps_to_half"][name] for record in records]
    reached = [step for step in steps if step is not None]
    if len(reached) == len(steps):
        return _mean(reached, 1, 0)
    never = f"> {found[0]['relearning']['steps']}"
    return f"{never} ({len(reached)} of {len(steps)} get there)" if reached else never


def _mean(values: Sequence[float | None], factor: float, decimals: int) -> str:
    return format_cell(mean_sd("value", values), "value", {"value": ("", factor, decimals)})
