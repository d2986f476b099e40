"""Read a run folder: audit.json, samples, training logs and lineage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unflow.evidence.report.words import row_label
from unflow.evidence.row import SCHEMA, AuditRow, find_row, numbers_in, read_rows, sort_rows
from unflow.evidence.schema import check_audit
from unflow.ground.errors import InputError, shorten
from unflow.ground.files import read_arrays, read_json, read_json_lines, read_yaml


@dataclass(frozen=True)
class Samples:
    """Samples of one row; None for an array that was not stored.

    Attributes:
        x: samples, [n, *shape]; images are in [-1, 1].
        z: their latents, [n, *shape].
        label: class that the judge predicts, [n].
        energy: F(x), [n].
        probability: the judge's probability of the forgotten classes, [n].
    """

    x: NDArray[Any]
    z: NDArray[Any] | None = None
    label: NDArray[Any] | None = None
    energy: NDArray[Any] | None = None
    probability: NDArray[Any] | None = None

    @property
    def is_image(self) -> bool:
        """Whether x is [n, channels, height, width]."""
        return self.x.ndim == 4

    def same_latents(self, other: Samples | None) -> bool:
        """Return whether both rows stored latents, and all of them are equal."""
        if other is None or self.z is None or other.z is None or len(self.x) != len(other.x):
            return False
        return self.z.shape == other.z.shape and bool(np.array_equal(self.z, other.z))


@dataclass(frozen=True)
class Strengths:
    """Samples of one request at several strengths, from the same latents.

    Attributes:
        strength: ascending, [s].
        x: samples, [s, m, *shape]; images are in [-1, 1].
        label: class that the judge predicts, [s, m].
        forget_rate: over all latents of the audit, [s].
    """

    strength: NDArray[Any]
    x: NDArray[Any]
    label: NDArray[Any]
    forget_rate: NDArray[Any]

    @property
    def is_image(self) -> bool:
        """Whether a sample is [channels, height, width]."""
        return self.x.ndim == 5


@dataclass(frozen=True)
class Answers:
    """Samples of a conditional model by what it was asked for.

    Attributes:
        x: samples, [m, *shape]; images are in [-1, 1].
        condition: label that each was asked for, -1 for the null condition, [m].
        label: class that the judge predicts, [m].
    """

    x: NDArray[Any]
    condition: NDArray[Any]
    label: NDArray[Any]

    @property
    def is_image(self) -> bool:
        """Whether x is [m, channels, height, width]."""
        return self.x.ndim == 4


@dataclass(frozen=True)
class Run:
    """The content of a run folder."""

    name: str
    audit: Mapping[str, Any]
    rows: Sequence[AuditRow]
    config: Mapping[str, Any]
    split: Mapping[str, Any]
    samples: Mapping[str, Samples]
    strengths: Mapping[str, Strengths]
    curves: Mapping[str, list[dict[str, Any]]]
    lineage: Mapping[str, Mapping[str, Any]]
    answers: Mapping[str, Answers] = field(default_factory=dict)

    @property
    def families(self) -> list[str]:
        """The families in the order of the audit."""
        return list(dict.fromkeys(row.family for row in self.rows))

    def rows_of(self, family: str) -> list[AuditRow]:
        """Return a family's rows, references first."""
        return sort_rows(self.rows, family)

    def row(self, family: str, method: str) -> AuditRow | None:
        """Return the first row of a method in a family, or None."""
        return find_row(self.rows, family, method)

    def row_name(self, row: AuditRow) -> str:
        """Return the name of a row's method, with the seed if the table has several rows of the method."""
        is_repeated = sum(other.key == row.key for other in self.rows) > 1
        seed = f", seed {row.seed}" if is_repeated and row.seed is not None else ""
        return row_label(row.method) + seed

    def floor(self, family: str) -> Mapping[str, float]:
        """Return the distances between two independent sets of exact target samples, by measure."""
        return numbers_in((self.audit.get("floor") or {}).get(family) or {})

    @cached_property
    def request(self) -> Mapping[str, Any]:
        """The request as recorded by the audit, with missing fields taken from the configuration."""
        names = ("forget", "margin", "strength", "divergence")
        configured = {name: self.config[name] for name in names if name in self.config}
        return {**configured, **(self.audit.get("request") or {})}

    @cached_property
    def forget(self) -> list[int]:
        """The forgotten classes; empty if the request names none."""
        forget = self.request.get("forget")
        return [int(k) for k in ([forget] if isinstance(forget, int | str) else forget or [])]

    def class_name(self, index: int) -> str:
        """Return the name of a class, or its number."""
        names = self.audit.get("class_names") or []
        return str(names[index]) if 0 <= index < len(names) else str(index)

    @property
    def forgotten(self) -> str:
        """The forgotten classes as they appear in a sentence: "‘3’" or "‘3’ or ‘5’"."""
        names = [f"‘{self.class_name(k)}’" for k in self.forget]
        return " or ".join(names) if 0 < len(names) <= 4 else "a forgotten class"


