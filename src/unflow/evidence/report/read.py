"""What a run folder says: audit.json, samples, training curves and lineage as plain records."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from unflow.ground.errors import InputError
from unflow.ground.files import read_json, read_json_lines

SCHEMA = 1
REFERENCES = ("original", "retrained", "target")


@dataclass(frozen=True)
class Row:
    """One line of the audit: a model of one family made by one method."""

    values: Mapping[str, Any]

    @property
    def family(self) -> str:
        """``flow``, ``flow_map`` or ``generator``."""
        return str(self.values["family"])

    @property
    def method(self) -> str:
        """A reference (``original``, ``retrained``, ``target``) or the name of a method."""
        return str(self.values["method"])

    @property
    def key(self) -> str:
        """The stem of the files that belong to this row: ``<family>-<method>``."""
        return f"{self.family}-{self.method}"

    @property
    def is_reference(self) -> bool:
        """Whether the row is there to be compared with."""
        return self.method in REFERENCES

    def number(self, name: str) -> float | None:
        """Return a measured number (``cost.x`` looks under ``cost``), or None if not measured."""
        found: Any = self.values
        for part in name.split("."):
            found = found.get(part) if isinstance(found, Mapping) else None
        is_number = isinstance(found, int | float) and not isinstance(found, bool)
        return float(found) if is_number else None

    def counts(self, name: str) -> NDArray[np.float64] | None:
        """Return ``class_counts`` or ``transition`` as an array, or None if not measured."""
        found = self.values.get(name)
        return None if found is None else np.asarray(found, dtype=np.float64)


@dataclass(frozen=True)
class Samples:
    """Samples of one row; what was not stored is None.

    Args:
        x: [n, *shape], images in [-1, 1].
        z: their latents, [n, *shape].
        label: the judge's class, [n].
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
        """Whether x is [n, 1 or 3, height, width]."""
        return self.x.ndim == 4 and self.x.shape[1] in (1, 3)

    def same_latents(self, other: Samples | None) -> bool:
        """Return whether both rows stored latents, and these are equal, one by one."""
        if other is None or self.z is None or other.z is None or len(self.x) != len(other.x):
            return False
        return self.z.shape == other.z.shape and bool(np.array_equal(self.z, other.z))


@dataclass(frozen=True)
class Strengths:
    """Samples of one request at several strengths, from the same latents.

    Args:
        strength: ascending, [s].
        x: [s, m, *shape], images in [-1, 1].
        label: the judge's class, [s, m].
        forget_rate: over all latents of the audit, [s].
    """

    strength: NDArray[Any]
    x: NDArray[Any]
    label: NDArray[Any]
    forget_rate: NDArray[Any]

    @property
    def is_image(self) -> bool:
        """Whether a sample is [1 or 3, height, width]."""
        return self.x.ndim == 5 and self.x.shape[2] in (1, 3)


@dataclass(frozen=True)
class Run:
    """Everything that the page is made from."""

    name: str
    audit: Mapping[str, Any]
    rows: Sequence[Row]
    config: Mapping[str, Any]
    split: Mapping[str, Any]
    samples: Mapping[str, Samples]
    strengths: Mapping[str, Strengths]
    curves: Mapping[str, list[dict[str, Any]]]
    lineage: Mapping[str, Mapping[str, Any]]

    @property
    def families(self) -> list[str]:
        """The families in the order of the audit."""
        return list(dict.fromkeys(row.family for row in self.rows))

    def rows_of(self, family: str) -> list[Row]:
        """Return a family's rows, references first."""
        rows = [row for row in self.rows if row.family == family]
        order = {name: i for i, name in enumerate(REFERENCES)}
        return sorted(rows, key=lambda row: order.get(row.method, len(order)))

    def row(self, family: str, method: str) -> Row | None:
        """Return the first row of a method in a family, or None."""
        found = (row for row in self.rows if (row.family, row.method) == (family, method))
        return next(found, None)

    @cached_property
    def request(self) -> Mapping[str, Any]:
        """The request: the audit's, else what the configuration says."""
        names = ("forget", "margin", "strength", "divergence")
        configured = {name: self.config[name] for name in names if name in self.config}
        return {**configured, **(self.audit.get("request") or {})}

    @cached_property
    def forget(self) -> list[int]:
        """The classes to forget; empty for a request that names none."""
        forget = self.request.get("forget")
        return [int(k) for k in ([forget] if isinstance(forget, int | str) else forget or [])]

    def class_name(self, index: int) -> str:
        """Return the name of a class, or its number."""
        names = self.audit.get("class_names") or []
        return str(names[index]) if 0 <= index < len(names) else str(index)

    @property
    def forgotten(self) -> str:
        """What is forgotten, as it stands in a sentence: ‘3’, or ‘3’ or ‘5’."""
        names = [f"‘{self.class_name(k)}’" for k in self.forget]
        return " or ".join(names) if 0 < len(names) <= 4 else "what was to be forgotten"


