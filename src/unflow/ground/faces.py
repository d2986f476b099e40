"""Public names of modules that stand elsewhere: ``unflow.metrics`` is ``unflow.evidence.metrics``."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


class _Face(Loader):
    """Loads a module under a second name: both names are one object."""

    def __init__(self, home: str) -> None:
        self.home = home

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return the module that stands elsewhere."""
        module = importlib.import_module(self.home)
        self.spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Give the module its own specification back; it has run under its own name."""
        module.__spec__ = self.spec


class _Faces(MetaPathFinder):
    """Finds the second names below one package.

    Args:
        package: "unflow".
        homes: public name -> home, both below the package; a name stands for all modules below it too.
        renamed: the same for names that warn.
    """

    def __init__(self, package: str, homes: Mapping[str, str], renamed: Mapping[str, str]) -> None:
        self.package, self.homes, self.renamed = package, {**homes, **renamed}, renamed

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the specification of a second name; None for every other name."""
        if not fullname.startswith(f"{self.package}."):
            return None
        name = fullname.removeprefix(f"{self.package}.")
        for face, home in self.homes.items():
            if face != home and f"{name}.".startswith(f"{face}."):
                if name in self.renamed:
                    self._warn(face, home)
                return ModuleSpec(fullname, _Face(f"{self.package}.{home}{name.removeprefix(face)}"))
        return None

    def _warn(self, face: str, home: str) -> None:
        old, new = f"{self.package}.{face}", f"{self.package}.{home}"
        warnings.warn(f"{old} is now {new}; write {new}", FutureWarning, stacklevel=2)


def install(package: str, homes: Mapping[str, str], renamed: Mapping[str, str]) -> None:
    """Let the modules of a package be imported by their public names.

    Args:
        package: the package.
        homes: public name -> where the module stands, both below the package.
        renamed: older public name -> where the module stands; importing it warns what to write.
    """
    sys.meta_path.insert(0, _Faces(package, homes, renamed))


def renamed(module: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    """Return the ``__getattr__`` of a module some of whose names have changed; the old ones work and warn.

    Args:
        module: its ``__name__``.
        names: old name -> new name, both of the module.
    """

    def find(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        warnings.warn(f"{module}.{name} is now {names[name]}; write that", FutureWarning, stacklevel=2)
        return getattr(sys.modules[module], names[name])

    return find