def read_run(run: Path) -> Run:
    """Read a run folder.

    Raises:
        InputError: if audit.json is missing, or a file is damaged or has another schema.
    """
    if not (run / "audit.json").is_file():
        raise InputError(
            f"{run} has no audit.json; expected a run folder that `unflow demo` or `unflow audit` "
            "wrote: audit the models first"
        )
    audit = _read_audit(run / "audit.json")
    rows = read_rows(audit["rows"])
    files = {key: run / "samples" / f"{key}.npz" for key in dict.fromkeys(row.key for row in rows)}
    return Run(
        name=run.resolve().name,
        audit=audit,
        rows=rows,
        config=_read_config(run / "config.yaml"),
        split=_read_record(run / "split.json") if (run / "split.json").is_file() else {},
        samples={key: _read_samples(path) for key, path in files.items() if path.is_file()},
        strengths=_read_strengths(run, rows),
        curves={_relative_folder(run, p): read_json_lines(p) for p in sorted(run.rglob("metrics.jsonl"))},
        lineage={_relative_folder(run, p): _read_record(p) for p in sorted(run.rglob("lineage.json"))},
        answers={key: found for key in files if (found := _read_answers(run, key)) is not None},
    )


def _read_answers(run: Path, key: str) -> Answers | None:
    path = run / "samples" / f"{key}-asked.npz"
    if not path.is_file():
        return None
    arrays = _read_arrays(path, ("x", "condition", "label"))
    shapes = {name: array.shape[:1] for name, array in arrays.items()}
    if len(shapes) < 3 or arrays["x"].ndim < 2 or len(set(shapes.values())) > 1 or not arrays["x"].size:
        raise InputError(f"{path} is damaged; expected the file that `unflow audit` wrote: run it again")
    return Answers(**arrays)


def _read_record(path: Path) -> dict[str, Any]:
    record = read_json(path)
    if not isinstance(record, dict):
        raise InputError(f"{path} holds {shorten(repr(record))}; expected entries by name: write it again")
    return record


def _read_strengths(run: Path, rows: Sequence[AuditRow]) -> dict[str, Strengths]:
    files = {row.family: run / "samples" / f"{row.family}-strengths.npz" for row in rows}
    return {family: _read_family_strengths(path) for family, path in files.items() if path.is_file()}


def _read_family_strengths(path: Path) -> Strengths:
    arrays = _read_arrays(path, ("strength", "x", "label", "forget_rate"))
    try:
        found = Strengths(**arrays)
        is_complete = found.label.shape == found.x.shape[:2] and len(found.x) == len(found.strength)
    except TypeError:
        is_complete = False
    if not is_complete:
        raise InputError(
            f"{path} is damaged; expected the file that `unflow audit --strengths` wrote: run it again"
        )
    return found


def _read_arrays(path: Path, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    arrays = read_arrays(path, names, "samples that `unflow audit` wrote: run it again")
    for name, array in arrays.items():
        if array.dtype.kind not in "iufb":
            raise InputError(
                f"{path} has {name} of the type {array.dtype}; expected numbers: run `unflow audit` again"
            )
    return arrays


def _relative_folder(run: Path, path: Path) -> str:
    return path.parent.relative_to(run).as_posix()


def _read_audit(path: Path) -> dict[str, Any]:
    audit: dict[str, Any] = read_json(path)
    schema = audit.get("schema") if isinstance(audit, dict) else None
    if schema != SCHEMA:
        raise InputError(f"{path} has schema {schema}; expected {SCHEMA}: run `unflow audit` again")
    rows = audit.get("rows")
    if (
        not isinstance(rows, list)
        or not rows
        or not all(isinstance(r, dict) and {"family", "method"} <= r.keys() for r in rows)
    ):
        raise InputError(
            f'{path} has no usable "rows"; expected a list of rows that each have a family and a '
            "method: run `unflow audit` again"
        )
    check_audit(audit, str(path))
    return audit


def _read_config(path: Path) -> dict[str, Any]:
    config = read_yaml(path) if path.exists() else {}
    return config if isinstance(config, dict) else {}


def _read_samples(path: Path) -> Samples:
    arrays = _read_arrays(path, ("x", "z", "label", "energy", "probability"))
    if "x" not in arrays or arrays["x"].ndim < 2 or not arrays["x"].size:
        raise InputError(
            f"{path} has no array x [n, ...]; expected samples that `unflow audit` wrote: run it again"
        )
    samples = Samples(**arrays)
    for name in ("label", "energy", "probability"):
        array = getattr(samples, name)
        if array is not None and array.shape != (len(samples.x),):
            raise InputError(
                f"{path} has {name} of shape {list(array.shape)} for {len(samples.x)} samples; "
                f"expected [{len(samples.x)}]: run `unflow audit` again"
            )
    return samples
