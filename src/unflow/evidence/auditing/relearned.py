"""The sweep of relearning over learning rates and decoders: each setting, and the attacker's best one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from unflow.evidence.attacks.relearning import steps_to

Record = Mapping[str, Any]
NAMED = ("learning_rate", "free_decoder")
"""The fields that identify a setting."""


def compare_sweeps(records: Mapping[str, Sequence[Record]], most_images: str, half: float) -> dict[str, Any]:
    """Return the sweeps of all rows side by side.

    Args:
        records: row name -> one record for each setting: "learning_rate", "free_decoder" and the "curve".
        most_images: the number of images, as a name.
        half: the share at which relearning counts as successful.

    Returns:
        "sweep": "images", and for each of the "settings" its curves, steps until ``half`` and ratios to the
        retrained model's; "fewest": for each row the steps in its best setting for the attacker, with the
        setting, None if no setting gets there; "fewest_ratio": these steps divided by the retrained model's.
        Nothing unless every row has a sweep.
    """
    original = records["original"]
    if not original or any(len(sweep) != len(original) for sweep in records.values()):
        return {}
    settings = []
    for k, named in enumerate(original):
        curves = {row: sweep[k]["curve"] for row, sweep in records.items()}
        steps = {row: None if curve is None else steps_to(curve, half) for row, curve in curves.items()}
        settings.append(
            {name: named[name] for name in NAMED}
            | {"curves": curves, "steps_to_half": steps, "ratio": find_ratios(steps)}
        )
    fewest = {row: _find_fewest(settings, row) for row in records}
    return {
        "sweep": {"images": int(most_images), "settings": settings},
        "fewest": fewest,
        "fewest_ratio": find_ratios({row: best["steps"] for row, best in fewest.items() if best}),
    }


def find_ratios(steps: Mapping[str, float | None]) -> dict[str, float] | None:
    """Return each model's steps divided by the retrained model's; None if the latter never gets there."""
    base = steps.get("retrained")
    if not base:
        return None
    return {name: value / base for name, value in steps.items() if value is not None}


def _find_fewest(settings: Sequence[Record], row: str) -> dict[str, Any] | None:
    reached = [setting for setting in settings if setting["steps_to_half"][row] is not None]
    if not reached:
        return None
    best = min(reached, key=lambda setting: setting["steps_to_half"][row])
    return {name: best[name] for name in NAMED} | {"steps": best["steps_to_half"][row]}
