"""Aliases of modules and names: ``unflow.metrics`` is the module ``unflow.evidence.metrics``."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


class _AliasLoader(Loader):
    """Loads a module under a second name; both names refer to the same object."""

    def __init__(self, home: str) -> None:
        self.home = home  # the module's own name

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return the module, imported by its own name."""
        module = importlib.import_module(self.home)
        self.spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Restore the module's own specification; its code has already run."""
        module.__spec__ = self.spec


class _AliasFinder(MetaPathFinder):
    """Finds aliases of modules below one package.

    Args:
        package: "unflow".
        homes: alias -> module, both below the package; an alias covers all modules below it too.
        renamed: the same for aliases whose import warns.
    """

    def __init__(self, package: str, homes: Mapping[str, str], renamed: Mapping[str, str]) -> None:
        self.package, self.homes, self.renamed = package, {**homes, **renamed}, renamed

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the specification of an alias; None for every other name."""
        if not fullname.startswith(f"{self.package}."):
            return None
        name = fullname.removeprefix(f"{self.package}.")
        for alias, home in self.homes.items():
            if alias != home and f"{name}.".startswith(f"{alias}."):
                if name in self.renamed:
                    self._warn(alias, home)
                return ModuleSpec(fullname, _AliasLoader(f"{self.package}.{home}{name.removeprefix(alias)}"))
        return None

    def _warn(self, alias: str, home: str) -> None:
        old, new = f"{self.package}.{alias}", f"{self.package}.{home}"
        warnings.warn(f"{old} is now {new}; write {new}", FutureWarning, stacklevel=2)


def install(package: str, homes: Mapping[str, str], renamed: Mapping[str, str]) -> None:
    """Make the modules of a package importable by aliases.

    Args:
        package: the package.
        homes: public name -> module, both below the package.
        renamed: deprecated public name -> module; its import warns and names the module.
    """
    sys.meta_path.insert(0, _AliasFinder(package, homes, renamed))


def renamed(module: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    """Return a ``__getattr__`` for a module: its deprecated names work and warn.

    Args:
        module: the module's ``__name__``.
        names: old name -> new name, both in the module.
    """

    def find(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        warnings.warn(f"{module}.{name} is now {names[name]}; write that", FutureWarning, stacklevel=2)
        return getattr(sys.modules[module], names[name])

    return find
