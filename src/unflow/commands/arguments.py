"""The arguments of a command: option groups, recipes, and the settings of a named method."""

from __future__ import annotations

import inspect
from argparse import RawDescriptionHelpFormatter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import fields
from importlib.resources import files
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, DefaultHelpFormatter

from unflow.ground.errors import InputError, suggest
from unflow.ground.files import read_yaml
from unflow.training.method import Method


class OptionGroup:
    """Marks a dataclass whose fields are options: one argument of a command's function, several flags.

    Flags and keys of recipes are the names of the fields, in whichever group they are.
    """


class HelpFormatter(RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """Keeps the line breaks of descriptions and epilogs in help texts."""


def add_run(
    parser: ArgumentParser,
    run: Callable[..., Any],
    skip: Collection[str] = (),
    defaults: Mapping[str, Any] | None = None,
) -> None:
    """Add the options of a command's function, and those of the option groups among its arguments.

    Args:
        parser: that receives them.
        run: the function.
        skip: arguments that are not options, and options of groups that the command does not have.
        defaults: option -> its default in this command, where that differs from the group's.
    """
    groups = find_groups(run)
    own = inspect.signature(run).parameters.keys() - groups.keys()
    parser.add_function_arguments(run, skip={*groups, *own.intersection(skip)})
    for kind in groups.values():
        parser.add_class_arguments(kind, skip={each.name for each in fields(kind)}.intersection(skip))
    parser.set_defaults(dict(defaults or {}))


def find_groups(run: Callable[..., Any]) -> dict[str, type[Any]]:
    """Return the arguments of a command's function that are option groups."""
    hints = inspect.get_annotations(run, eval_str=True)
    return {
        name: kind for name, kind in hints.items() if isinstance(kind, type) and issubclass(kind, OptionGroup)
    }


def gather_groups(run: Callable[..., Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return parsed options as the arguments of a command's function, each option group as one."""
    found = dict(values)
    for name, kind in find_groups(run).items():
        own = {each.name: found.pop(each.name) for each in fields(kind) if each.name in found}
        found[name] = kind(**own)
    return found


def flag_first_word(option: str, arguments: Sequence[str]) -> list[str]:
    """Turn `unflow audit MODEL …` into `unflow audit --model MODEL …`."""
    if arguments and not arguments[0].startswith("-"):
        return [f"--{option}", *arguments]
    return list(arguments)


def find_recipe(name: str) -> str:
    """Return the path of a recipe: a YAML file by its path, or a shipped recipe by its name.

    Raises:
        InputError: if there is neither.
    """
    if Path(name).is_file():
        return name
    shipped = {
        entry.name.removesuffix(".yaml"): entry for entry in files("unflow.commands.recipes").iterdir()
    }
    known = sorted(key for key, entry in shipped.items() if entry.name.endswith(".yaml"))
    if name in known:
        return str(shipped[name])
    raise InputError(
        f"got the recipe {name!r}, which does not exist; {suggest(name, known, 'a YAML file or ')}"
    )


def flag_recipe(arguments: Sequence[str]) -> list[str]:
    """Turn `unflow train RECIPE …` into `unflow train --config PATH …`."""
    rest = flag_first_word("config", arguments)
    if rest and rest[0] == "--config" and len(rest) > 1:
        rest[1] = find_recipe(rest[1])
    return rest


def peek(option: str, arguments: Sequence[str], default: str | None = None) -> str | None:
    """Return an option's value before parsing, from the flags or else from the configuration files."""
    value = default
    for flag, following in zip(arguments, [*arguments[1:], ""], strict=False):
        name, _, attached = flag.partition("=")
        given = attached or following
        if name == "--config" and Path(given).is_file():
            content = read_yaml(Path(given))
            value = content.get(option, value) if isinstance(content, dict) else value
    for flag, following in zip(arguments, [*arguments[1:], ""], strict=False):
        name, _, attached = flag.partition("=")
        if name == f"--{option}":
            value = attached or following
    return value


def add_settings(parser: ArgumentParser, name: str | None, methods: Mapping[str, Method]) -> None:
    """Add `--settings.…` for the hyper-parameters of the named method, with its defaults.

    Raises:
        InputError: for a method that does not exist.
    """
    if not isinstance(name, str) or name not in methods:
        raise InputError(f"got the method {name!r}; {suggest(str(name), methods)}")
    method = methods[name]
    parser.add_class_arguments(type(method), "settings")
    defaults: dict[str, Any] = {f"settings.{f.name}": getattr(method, f.name) for f in fields(method)}
    parser.set_defaults(defaults)


def add_batch_rows(parser: ArgumentParser) -> None:
    """Add `--batch_rows`, which holds while the command runs: see ``batches.batch_rows``."""
    parser.add_argument(
        "--batch_rows",
        type=int | None,
        default=None,
        help="most samples that are pushed, decoded or scored at once, for networks that fill the memory; by "
        "default 2,048 or more. Results change only by rounding",
    )


def list_methods(methods: Mapping[str, Method]) -> str:
    """Return a table of methods for a help text: row name, family of models, summary."""
    width = max(map(len, methods))
    lines = [f"  {name:{width}}  {name_families(each):14}  {each.summary}" for name, each in methods.items()]
    return "\n".join(["methods:", *lines, "  and those of installed packages, which `unflow doctor` lists"])


def name_families(method: Method) -> str:
    """Return the families of models that a method trains, in words."""
    words = {("flow_map", "generator"): "one-step", ("flow", "flow_map", "generator"): "any model"}
    families = tuple(sorted(method.families))
    return words.get(families, ", ".join(families))


def parse_classes(text: str | Sequence[int], option: str = "--forget") -> tuple[int, ...]:
    """Return the classes in "3" or "3,5".

    Raises:
        InputError: for anything but whole numbers separated by commas.
    """
    if not isinstance(text, str):
        return tuple(int(k) for k in text)
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"got {option} {text!r}; expected classes like 3 or 3,5") from None
