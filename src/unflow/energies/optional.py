"""Packages that only some energies need."""

from __future__ import annotations

import importlib
from typing import Any

from unflow.ground.errors import InputError


def imported(package: str, extra: str) -> Any:
    """Return a package.

    Raises:
        InputError: if it is not installed, with the extra that brings it.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise InputError(
            f"the package {package} is not installed; expected it: write pip install 'unflow[{extra}]'"
        ) from error
