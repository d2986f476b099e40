"""Options from the fields of methods and attacks, without the import of the modules that define them.

`settings.json` lists the fields of every method, training and attack. Help texts, and errors in the options,
come from that table and do not wait for torch. A test compares the table with the classes; `make settings`
writes it.
"""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, make_dataclass
from importlib.metadata import entry_points
from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar, Literal, cast, get_type_hints

TABLE = "settings.json"
METHODS, TRAININGS = "unflow.methods:UNLEARNERS", "unflow.training.originals:TRAINERS"
"""The families of methods, each by the dict that lists its members."""
ATTACKS = "unflow.evidence.auditing.attacked:Attacks"
PLUGINS = {METHODS: "unflow.methods"}
"""Family -> the group of the entry points with which packages add members."""


@dataclass(frozen=True)
class Settings:
    """Parsed fields of a class that is not imported yet; ``make`` returns the object."""

    home: ClassVar[str]
    """The class, as MODULE:NAME."""

    def make(self) -> Any:
        """Import the class, and return the object with these fields.

        Raises:
            InputError: as the class, for values that it refuses.
        """
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        made = {name: each.make() if isinstance(each, Settings) else each for name, each in values.items()}
        return find_object(self.home)(**made)


def find_object(home: str) -> Any:
    """Import and return the object MODULE:NAME."""
    module, _, name = home.partition(":")
    return getattr(importlib.import_module(module), name)


@functools.cache
def read_table() -> dict[str, Any]:
    """Return the table: "classes", and one dict of members for each family."""
    return cast(dict[str, Any], json.loads(files("unflow.commands").joinpath(TABLE).read_text()))


def list_names(family: str) -> list[str]:
    """Return the names of the methods of a family: unflow's own, then those that packages add."""
    return list(dict.fromkeys([*read_table()[family], *list_plugin_names(family)]))


def list_plugin_names(family: str) -> list[str]:
    """Return the names of the methods that installed packages add to a family; no package is imported."""
    group = PLUGINS.get(family)
    return [] if group is None else sorted({entry.name for entry in entry_points(group=group)})


def settings_class(home: str, defaults: Mapping[str, str] | None = None, title: str = "") -> type[Settings]:
    """Return a dataclass with the fields of a class in the table, and the same documentation.

    Args:
        home: the class, as MODULE:NAME.
        defaults: field -> its default, as Python writes it, where that is not the one of the class.
        title: of the options in a help text; by default the first sentence about the class.
    """
    known = read_table()["classes"][home]
    members: list[tuple[str, Any, Any]] = []
    for name, row in known["fields"].items():
        if "class" in row:
            nested = settings_class(row["class"], title=row["help"])
            members.append((name, nested, field(default_factory=nested)))
        else:
            value = ast.literal_eval((defaults or {}).get(name, row["default"]))
            members.append((name, eval(row["type"], {"Literal": Literal}), value))
    help_lines = [f"    {name}: {row['help']}" for name, row in known["fields"].items() if row["help"]]
    text = "\n".join([title or known["title"], "", "Attributes:", *help_lines])
    namespace = {"__doc__": text, "__module__": __name__, "home": home}
    return make_dataclass(
        home.partition(":")[2], members, bases=(Settings,), namespace=namespace, frozen=True, kw_only=True
    )


def method_settings(family: str, name: str) -> type[Settings]:
    """Return ``settings_class`` for a method of the table, with the defaults of its row."""
    row = read_table()[family][name]
    return settings_class(row["class"], row["defaults"])


# The table from the classes


def make_table() -> dict[str, Any]:
    """Return the table that the classes define; this imports all of them."""
    table: dict[str, Any] = {"classes": {}}
    for family in (METHODS, TRAININGS):
        table[family] = {
            name: describe_member(method, table["classes"]) for name, method in find_object(family).items()
        }
    add_class(find_object(ATTACKS), table["classes"])
    return table


def describe_member(method: Any, classes: dict[str, Any]) -> dict[str, Any]:
    """Return one row of a family; the class of the method is added to ``classes``."""
    kind = type(method)
    own = add_class(kind, classes)["fields"]
    values = {each.name: repr(getattr(method, each.name)) for each in fields(kind)}
    return {
        "class": f"{kind.__module__}:{kind.__name__}",
        "families": sorted(method.families),
        "summary": method.summary,
        "defaults": {name: value for name, value in values.items() if value != own[name]["default"]},
    }


def add_class(kind: type[Any], classes: dict[str, Any]) -> dict[str, Any]:
    """Add the description of a dataclass, and of the dataclasses among its fields; return it."""
    from docstring_parser import parse

    documents = [parse(inspect.getdoc(each) or "") for each in reversed(kind.__mro__[:-1])]
    helps = {each.arg_name: each.description or "" for document in documents for each in document.params}
    hints = get_type_hints(kind)
    described: dict[str, Any] = {"title": _join(documents[-1].short_description or ""), "fields": {}}
    for each in fields(kind):
        if callable(each.default_factory):
            add_class(hints[each.name], classes)
            about = _join(helps.get(each.name, ""))
            described["fields"][each.name] = {"class": _name(hints[each.name]), "help": about}
        else:
            described["fields"][each.name] = {
                "type": inspect.formatannotation(hints[each.name]).replace("typing.", ""),
                "default": repr(each.default),
                "help": _join(helps.get(each.name, "")),
            }
    classes[_name(kind)] = described
    return described


def _name(kind: type[Any]) -> str:
    return f"{kind.__module__}:{kind.__name__}"


def _join(text: str) -> str:
    return " ".join(text.split())


def format_table() -> str:
    """Return ``make_table`` as the text of the file."""
    return json.dumps(make_table(), indent=1) + "\n"


if __name__ == "__main__":
    Path(__file__).with_name(TABLE).write_text(format_table())
