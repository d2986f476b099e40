"""The arguments of a command: option groups, recipes, and the settings of a named method."""

from __future__ import annotations

import inspect
from argparse import RawDescriptionHelpFormatter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from functools import wraps
from importlib.resources import files
from pathlib import Path
from typing import Any, get_type_hints

import yaml
from jsonargparse import ArgumentParser, DefaultHelpFormatter

from unflow.commands.settings import (
    METHODS,
    Settings,
    list_names,
    list_plugin_names,
    method_settings,
    read_table,
)
from unflow.ground.errors import InputError, suggest
from unflow.ground.files import read_yaml
from unflow.ground.values import PlainLoader, expand_home, is_file, quote

LISTS = ("forget", "classes", "train_only", "methods", "strengths", "fail_if")
"""Options with commas between their values; in a YAML file, they may also be one number or a list."""


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
    settings: Mapping[str, type[Settings]] | None = None,
) -> None:
    """Add the options of a command's function, and those of the option groups among its arguments.

    Args:
        parser: that receives them.
        run: the function.
        skip: arguments that are not options, and options of groups that the command does not have.
        defaults: option -> its default in this command, where that differs from the group's.
        settings: argument -> the class from ``settings`` that stands for its type, which is not imported.
    """
    groups, stand_ins = find_groups(run), settings or {}
    own = inspect.signature(run).parameters.keys() - groups.keys()
    parser.add_function_arguments(take_signature(run, {*groups, *own.intersection(skip)}, stand_ins))
    for kind in groups.values():
        kind.__init__.__annotations__.update(get_type_hints(kind))  # as ``take_signature``
        parser.add_class_arguments(kind, skip={each.name for each in fields(kind)}.intersection(skip))
    parser.set_defaults(dict(defaults or {}))


def find_groups(run: Callable[..., Any]) -> dict[str, type[Any]]:
    """Return the arguments of a command's function that are option groups."""
    named = {name: run.__globals__.get(str(hint)) for name, hint in run.__annotations__.items()}
    return {
        name: kind for name, kind in named.items() if isinstance(kind, type) and issubclass(kind, OptionGroup)
    }


def find_hints(run: Callable[..., Any]) -> dict[str, Any]:
    """Return the types of a command's arguments, but for types that are imported for type checkers only."""
    found = {}
    for name, hint in run.__annotations__.items():
        with suppress(NameError):
            found[name] = eval(hint, run.__globals__) if isinstance(hint, str) else hint
    return found


def take_signature(
    run: Callable[..., Any], skip: Collection[str], settings: Mapping[str, type[Settings]]
) -> Callable[..., Any]:
    """Return a function with some of a function's arguments; its types are objects, not strings.

    The parser would otherwise resolve the strings, and import everything under TYPE_CHECKING for that.
    """

    @wraps(run)
    def taken(**values: Any) -> Any:
        return run(**values)

    hints = find_hints(run)

    def evaluate(each: inspect.Parameter) -> inspect.Parameter:
        if each.name in settings:
            return each.replace(annotation=settings[each.name], default=settings[each.name]())
        return each.replace(annotation=hints[each.name])

    parameters = inspect.signature(run).parameters.values()
    chosen = [evaluate(each) for each in parameters if each.name not in skip]
    del taken.__wrapped__
    taken.__signature__ = inspect.Signature(chosen)  # type: ignore[attr-defined]
    return taken


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
    if is_file(expand_home(name)):
        return expand_home(name)
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


def inline_configs(arguments: Sequence[str], command: str) -> list[str]:
    """Replace each file after `--config` by its options, as text in the form that the parser reads.

    Args:
        arguments: the words of the command.
        command: its name.

    Raises:
        InputError: for a file that is not YAML in UTF-8, and for the config.yaml of another command's run.
    """
    words, before = [], ""
    for word in arguments:
        attached = word.startswith("--config=")
        path = expand_home(word.partition("=")[2] if attached else word)
        if (attached or before == "--config") and is_file(path):
            text = yaml.safe_dump(_read_config(Path(path), command), sort_keys=False, width=10**6)
            words.append(f"--config={text}" if attached else text)
        else:
            words.append(word)
        before = word
    return words


def _read_config(path: Path, command: str) -> dict[str, Any]:
    """Return the options in a YAML file, which may be the config.yaml of a run."""
    found = read_yaml(path, PlainLoader)
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise InputError(
            f"{path} holds {found!r}; expected options of the command: write lines like `seed: 3`"
        )
    found |= {name: _join(found[name], name) for name in LISTS if name in found}
    if "command" not in found:
        return found
    if found["command"] != command:
        raise InputError(
            f"got {path}, which records a run of `unflow {found['command']}`; expected options of `unflow "
            f"{command}`: write --config with a file of this command"
        )
    if "attacks" not in found and "attack" in found and not isinstance(found["attack"], bool):
        found |= {"attacks": found["attack"], "attack": found["attack"] is not None}
    return {name: value for name, value in found.items() if name != "command" and value is not None}


def _join(value: Any, option: str) -> Any:
    """Return a number or a list as the text that a comma-separated option takes; another value as it is."""
    if isinstance(value, list) and all(isinstance(each, str | int) for each in value):
        return ",".join(quote(str(each)) if option == "strengths" else str(each) for each in value)
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def peek(option: str, arguments: Sequence[str], default: str | None = None) -> str | None:
    """Return an option's value before parsing, from the flags or else from the configuration files."""
    value = default
    for flag, following in zip(arguments, [*arguments[1:], ""], strict=False):
        name, _, attached = flag.partition("=")
        given = attached or following
        if name == "--config" and is_file(expand_home(given)):
            content = read_yaml(Path(expand_home(given)))
            value = content.get(option, value) if isinstance(content, dict) else value
    for flag, following in zip(arguments, [*arguments[1:], ""], strict=False):
        name, _, attached = flag.partition("=")
        if name == f"--{option}":
            value = attached or following
    return value


def add_settings(parser: ArgumentParser, name: str | None, family: str) -> None:
    """Add `--settings.…` for the hyper-parameters of the named method, with its defaults.

    Only the method of an installed package is imported.

    Raises:
        InputError: for a method that does not exist.
    """
    names = list_names(family)
    if not isinstance(name, str) or name not in names:
        raise InputError(f"got the method {name!r}; {suggest(str(name), names)}")
    if name not in list_plugin_names(family):
        parser.add_class_arguments(method_settings(family, name), "settings")
        return
    from unflow.methods import INSTALLED

    method = INSTALLED[name]
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


def list_methods() -> str:
    """Return a table of unflow's methods for a help text: row name, family of models, summary."""
    methods = read_table()[METHODS]
    width = max(map(len, methods))
    lines = [
        f"  {name:{width}}  {name_families(row['families']):14}  {row['summary']}"
        for name, row in methods.items()
    ]
    return "\n".join(["methods:", *lines, "  and those of installed packages, which `unflow doctor` lists"])


def name_families(names: Sequence[str]) -> str:
    """Return families of models in words."""
    words = {("flow_map", "generator"): "one-step", ("flow", "flow_map", "generator"): "any model"}
    families = tuple(names)
    return words.get(families, ", ".join(families))


def parse_classes(text: str | Sequence[int], option: str = "--forget") -> tuple[int, ...]:
    """Return the classes in "3", "3,5" or "[3, 5]".

    Raises:
        InputError: for anything but whole numbers separated by commas.
    """
    if not isinstance(text, str):
        return tuple(int(k) for k in text)
    inner = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        return tuple(int(part) for part in inner.split(","))
    except ValueError:
        raise InputError(f"got {option} {text!r}; expected classes like 3 or 3,5") from None
