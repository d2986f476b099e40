"""The declared dependencies: the lowest versions are those that `make test-lowest` installs."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
UNTRIED = {"torch"}
"""Packages whose lowest version has no build that CI can install."""


def list_bounds() -> dict[str, str]:
    """Package -> its declared lower bound."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    found = [re.match(r"([\w-]+)(?:\[\w+\])?>=([\d.]+)", requirement) for requirement in declared]
    return {match[1]: match[2] for match in found if match}


def list_pins() -> dict[str, str]:
    """Package -> the version that constraints/lowest.txt pins."""
    lines = (ROOT / "constraints" / "lowest.txt").read_text().splitlines()
    pins = [
        (line.partition("==")[0], line.partition("==")[2])
        for line in lines
        if line and not line.startswith("#")
    ]
    return dict(pins)


def test_every_dependency_has_a_lower_bound() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert len(list_bounds()) == len(declared)


def test_the_lowest_versions_are_the_declared_bounds() -> None:
    assert list_pins() == {name: low for name, low in list_bounds().items() if name not in UNTRIED}


def test_the_lowest_versions_are_tested_by_ci() -> None:
    assert "make test-lowest" in (ROOT / ".ci" / "run").read_text().splitlines()
