"""The conditions that the specification of a model declares: classes by number, or prompts by name.

label=3                                   one fixed class
label=random:10,null=10                   ten classes, by number
label=random:10,one_hot=true              the same, read as one-hot vectors
table=prompts.safetensors,names=prompts.txt,null=...    a row of the table for each name
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unflow.foreign.specification import Readers, Specification
from unflow.ground.errors import InputError
from unflow.ground.files import check_regular, read_tensors
from unflow.models import NULL

ASKED = "random"
"""The label of a model that is asked: label=random, or label=random:10 with the number of conditions."""


@dataclass(frozen=True)
class Conditions:
    """The conditions of a specification.

    Attributes:
        label: the fixed class of a network, 0 for one that is asked; None for a network without labels.
        count: conditions of a model that is asked; None for another.
        table: what the network reads for each condition, [rows, ...]; None: the number.
        names: of the conditions; () for none.
        null: the condition that means none; None where there is none.
    """

    label: int | None = None
    count: int | None = None
    table: Tensor | None = None
    names: tuple[str, ...] = ()
    null: int | None = None

    @property
    def options(self) -> dict[str, Any]:
        """The options of an adapter; empty for a network without labels."""
        return {} if self.label is None else {"label": self.label, "table": self.table}


def read_label(text: str) -> int | str:
    """Return the number in "3"; "random" or "random:10" as it is.

    Raises:
        InputError: for anything else.
    """
    number = text.removeprefix(f"{ASKED}:")
    if text != ASKED and not (number.isdigit() and (number == text or int(number) > 0)):
        raise InputError(f"got label={text}; expected label=3, or label=random:10 with the number of classes")
    return int(text) if number == text and text != ASKED else text


def read_flag(text: str) -> bool:
    """Return the truth in "true" or "false"."""
    if text not in ("true", "false"):
        raise ValueError
    return text == "true"


def read_table(text: str) -> Tensor:
    """Return the only tensor of a safetensors file, [rows, ...], as float32.

    Raises:
        InputError: for another file, several tensors, and one that has no rows of finite numbers.
    """
    tensors, _ = read_tensors(Path(text))
    if len(tensors) != 1:
        raise InputError(
            f"{text} holds {len(tensors)} tensors; expected one, the embeddings of all conditions [n, ...]"
        )
    (table,) = tensors.values()
    if table.ndim < 2 or len(table) == 0 or not table.is_floating_point() or not table.isfinite().all():
        raise InputError(
            f"{text} holds a tensor {list(table.shape)} of {table.dtype}; expected finite numbers [n, ...], "
            "one row or several vectors for each condition"
        )
    return table.float()


def read_names(text: str) -> tuple[str, ...]:
    """Return the lines of a text file in UTF-8, without the spaces around them.

    Raises:
        InputError: for a file that is missing, of another encoding, or has an empty line.
    """
    path = Path(text)
    check_regular(path, "a text file with a name in each line")
    try:
        names = tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no text in UTF-8 ({error}); expected a name in each line") from error
    if not all(names) or not names:
        where = f"an empty line {names.index('') + 1}" if names else "no line"
        raise InputError(f"{path} has {where}; expected a name in each line")
    return names


READERS: Readers = {
    "label": read_label,
    "one_hot": read_flag,
    "table": read_table,
    "names": read_names,
    "null": int,
}
"""Options of a specification that declare conditions -> the functions that read them."""


def take_conditions(spec: Specification, ours: dict[str, Any], net: nn.Module) -> Conditions:
    """Remove the options of ``READERS`` from those of a specification, and return what they declare.

    Args:
        spec: for messages.
        ours: options by name, already read; those of the conditions are removed.
        net: the network, whose dtype the table gets.

    Raises:
        InputError: for options that contradict each other.
    """
    given = {name: ours.pop(name) for name in READERS if name in ours}
    label = given.get("label", ASKED if {"table", "names"} & given.keys() else None)
    names, null = _split_null(given.get("names", ()), given.get("null"), spec)
    found = Conditions(table=given.get("table"), names=names, null=null)
    if not isinstance(label, str):
        if {"one_hot", "names"} & given.keys():
            extra = "one_hot" if "one_hot" in given else "names"
            raise InputError(
                f"got label={label} with {extra} for {spec.source}; expected the number of classes: write "
                "label=random:10"
            )
        return replace(found, label=label)
    found = replace(found, label=0, count=_count(label, found, spec))
    if given.get("one_hot"):
        if found.table is not None:
            raise InputError(f"got table and one_hot for {spec.source}; expected one of them: leave one out")
        assert found.count is not None
        found = replace(found, table=torch.eye(found.count))
    elif found.table is not None:
        _check_rows(found, spec)
    if found.table is None:
        return found
    first = next(net.parameters(), found.table)
    return replace(found, table=found.table.to(first.dtype))


def _split_null(
    names: tuple[str, ...], null: int | None, spec: Specification
) -> tuple[tuple[str, ...], int | None]:
    """Return the names without a last one that is "null", and the null condition that it names."""
    if not names or names[-1] != NULL:
        return names, null
    if null is not None:
        raise InputError(
            f"got null={null} for {spec.source}, whose names end in null; expected one of them: leave null= "
            "out"
        )
    return names[:-1], len(names) - 1


def _count(label: str, found: Conditions, spec: Specification) -> int:
    """Return the number of conditions, which label=random:10, the names and the table must agree on."""
    number = label.removeprefix(f"{ASKED}:")
    if number.isdigit():
        return int(number)
    if found.names:
        return len(found.names)
    if found.table is not None:
        return len(found.table) - (found.null is not None)
    raise InputError(
        f"got label=random for {spec.source} without names and table; expected the number of classes: write "
        "label=random:10"
    )


def _check_rows(found: Conditions, spec: Specification) -> None:
    assert found.table is not None
    assert found.count is not None
    expected = found.count + (found.null is not None and found.null >= found.count)
    if len(found.table) != expected:
        null = "" if expected == found.count else " and a row of the null condition"
        raise InputError(
            f"got a table of {len(found.table)} rows for {spec.source}; expected {expected}: one for each of "
            f"{found.count} conditions{null}"
        )
