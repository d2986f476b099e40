"""The model card of a bundle, in Hugging Face's layout: what it is, how it came about, how it was audited."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import yaml
from torch import nn

from unflow.evidence.report.terminal import COLUMNS, ORDER, cell, pipe_table, seconds_of, sorted_rows, titles
from unflow.models import GenerativeModel

TAGS = ["machine-unlearning", "generative-model"]
TASK = "unconditional-image-generation"
"""The Hub's word for what draws images."""


def model_card(
    model: nn.Module, load: str, lineage: Mapping[str, Any], audit: Mapping[str, Any] | None = None
) -> str:
    """Return README.md of a bundle.

    Args:
        model: what is in the bundle.
        load: the function of ``unflow`` that loads it.
        lineage: the content of lineage.json.
        audit: the content of audit.json, if the model was audited: its verdict, numbers and notes.
    """
    parts = [
        _front(model, lineage, audit),
        f"# {type(model).__name__}",
        _about(model, lineage),
        f'```python\nimport unflow\nmodel = unflow.{load}(folder)  # or "pretrained:ORG/NAME"\n```',
        *(() if audit is None else _audited(audit)),
        "## Lineage",
        f"```json\n{json.dumps(lineage, indent=2)}\n```",
    ]
    return "\n\n".join(parts) + "\n"


def _front(model: nn.Module, lineage: Mapping[str, Any], audit: Mapping[str, Any] | None) -> str:
    front: dict[str, Any] = {"library_name": "unflow", "tags": [*TAGS, *_family(model)]}
    if draws_images(model):
        front["pipeline_tag"] = TASK
    if audit is not None:
        front["model-index"] = [{"name": _title(model, lineage), "results": [_results(audit)]}]
    return f"---\n{yaml.safe_dump(front, sort_keys=False)}---"


def draws_images(model: nn.Module) -> bool:
    """Return whether a model draws images, [channels, height, width]."""
    return isinstance(model, GenerativeModel) and len(model.sample_shape) == 3


def _family(model: nn.Module) -> list[str]:
    return [str(model.family)] if hasattr(model, "family") else []


def _title(model: nn.Module, lineage: Mapping[str, Any]) -> str:
    request = lineage.get("request")
    return f"{type(model).__name__} without {request['words']}" if request else type(model).__name__


def _about(model: nn.Module, lineage: Mapping[str, Any]) -> str:
    count = sum(p.numel() for p in model.parameters())
    request = lineage.get("request")
    asked = f", asked to forget {request['words']}" if request else ""
    return f"{count:,} parameters. Made by `{lineage.get('method', 'unknown')}`{asked}."


# What an audit adds


def _results(audit: Mapping[str, Any]) -> dict[str, Any]:
    row = audited_row(audit)
    metrics = [
        {"type": key, "name": COLUMNS[key][0], "value": row[key] * COLUMNS[key][1]}
        for key in COLUMNS
        if isinstance(row.get(key), int | float)
    ]
    return {
        "task": {"type": TASK, "name": f"forget {audit['request']['words']}"},
        "dataset": {"type": "held_out", "name": "held-out samples"},
        "metrics": metrics,
    }


def _audited(audit: Mapping[str, Any]) -> list[str]:
    row = audited_row(audit)
    words = audit["verdicts"][f"{row['family']}-{row['method']}"]
    found = ["## Audit", " ".join(words), _table(audit, row["family"])]
    notes = "\n".join(f"* {note}" for note in audit["notes"])
    return [*found, notes] if notes else found


def audited_row(audit: Mapping[str, Any]) -> dict[str, Any]:
    """Return the row of the model that was audited: the first that is no reference."""
    return next(row for row in audit["rows"] if row["method"] not in ORDER)


def _table(audit: Mapping[str, Any], family: str) -> str:
    lines = []
    for row in sorted_rows(audit["rows"], family):
        values = row | {"seconds": seconds_of(row)}
        lines.append([f"`{row['method']}`", *(cell(values, key, COLUMNS) for key in COLUMNS)])
    return pipe_table(["row", *titles(COLUMNS)], lines).rstrip()
