"""Installed packages: plugins that add members to a family by entry points, and optional dependencies.

[project.entry-points."unflow.methods"]
mine = "my_package.methods:Mine"

[project.entry-points."unflow.energies"]
clip = "my_package.energies:clip"
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points, packages_distributions, version
from typing import Any, Generic, TypeVar

from unflow.ground.errors import InputError, explain

T = TypeVar("T")

USED: dict[str, str] = {}
"""Packages whose entry points this process has loaded -> their versions."""
UNRECORDED = {"unflow", "torch", "builtins", "__main__"}
"""Top-level modules whose packages ``list_packages`` leaves out."""


class Registry(Mapping[str, T], Generic[T]):
    """The members of a family by name: unflow's own, and those of installed packages (plugins).

    A plugin is imported when its member is first looked up; ``in`` and iteration import nothing.

    Args:
        group: the group of the entry points.
        own: name -> member of unflow; no plugin may use one of these names.
        read: converts the object of an entry point to a member; any exception is reported as the package's.
        reserved: further names that no plugin may use.
    """

    def __init__(
        self, group: str, own: Mapping[str, T], read: Callable[[Any], T], reserved: Collection[str] = ()
    ) -> None:
        self.group, self.own, self.read, self.reserved = group, own, read, {*own, *reserved}

    def __getitem__(self, name: str) -> T:
        """Return a member; a plugin is imported now.

        Raises:
            KeyError: for an unknown name.
            InputError: for a name that two packages define, or a plugin that cannot be used.
        """
        found = [entry for entry in self.list_plugins() if entry.name == name]
        if not found:
            return self.own[name]
        if len(found) > 1 or name in self.reserved:
            givers = [*(["unflow"] if name in self.reserved else []), *map(describe_package, found)]
            raise InputError(
                f"the name {name} in {self.group} is given by {' and by '.join(givers)}; expected one of "
                f"them: uninstall {givers[-1]}, or change the name in that package"
            )
        return self._load(found[0])

    def __contains__(self, name: object) -> bool:
        """Return whether the name is known."""
        return name in {*self}

    def __iter__(self) -> Iterator[str]:
        """Return the names: unflow's own, then those of plugins."""
        return iter(dict.fromkeys([*self.own, *(entry.name for entry in self.list_plugins())]))

    def __len__(self) -> int:
        """Return the number of names."""
        return len(list(iter(self)))

    def list_plugins(self) -> list[EntryPoint]:
        """Return the entry points of installed packages, sorted by name."""
        return sorted(entry_points(group=self.group), key=lambda entry: entry.name)

    def report(self) -> list[tuple[str, str]]:
        """Import every plugin and return its name with its package, or with the error message."""
        return [(entry.name, self._check(entry)) for entry in self.list_plugins()]

    def _check(self, entry: EntryPoint) -> str:
        try:
            self[entry.name]
        except InputError as error:
            return str(error)
        return describe_package(entry)

    def _load(self, entry: EntryPoint) -> T:
        try:
            member = self.read(entry.load())
        except Exception as error:  # third-party code may raise any exception
            raise InputError(
                f"{entry.name} of the package {describe_package(entry)} cannot be used ({explain(error)}); "
                f"expected {entry.value} to be a member of {self.group}: fix or uninstall that package"
            ) from error
        if entry.dist is not None:
            USED[entry.dist.name] = entry.dist.version
        return member


def import_optional(package: str, extra: str, note: str = "") -> Any:
    """Return a package that only some functions need.

    Args:
        package: the name of its module.
        extra: the extra of unflow that installs it.
        note: what a user should know before the installation.

    Raises:
        InputError: if it is not installed; the message names the extra of unflow that installs it.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise InputError(
            f"the package {package} is not installed; expected it: write pip install 'unflow[{extra}]'"
            + (f"; {note}" if note else "")
        ) from error


def describe_package(entry: EntryPoint) -> str:
    """Return the name and version of the package of an entry point."""
    return "unknown" if entry.dist is None else f"{entry.dist.name} {entry.dist.version}"


def list_packages(*parts: object) -> dict[str, str]:
    """Return package -> version for the packages that define the classes of objects, and for ``USED``.

    Args:
        parts: torch modules, with all modules inside them, or other objects.
    """
    from torch import nn  # the help of a command must not wait for torch

    whole = [each for part in parts for each in (part.modules() if isinstance(part, nn.Module) else [part])]
    roots = {type(each).__module__.partition(".")[0] for each in whole} - UNRECORDED
    owners = _find_owners(tuple(sys.path)) if roots else {}
    names = sorted({name for root in roots for name in owners.get(root, ())})
    return {name: version(name) for name in names} | USED


@functools.cache
def _find_owners(path: tuple[str, ...]) -> Mapping[str, list[str]]:
    """Return top-level module -> packages, for the packages installed on ``path`` (the key of the cache)."""
    return packages_distributions()
