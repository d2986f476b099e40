"""`unflow doctor`."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, requires, version

SETTINGS = {"OMP_WAIT_POLICY": "PASSIVE", "OPENBLAS_NUM_THREADS": "1"}
"""Environment variable -> the value that keeps training fast on a busy CPU."""


def run() -> None:
    """Print versions, threads, devices, OMP settings, missing packages, plugins and methods."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from unflow.methods import UNLEARNERS

    methods = [(name, method.summary) for name, method in UNLEARNERS.items()]
    for title, rows in ("unflow doctor", collect_findings()), ("methods", methods):
        table = Table(show_header=False, title=title, title_justify="left")
        for name, value in rows:
            table.add_row(escape(name), escape(value))
        Console().print(table)


def collect_findings() -> list[tuple[str, str]]:
    """Return the findings, as pairs of name and value."""
    import torch

    from unflow.foreign.energies import INSTALLED as ENERGIES
    from unflow.methods import INSTALLED as METHODS

    rows = [("python", platform.python_version()), ("unflow", version("unflow"))]
    rows += [(name, _version(name)) for name in list_requirements(extra=None)]
    rows.append(("cores", str(os.cpu_count())))
    rows.append(("torch threads", f"{torch.get_num_threads()} (commands on small models use 1)"))
    cuda = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none"
    rows.append(("cuda", cuda))
    rows.append(("mps", "available" if torch.backends.mps.is_available() else "none"))
    for name, advice in SETTINGS.items():
        value = os.environ.get(name, "not set")
        rows.append((name, value if value == advice else f"{value} (advice: {advice})"))
    for extra in ("dev",):
        missing = [name for name in list_requirements(extra) if _version(name) == "missing"]
        rows.append((f"extra [{extra}]", f"missing: {', '.join(missing)}" if missing else "complete"))
    families = (("method", METHODS), ("energy", ENERGIES))
    rows += [(f"{what} {name}", found) for what, family in families for name, found in family.report()]
    return rows


def list_requirements(extra: str | None) -> list[str]:
    """Return the packages that unflow requires, or those of one extra."""
    names = []
    for requirement in requires("unflow") or []:
        spec, _, marker = requirement.partition(";")
        wanted = f'extra == "{extra}"' if extra else ""
        if (wanted in marker.replace("'", '"')) if extra else not marker:
            names.append("".join(c if c.isalnum() or c in "-_." else " " for c in spec).split()[0])
    return names


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"
