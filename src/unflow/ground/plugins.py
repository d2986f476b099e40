"""What installed packages add to a family, by their entry points; none is imported before it is asked for.

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

from torch import nn

from unflow.ground.errors import InputError, explain

T = TypeVar("T")

USED: dict[str, str] = {}
"""Packages whose entry points this process has used -> their versions."""
OWN = {"unflow", "torch", "builtins", "__main__"}
"""Where classes are that need no record of their own."""


class Installed(Mapping[str, T], Generic[T]):
    """A family's own members, and those that installed packages add to it.

    Asking whether a name is there, and listing the names, imports nothing.

    Args:
        group: of the entry points.
        own: name -> member; no package may take one of these names.
        read: what an entry point names -> member; whatever it raises is said of the package.
        reserved: further names that no package may take.
    """

    def __init__(
        self, group: str, own: Mapping[str, T], read: Callable[[Any], T], reserved: Collection[str] = ()
    ) -> None:
        self.group, self.own, self.read, self.reserved = group, own, read, {*own, *reserved}

    def __getitem__(self, name: str) -> T:
        """Return a member; that of a package is imported now.

        Raises:
            InputError: for a name that is given twice, and a member that cannot be used.
        """
        found = [entry for entry in self.added() if entry.name == name]
        if not found:
            return self.own[name]
        if len(found) > 1 or name in self.reserved:
            givers = [*(["unflow"] if name in self.reserved else []), *map(package_of, found)]
            raise InputError(
                f"the name {name} in {self.group} is given by {' and by '.join(givers)}; expected one of "
                f"them: uninstall {givers[-1]}, or have it choose another name"
            )
        return self._imported(found[0])

    def __contains__(self, name: object) -> bool:
        """Return whether there is such a name."""
        return name in {*self}

    def __iter__(self) -> Iterator[str]:
        """Return the names: the family's own, then those of packages."""
        return iter(dict.fromkeys([*self.own, *(entry.name for entry in self.added())]))

    def __len__(self) -> int:
        """Return the number of names."""
        return len(list(iter(self)))

    def added(self) -> list[EntryPoint]:
        """Return the entry points of installed packages, by name."""
        return sorted(entry_points(group=self.group), key=lambda entry: entry.name)

    def report(self) -> list[tuple[str, str]]:
        """Return (name, its package, or what is wrong with it) for all that packages add; imports them."""
        return [(entry.name, self._state(entry)) for entry in self.added()]

    def _state(self, entry: EntryPoint) -> str:
        try:
            self[entry.name]
        except InputError as error:
            return str(error)
        return package_of(entry)

    def _imported(self, entry: EntryPoint) -> T:
        try:
            member = self.read(entry.load())
        except Exception as error:  # whatever somebody else's package does at its import
            raise InputError(
                f"{entry.name} of the package {package_of(entry)} cannot be used ({explain(error)}); "
                f"expected {entry.value} to be a member of {self.group}: mend or uninstall that package"
            ) from error
        if entry.dist is not None:
            USED[entry.dist.name] = entry.dist.version
        return member


def import_optional(package: str, extra: str) -> Any:
    """Return a package that only some functions need.

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
        ) from error


def package_of(entry: EntryPoint) -> str:
    """Return the name and version of the package that an entry point belongs to."""
    return "unknown" if entry.dist is None else f"{entry.dist.name} {entry.dist.version}"


def packages(*parts: object) -> dict[str, str]:
    """Return package -> version: those that classes come from, at any depth of modules, and those in use.

    Args:
        parts: modules, or other objects.
    """
    whole = [each for part in parts for each in (part.modules() if isinstance(part, nn.Module) else [part])]
    roots = {type(each).__module__.partition(".")[0] for each in whole} - OWN
    homes = _homes(tuple(sys.path)) if roots else {}
    names = sorted({name for root in roots for name in homes.get(root, ())})
    return {name: version(name) for name in names} | USED


@functools.cache
def _homes(path: tuple[str, ...]) -> Mapping[str, list[str]]:
    """Return top-level module -> packages, for what is installed on ``path``."""
    return packages_distributions()
