"""Consent to run third-party code: the command line names the function, or says `--trust_code true`.

A file is no consent. Recipes, files behind `--config`, bundles and result folders may come from strangers.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jsonargparse

from unflow.ground.errors import InputError
from unflow.ground.files import read_yaml
from unflow.ground.values import expand_home, is_file

FLAG = "trust_code"
CONFIGS = (".yaml", ".yml", ".json")
"""Endings of files from which the parser reads options."""
IMPORTS = "class_path"
"""The key with which a file could make the parser import a module."""


def check_files(arguments: Sequence[str]) -> None:
    """Raise InputError if a file of options among the arguments would make the parser import a module."""
    known = inspect.signature(jsonargparse.set_parsing_settings).parameters
    if "import_path_denylist" in known:  # newer versions of jsonargparse refuse by themselves
        jsonargparse.set_parsing_settings(import_path_denylist=["*"])
    for file in _list_files(arguments):
        if _imports(_read(file), set()):
            raise InputError(
                f"got the key {IMPORTS} in {file}, which would import a module; expected plain values: write "
                "the options themselves"
            )


def _list_files(arguments: Sequence[str]) -> list[Path]:
    """Return the files among the arguments from which the parser reads options."""
    after = ["", *arguments]
    values = [
        value.partition("=")[2] if value.startswith("--") else value
        for value, before in zip(arguments, after, strict=False)
        if before == "--config" or value.startswith("--config=") or Path(value).suffix in CONFIGS
    ]
    return [Path(expand_home(value)) for value in values if value and is_file(expand_home(value))]


def _read(file: Path) -> Any:
    try:
        return read_yaml(file)
    except InputError:
        return None  # the parser says what is wrong with it


def _imports(value: Any, seen: set[int | str]) -> bool:
    """Return whether options name a module, at any depth, also in a string or in another file.

    Args:
        value: the options.
        seen: values and files that were searched before; an alias in YAML is searched once.
    """
    key = value if isinstance(value, str) else id(value)
    if key in seen:
        return False
    seen.add(key)
    if isinstance(value, Mapping):
        return any(IMPORTS in str(name) or _imports(each, seen) for name, each in value.items())
    if isinstance(value, list):
        return any(_imports(each, seen) for each in value)
    if not isinstance(value, str):
        return False
    names_file = Path(value).suffix in CONFIGS and is_file(value)
    return IMPORTS in value or (names_file and _imports(_read(Path(value)), seen))


@contextmanager
def consent(values: Mapping[str, Any], arguments: Sequence[str]) -> Iterator[None]:
    """Let only functions run that the words of the command name; all of them with `--trust_code true`.

    Args:
        values: the parsed options of the command.
        arguments: its words.

    Raises:
        InputError: for a consent that a file gives.
    """
    from unflow.nets import run_only_named

    agreed = _reads_true(arguments)
    if not agreed and _find(values) is True:
        raise InputError(
            f"got {FLAG} in a file; expected your consent on the command line, because a file can come from "
            f"anybody: write --{FLAG} true"
        )
    with run_only_named(None if agreed else _list_words(arguments)):
        yield


def _find(values: Mapping[str, Any]) -> Any:
    """Return the parsed consent, of the command itself or of its group of options."""
    groups = [getattr(group, FLAG, None) for group in values.values()]
    return next((found for found in (values.get(FLAG), *groups) if found is not None), None)


def _reads_true(arguments: Sequence[str]) -> bool:
    """Return whether the last `--trust_code` on the command line is true."""
    found = False
    for word, following in zip(arguments, [*arguments[1:], "--"], strict=False):
        option, equals, value = word.partition("=")
        if option.replace("-", "_") == f"__{FLAG}":
            value = value if equals else "true" if following.startswith("--") else following
            found = value.strip().lower() in ("true", "yes", "1")
    return found


def _list_words(arguments: Sequence[str]) -> list[str]:
    """Return the words of the command without names of files of options."""
    files = {str(file) for file in _list_files(arguments)}
    return [
        word
        for word in arguments
        if expand_home(word) not in files and expand_home(word.partition("=")[2]) not in files
    ]
