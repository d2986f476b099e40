"""A group of options as one argument of a command: a dataclass, whose fields are the options.

Flags and keys of recipes are the fields' names, whichever group they stand in.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import fields
from typing import Any

from jsonargparse import ArgumentParser


class Group:
    """What marks a dataclass as a group of options."""


def add_run(
    parser: ArgumentParser,
    run: Callable[..., Any],
    skip: Collection[str] = (),
    defaults: Mapping[str, Any] | None = None,
) -> None:
    """Add the options of a command's function, and those of the groups among its arguments.

    Args:
        parser: to add them to.
        run: the function.
        skip: arguments that are no options, and options of groups that the command does not have.
        defaults: option -> its default in this command, where it is not the group's.
    """
    groups = groups_of(run)
    own = inspect.signature(run).parameters.keys() - groups.keys()
    parser.add_function_arguments(run, skip={*groups, *own.intersection(skip)})
    for kind in groups.values():
        parser.add_class_arguments(kind, skip={each.name for each in fields(kind)}.intersection(skip))
    parser.set_defaults(dict(defaults or {}))


def groups_of(run: Callable[..., Any]) -> dict[str, type[Any]]:
    """Return the arguments of a command's function that are groups of options."""
    hints = inspect.get_annotations(run, eval_str=True)
    return {name: kind for name, kind in hints.items() if isinstance(kind, type) and issubclass(kind, Group)}


def gathered(run: Callable[..., Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return options by name as the arguments of a command's function, each group as one."""
    found = dict(values)
    for name, kind in groups_of(run).items():
        own = {each.name: found.pop(each.name) for each in fields(kind) if each.name in found}
        found[name] = kind(**own)
    return found
