"""The model card of a bundle, in Hugging Face's layout: the model, its lineage and its audit."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import yaml
from torch import nn

from unflow.models import GenerativeModel

TAGS = ["machine-unlearning", "generative-model"]
TASK = "unconditional-image-generation"
"""The Hub's name for the task of an image generator."""


class Audited(NamedTuple):
    """The audit's part of a model card.

    Attributes:
        results: one entry of "results" in Hugging Face's "model-index".
        sections: paragraphs of Markdown.
    """

    results: Mapping[str, Any]
    sections: Sequence[str]


def model_card(
    model: nn.Module, load: str, lineage: Mapping[str, Any], audited: Audited | None = None
) -> str:
    """Return README.md of a bundle.

    Args:
        model: the model in the bundle.
        load: name of the function of ``unflow`` that loads it.
        lineage: the content of lineage.json.
        audited: the audit's part; None for a model without an audit.
    """
    parts = [
        _front(model, lineage, audited),
        f"# {type(model).__name__}",
        _about(model, lineage),
        f'```python\nimport unflow\nmodel = unflow.{load}(folder)  # or "pretrained:ORG/NAME"\n```',
        *(() if audited is None else audited.sections),
        "## Lineage",
        f"```json\n{json.dumps(lineage, indent=2)}\n```",
    ]
    return "\n\n".join(parts) + "\n"


def _front(model: nn.Module, lineage: Mapping[str, Any], audited: Audited | None) -> str:
    front: dict[str, Any] = {"library_name": "unflow", "tags": [*TAGS, *_family(model)]}
    if draws_images(model):
        front["pipeline_tag"] = TASK
    if audited is not None:
        front["model-index"] = [{"name": _title(model, lineage), "results": [dict(audited.results)]}]
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
