"""The split of a dataset between generator, judge and statistics, fixed before any training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

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
    """

    data: str
    fingerprint: str
    parts: dict[str, Tensor]

    def of(self, data: LabelledData, part: str) -> LabelledData:
        """Return the rows of one part.

        Raises:
            InputError: for an unknown part, or another dataset than the one that was split.
        """
        if part not in self.parts:
            raise InputError(f"got the part {part!r}; expected one of {', '.join(self.parts)}")
        if data.fingerprint != self.fingerprint:
            raise InputError(
                f"the split was made for other data ({self.data}, {self.fingerprint[:12]}) than "
                f"{data.name} ({data.fingerprint[:12]}); expected the same: make the split again"
            )
        return data.rows(self.parts[part])


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
        InputError: if the file is missing or not a split, or its parts overlap.
    """
    record = read_json(Path(path))
    try:
        parts = {name: torch.tensor(part["rows"]) for name, part in record["parts"].items()}
        split = Split(record["data"], record["fingerprint"], parts)
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{path} is no split ({error}); expected a file that `unflow demo` writes"
        ) from error
    rows = torch.cat(list(parts.values()))
    if len(torch.unique(rows)) != len(rows):
        raise InputError(f"the parts of {path} overlap; expected every row in one part only")
    return split
