"""The classes that a classifier confuses most."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from unflow.data.dataset import LabelledData
from unflow.data.parts import name_class


def list_confusions(judged: Tensor, held_out: LabelledData, most: int = 3) -> list[dict[str, Any]]:
    """Return the classes that are confused most: label, judged class, share of the label, samples."""
    wrong = judged != held_out.labels
    pairs = Counter(zip(held_out.labels[wrong].tolist(), judged[wrong].tolist(), strict=True))
    sizes = held_out.labels.bincount()
    found = [{"label": a, "judged": b, "share": n / int(sizes[a]), "n": n} for (a, b), n in pairs.items()]
    return sorted(found, key=lambda each: -each["share"])[:most]


def describe_confusions(found: Sequence[Mapping[str, Any]], names: Sequence[str]) -> str:
    """Return "4 (deer) with 7 (horse) (3.2 %)": a class, the class that is judged instead, and the share."""
    pairs = (
        (*(name_class(each[key], names) for key in ("label", "judged")), each["share"]) for each in found
    )
    return ", ".join(f"{label} with {judged} ({100 * share:.1f} %)" for label, judged, share in pairs)
