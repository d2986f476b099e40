"""Names of families and rows, and how the page writes numbers and lists."""

from __future__ import annotations

import math
from collections.abc import Sequence

from unflow.methods import method_label, method_summary

MISSING = "–"

FAMILIES = {
    "flow": "Flow (many steps)",
    "flow_map": "Flow map (one step)",
    "generator": "Generator (one step)",
}

NAMES = {"target": "exact target"}
"""Names of rows that are no methods, where the key is not the name."""

ABOUT = {
    "original": "the trained model before the request",
    "target": "samples of the original kept by rejection: exact draws from q*",
    "floor": "two independent exact-target sets of the same size: no method is expected below it",
}
"""Explanations of rows that are no methods."""

TAGS = {
    "over-forgets": "fewer forgotten samples than the retrained model, by two standard errors",
    "recoverable": "the original is still inside: suppression, not removal",
}


def format_number(value: float | None, decimals: int = 2) -> str:
    """Return a number with fixed decimals, or – if not measured; only 0 is written as 0."""
    if value is None:
        return MISSING
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "∞" if value > 0 else "−∞"
    text = f"{value:,.{decimals}f}"
    if value != 0 and float(text.replace(",", "")) == 0:
        text = f"{value:.0e}"
    return text.replace("-", "−", 1) if text.startswith("-") else text


def row_label(row: str) -> str:
    """Return the name of a row in tables: the label of its method, or the key of an unknown row."""
    return NAMES.get(row) or method_label(row)


def describe_row(row: str) -> str:
    """Return an explanation of a row: the summary of its method, or "" for an unknown row."""
    return ABOUT.get(row) or method_summary(row)


def family_name(family: str) -> str:
    """Return the name of a family in headings; an unknown family's key."""
    return FAMILIES.get(family, family)


def join(parts: Sequence[str], word: str = "and") -> str:
    """Return a list as a phrase: "a, b and c"."""
    return f" {word} ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
