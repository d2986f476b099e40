"""What commands share: recipes, a first word as an option, and the settings of a named method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser

from unflow.ground.errors import InputError, suggest
from unflow.training.method import Method


def first_word_as(option: str, arguments: Sequence[str]) -> list[str]:
    """Turn `unflow audit MODEL …` into `unflow audit --model MODEL …`."""
    if arguments and not arguments[0].startswith("-"):
        return [f"--{option}", *arguments]
    return list(arguments)


def recipe_path(name: str) -> str:
    """Return the path of a shipped recipe by name, or a YAML file by path.

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
        f"got the recipe {name!r}, which is not there; {suggest(name, known, 'a YAML file or ')}"
    )


def with_recipe(arguments: Sequence[str]) -> list[str]:
    """Turn a first word into the recipe's `--config`."""
    rest = first_word_as("config", arguments)
    if rest and rest[0] == "--config" and len(rest) > 1:
        rest[1] = recipe_path(rest[1])
    return rest


def peek(option: str, arguments: Sequence[str], default: str | None = None) -> str | None:
    """Return an option's value before parsing, from the flags or else from the configuration files."""
    value = default
    for flag, following in zip(arguments, [*arguments[1:], ""], strict=False):
        name, _, attached = flag.partition("=")
        given = attached or following
        if name == "--config" and Path(given).is_file():
            content = yaml.safe_load(Path(given).read_text())
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
    if name is None or name not in methods:
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
        help="samples that are pushed, decoded or scored at once, at most, for large networks; by default "
        "2,048 and more. It changes no result but for rounding",
    )


def parse_classes(text: str | Sequence[int], option: str = "--forget") -> tuple[int, ...]:
    """Return the classes in "3" or "3,5".

    Raises:
        InputError: for anything but integers separated by commas.
    """
    if not isinstance(text, str):
        return tuple(int(k) for k in text)
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"got {option} {text!r}; expected classes like 3 or 3,5") from None