def read_run(run: Path) -> Run:
    """Read a run folder.

    Raises:
        InputError: if there is no audit.json, or a file is damaged or of another schema.
    """
    if not (run / "audit.json").is_file():
        raise InputError(
            f"{run} has no audit.json; expected a run folder that `unflow demo` or `unflow audit` "
            "wrote: audit the models first"
        )
    audit = _read_audit(run / "audit.json")
    rows = [Row(values) for values in audit["rows"]]
    files = {key: run / "samples" / f"{key}.npz" for key in dict.fromkeys(row.key for row in rows)}
    return Run(
        name=run.resolve().name,
        audit=audit,
        rows=rows,
        config=_read_config(run / "config.yaml"),
        split=read_json(run / "split.json") if (run / "split.json").is_file() else {},
        samples={key: _read_samples(path) for key, path in files.items() if path.is_file()},
        strengths=_read_strengths(run, rows),
        curves={_folder(run, p): read_json_lines(p) for p in sorted(run.rglob("metrics.jsonl"))},
        lineage={_folder(run, p): read_json(p) for p in sorted(run.rglob("lineage.json"))},
    )


def _read_strengths(run: Path, rows: Sequence[Row]) -> dict[str, Strengths]:
    files = {row.family: run / "samples" / f"{row.family}-strengths.npz" for row in rows}
    return {family: _strengths(path) for family, path in files.items() if path.is_file()}


def _strengths(path: Path) -> Strengths:
    arrays = _read_arrays(path, ("strength", "x", "label", "forget_rate"))
    try:
        found = Strengths(**arrays)
        whole = found.label.shape == found.x.shape[:2] and len(found.x) == len(found.strength)
    except TypeError:
        whole = False
    if not whole:
        raise InputError(f"{path} is damaged; expected what `unflow audit --strengths` wrote: run it again")
    return found


def _read_arrays(path: Path, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            return {name: file[name] for name in names if name in file.files}
    except (OSError, EOFError, ValueError, TypeError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path} is damaged; expected samples that `unflow audit` wrote: run it again"
        ) from error


def _folder(run: Path, path: Path) -> str:
    return path.parent.relative_to(run).as_posix()


def _read_audit(path: Path) -> dict[str, Any]:
    audit = read_json(path)
    schema = audit.get("schema") if isinstance(audit, dict) else None
    if schema != SCHEMA:
        raise InputError(f"{path} has schema {schema}; expected {SCHEMA}: run `unflow audit` again")
    rows = audit.get("rows")
    if not rows or not all(isinstance(r, dict) and {"family", "method"} <= r.keys() for r in rows):
        raise InputError(
            f'{path} has no usable "rows"; expected a list of rows that each have a family and a '
            "method: run `unflow audit` again"
        )
    return audit


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = yaml.safe_load(path.read_text()) if path.is_file() else {}
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not valid YAML; expected the file that unflow wrote") from error
    return config if isinstance(config, dict) else {}


def _read_samples(path: Path) -> Samples:
    arrays = _read_arrays(path, ("x", "z", "label", "energy", "probability"))
    if "x" not in arrays:
        raise InputError(f"{path} has no array x; expected samples that `unflow audit` wrote: run it again")
    samples = Samples(**arrays)
    for name in ("label", "energy", "probability"):
        array = getattr(samples, name)
        if array is not None and array.shape != (len(samples.x),):
            raise InputError(
                f"{path} has {name} of shape {list(array.shape)} for {len(samples.x)} samples; "
                f"expected [{len(samples.x)}]: run `unflow audit` again"
            )
    return samples
