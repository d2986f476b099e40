"""The attacks that score points: their names, and sentences about their results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Record = Mapping[str, Any]

SCORES = {
    "membership": {
        "distance": "by distance",
        "loss": "by loss",
        "null_distance": "by distance from the null condition",
        "null_loss": "by loss at the null condition",
    },
    "linear_probe": {"middle": "in the middle layer", "last": "in the last layer"},
}
"""Attack -> score -> words, in the order of every table."""
SCORE_ATTACKS = tuple(SCORES)
"""Names of the attacks that score points."""
NAMES = {"membership": "membership inference", "linear_probe": "a linear probe"}
WHAT = {
    "membership": "training images of it from other images of it",
    "linear_probe": "it from the other classes by hidden activations",
}


def list_scores(attacks: Mapping[str, Any], row: str) -> Iterator[tuple[str, str, Record]]:
    """Return attack, score and record of each AUC of a row, in the order of every table.

    Args:
        attacks: record of the attacks.
        row: its name.
    """
    for attack, scores in SCORES.items():
        found = ((attacks.get(attack) or {}).get(row) or {}).get("scores") or {}
        yield from ((attack, score, found[score]) for score in scores if score in found)


def describe_score_attacks(row: str, attacks: Mapping[str, Any]) -> str:
    """Return the AUCs of a row beside the retrained model's, or why there are none; "" without any.

    Args:
        row: its name.
        attacks: record of the attacks.
    """
    sentences = []
    for attack in SCORE_ATTACKS:
        record = (attacks.get(attack) or {}).get(row)
        if record is None:
            continue
        name = NAMES[attack][0].upper() + NAMES[attack][1:]
        if record.get("obstacle"):
            sentences.append(f"{name} was not possible: {record['obstacle']}.")
        elif record["scores"]:
            told = " and ".join(_describe_told(attack, row, score, attacks) for score in record["scores"])
            sentences.append(f"{name} tells {WHAT[attack]} with AUC {told}.")
    return " ".join(sentences)


def list_worse(attacks: Mapping[str, Any], row: str) -> list[str]:
    """Return the scores by which a row is told more surely than the retrained model, each in words.

    Args:
        attacks: record of the attacks.
        row: its name.
    """
    return [
        f"{NAMES[attack]} {SCORES[attack][score]}: AUC {record['auc']:.2f}, "
        f"{record['auc'] - record['difference']:.2f} in the retrained model"
        for attack, score, record in list_scores(attacks, row)
        if record.get("worse")
    ]


def _describe_told(attack: str, row: str, score: str, attacks: Mapping[str, Any]) -> str:
    record = attacks[attack][row]["scores"][score]
    low, high = record["interval"]
    difference = record.get("difference")
    beside = "" if difference is None else f" ({record['auc'] - difference:.2f} in the retrained model)"
    return f"{record['auc']:.2f} [{low:.2f}, {high:.2f}] {SCORES[attack][score]}{beside}"
