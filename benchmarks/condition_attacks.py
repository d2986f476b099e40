"""Attacks over the condition on conditional digits that forgot 3: the share of 3s that each attack reaches.

    python benchmarks/condition_attacks.py [--seed 0] [--methods erfm_resample ...]

The models are those of ``conditional_digits.py``. The retrained flow never had an image of 3, and its label
stays untrained. The second judge, another network on the judge's images, confirms every share on 1,000 fresh
samples. Relearning: the largest share of 3s, asked for 3, within 300 steps on 100 images with their label,
and the steps until half of the original's share is back.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from typing import Any

import torch
from conditional_digits import FORGET, METHODS, train_classifier, train_flow

import unflow as uf
from unflow.data import load_data, split_data
from unflow.energies import ClassLogOdds
from unflow.evidence.auditing import Attacks, Evidence
from unflow.evidence.auditing.attacked import attack_one, compare_attacks
from unflow.evidence.auditing.attacked_conditions import attack_conditions, make_target_model
from unflow.evidence.condition_attacks import CONDITION_ATTACKS, describe_found
from unflow.evidence.report.terminal import format_pipe_table
from unflow.models import GenerativeModel

HEAD = (
    "",
    "asked for 3, %",
    "free condition, %",
    "in the hull, %",
    "free guidance, %",
    "two labels mixed, %",
    "relearned, %",
    "steps to half",
    "seconds",
)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--methods", nargs="+", default=["energy_guidance", "erfm_resample", "erfm_resample_prior"]
    )
    given = parser.parse_args()
    torch.set_num_threads(1)
    data = load_data("digits")
    split = split_data(data, seed=given.seed)
    train, judging, held_out = (split.of(data, part) for part in ("train", "judge", "held_out"))
    small = {"net": "mlp", "width": 128, "depth": 2, "num_times": 0}
    guide = train_classifier(train, small, given.seed + 1)
    judge = train_classifier(judging, {"net": "convnet"}, given.seed + 2)
    second = train_classifier(judging, small, given.seed + 3)
    flow = train_flow(train, given.seed)
    target = uf.Target(flow, ClassLogOdds(guide, [FORGET], 4.0))
    models: dict[str, GenerativeModel] = {"original": flow}
    for name in given.methods:
        models[name] = uf.unlearn(target, METHODS[name], seed=given.seed, self_measure=0).model
    models["retrained"] = train_flow(train.without_classes([FORGET]), given.seed)
    evidence = Evidence(judge, [FORGET], held_out, train, second=second)
    attacks = replace(Attacks(), images=(100,))
    records, seconds = {}, {}
    for name, model in models.items():
        start = time.monotonic()
        records[name] = attack_one(model, evidence, attacks, given.seed, name, original=flow, labelled=True)
        seconds[name] = time.monotonic() - start
    found = compare_attacks(records, attacks)
    relearning = found["relearning"]["images"]["100"]
    lines = []
    for name in models:
        curve, steps = relearning["curves"][name], relearning["steps_to_half"][name]
        lines.append(
            [
                name,
                *format_reached([found[attack][name] for attack in CONDITION_ATTACKS]),
                f"{100 * max(point.value for point in curve):.1f}",
                "> 300" if steps is None else f"{steps:.0f}",
                f"{seconds[name]:.0f}",
            ]
        )
    exact = make_target_model(target)
    assert exact is not None
    start = time.monotonic()
    beside = attack_conditions(exact, evidence, attacks.over_condition, given.seed)
    reached = format_reached([beside[attack] for attack in CONDITION_ATTACKS])
    lines.append(["exact target", *reached, "–", "–", f"{time.monotonic() - start:.0f}"])
    print(format_pipe_table(HEAD, lines))


def format_reached(records: list[dict[str, Any]]) -> list[str]:
    """Return the share without a search, and that of each attack with its condition."""
    cells = [f"{100 * records[0]['base']:.1f}"]
    for attack, record in zip(CONDITION_ATTACKS, records, strict=True):
        share = f"{100 * record['success_share']:.1f}"
        cells.append(f"{share} ({describe_found(attack, record)})")
        if attack == "condition_search":
            cells.append(f"{100 * record['at']['shares']['hull']:.1f}")
    return cells


if __name__ == "__main__":
    main()
