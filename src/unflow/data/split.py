"""The split of a dataset between generator, judge and statistics, fixed before any training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unflow.data.dataset import LabelledData
from unflow.ground.errors import InputError
from unflow.ground.files import read_json, write_json

PARTS = ("train", "judge", "held_out")
"""train: for generators and the guide; judge: for the judge only; held_out: for statistics only."""


@dataclass(frozen=True)
class Split:
    """Disjoint row numbers of one dataset.

    Attributes:
        data: name of the dataset.
        fingerprint: fingerprint of the whole dataset.
        parts: part name -> sorted row numbers.
        hashes: part name -> fingerprint of its samples, where it is known.

    Raises:
        InputError: for row numbers that are negative, or in two places.
    """

    data: str
    fingerprint: str
    parts: dict[str, Tensor]
    hashes: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, rows in self.parts.items():
            if len(rows) and int(rows.min()) < 0:
                raise InputError(
                    f"got row {int(rows.min())} in the part {name} of a split; expected numbers >= 0: make "
                    "the split again"
                )
            if len(torch.unique(rows)) != len(rows):
                raise InputError(f"got a row twice in the part {name} of a split; expected each row once")
        every = torch.cat(list(self.parts.values())) if self.parts else torch.empty(0)
        if len(torch.unique(every)) != len(every):
            raise InputError("the parts of a split overlap; expected every row in one part only")

    def of(self, data: LabelledData, part: str) -> LabelledData:
        """Return the rows of one part.

        Raises:
            InputError: for an unknown or empty part, rows that the dataset does not have, or another dataset
                than the one that was split.
        """
        if part not in self.parts:
            raise InputError(f"got the part {part!r}; expected one of {', '.join(self.parts)}")
        if data.fingerprint != self.fingerprint:
            raise InputError(
                f"the split was made for other data ({self.data}, {self.fingerprint[:12]}) than "
                f"{data.name} ({data.fingerprint[:12]}); expected the same: make the split again"
            )
        for name, rows in self.parts.items():
            if len(rows) and int(rows.max()) >= len(data):
                raise InputError(
                    f"got row {int(rows.max())} in the part {name} of the split; {data.name} has rows 0 to "
                    f"{len(data) - 1}: make the split again"
                )
        if not len(self.parts[part]):
            raise InputError(f"the part {part} of the split is empty; expected samples in it: split again")
        chosen = data.rows(self.parts[part])
        if part in self.hashes and chosen.fingerprint != self.hashes[part]:
            raise InputError(
                f"the rows of the part {part} are not those that were split (sha256 {chosen.fingerprint[:12]}"
                f", expected {self.hashes[part][:12]}): make the split again, and do not edit its file"
            )
        return chosen


def split_data(
    data: LabelledData, seed: int, shares: tuple[float, float, float] = (0.5, 0.25, 0.25)
) -> Split:
    """Split at random into ``PARTS``; every class keeps its share in each part (within one sample)."""
    generator = torch.Generator().manual_seed(seed)
    rows: dict[str, list[Tensor]] = {part: [] for part in PARTS}
    for label in range(len(data.class_names)):
        members = (data.labels == label).nonzero()[:, 0]
        members = members[torch.randperm(len(members), generator=generator)]
        first = round(shares[0] * len(members))
        second = first + round(shares[1] * len(members))
        for part, chunk in zip(PARTS, members.tensor_split([first, second]), strict=True):
            rows[part].append(chunk)
    parts = {part: torch.cat(chunks).sort().values for part, chunks in rows.items()}
    return Split(data.name, data.fingerprint, parts)


def write_split(split: Split, data: LabelledData, path: Path) -> None:
    """Write a split as JSON, with the hash of the samples in each part."""
    parts = {
        name: {"n": len(rows), "sha256": data.rows(rows).fingerprint, "rows": rows.tolist()}
        for name, rows in split.parts.items()
    }
    write_json(path, {"data": split.data, "fingerprint": split.fingerprint, "parts": parts})


def read_split(path: str | Path) -> Split:
    """Return a split from its JSON file.

    Raises:
        InputError: if the file is missing or not a split, its parts overlap, or a part has another number of
            rows than the file states.
    """
    record = read_json(Path(path))
    try:
        parts = {str(name): _read_rows(name, part) for name, part in record["parts"].items()}
        hashes = {str(name): str(part["sha256"]) for name, part in record["parts"].items()}
        names = str(record["data"]), str(record["fingerprint"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is no split ({error}); expected the file of `unflow split`") from error
    try:
        return Split(*names, parts, hashes)
    except InputError as error:
        raise InputError(f"{path} is no split: {error}") from error


def _read_rows(name: str, part: Mapping[str, Any]) -> Tensor:
    """Return the row numbers of a part.

    Raises:
        ValueError: for anything but row numbers, and for another count than the file states.
    """
    rows = part["rows"]
    if not isinstance(rows, list) or not all(type(row) is int and abs(row) < 2**63 for row in rows):
        raise ValueError(f"the rows of the part {name} are not whole numbers")
    if type(part["n"]) is not int or part["n"] != len(rows):
        raise ValueError(f"the part {name} states {part['n']} rows and lists {len(rows)}")
    return torch.tensor(rows, dtype=torch.long)
