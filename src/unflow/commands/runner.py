"""Run a command: parse its arguments, call it, and turn errors into a sentence and an exit code."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import math
import re
import sys
import warnings
from argparse import ArgumentError
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args, get_type_hints

import yaml
from jsonargparse import ArgumentParser

from unflow.commands.arguments import HelpFormatter, add_run, find_hints, gather_groups, inline_configs
from unflow.commands.consent import check_files, consent
from unflow.commands.failures import explain_failure
from unflow.commands.settings import Settings
from unflow.ground.batches import batch_rows
from unflow.ground.errors import InputError, RunFailedError, TrainingDivergedError
from unflow.ground.files import check_nesting, read_yaml
from unflow.ground.values import expand_home, expand_homes

MAX_INT = 2**63 - 1
Runner = Callable[..., int | None]


def run_command(name: str, description: str, arguments: Sequence[str]) -> int:
    """Run one command and return its exit code.

    Args:
        name: of the command.
        description: for its help text.
        arguments: the words after its name.
    """
    module = importlib.import_module(f"unflow.commands.{name}")
    parser = ArgumentParser(
        prog=f"unflow {name}", description=description, exit_on_error=False, formatter_class=HelpFormatter
    )
    parser.add_argument(
        "--config",
        action="config",
        help="YAML file with any of these options, or config.yaml of an earlier run",
    )
    parser.add_argument("--traceback", action="store_true", help="show where an unforeseen error was raised")
    warnings.showwarning = lambda message, *_: print(f"unflow {name}: warning: {message}", file=sys.stderr)
    try:
        words = [word for word in arguments if word != "--traceback"]
        check_words(words)
        check_files(words)
        values = parse(parser, module, words)
        with batch_rows(values.pop("batch_rows", None)), consent(values, words):
            code = module.run(**values)
    except (InputError, ArgumentError) as error:
        print(f"unflow {name}: {describe_error(error, parser)}", file=sys.stderr)
        return 2
    except (TrainingDivergedError, RunFailedError) as error:
        if "--traceback" in arguments:
            raise
        print(f"unflow {name}: {to_line(str(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"unflow {name}: interrupted; run the same command again to continue", file=sys.stderr)
        return 130
    except Exception as error:  # the wall: a check is missing, but the user gets a sentence all the same
        if "--traceback" in arguments:
            raise
        code, sentence = explain_failure(error)
        print(f"unflow {name}: {to_line(sentence)}", file=sys.stderr)
        return code
    return 0 if code is None else int(code)


def parse(parser: ArgumentParser, module: Any, arguments: Sequence[str]) -> dict[str, Any]:
    """Return the keyword arguments of a command's ``run``."""
    command = module.__name__.rpartition(".")[2]
    add = getattr(module, "add_arguments", None)
    if add is None:
        add_run(parser, module.run)
        rest = list(arguments)
    else:
        rest = add(parser, list(arguments))
    words = normalise_spelling(parser, rest)
    for path in list_configs(words):
        check_config(Path(expand_home(path)), parser)
    inlined = inline_configs(words, command)
    namespace = parser.instantiate(parser.parse_args(inlined))
    skipped = ("config", "traceback", "__default_config__")
    values = {k: v for k, v in vars(namespace).items() if k not in skipped}
    check_values(values)
    gathered = gather_groups(module.run, expand_homes(values))
    check_nulls(find_hints(module.run), gathered)
    return {name: each.make() if isinstance(each, Settings) else each for name, each in gathered.items()}


def list_configs(arguments: Sequence[str]) -> list[str]:
    """Return the files that `--config` names."""
    pairs = zip(arguments, [*arguments[1:], ""], strict=False)
    named = [(flag.partition("="), following) for flag, following in pairs]
    return [value if equals else after for (flag, equals, value), after in named if flag == "--config"]


def check_words(words: Sequence[str]) -> None:
    """Raise InputError for a value on the command line whose brackets or aliases grow without bounds."""
    for word in words:
        option, equals, value = word.partition("=") if word.startswith("--") else ("a value", "=", word)
        try:
            check_nesting(value if equals else "")
        except InputError as error:
            raise InputError(f"got {option}, which {error}") from error
        except (yaml.YAMLError, ValueError, TypeError, RecursionError):
            continue  # a text, or the parser says what is wrong with it


def check_config(path: Path, parser: ArgumentParser) -> None:
    """Raise InputError for a configuration that is no YAML, or holds a single value where options belong.

    jsonargparse would expand aliases without a limit.
    """
    content = read_yaml(path)
    groups = {action.dest.partition(".")[0] for action in parser._actions if "." in action.dest}
    for key in groups.intersection(content if isinstance(content, dict) else ()):
        if not isinstance(content[key], dict):
            raise InputError(
                f"got {key}: {content[key]!r} in {path}; expected options by name, like {{steps: 3}}"
            )


def check_nulls(hints: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    """Raise InputError for an option that is null although its type does not allow it."""
    for name, value in values.items():
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            own = {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}
            check_nulls(get_type_hints(type(value)), own)
        elif value is None and name in hints and type(None) not in get_args(hints[name]):
            expected = getattr(hints[name], "__name__", hints[name])
            raise InputError(f"got {name}=null; expected a value of the type {expected}")


def check_values(value: Any, name: str = "") -> None:
    """Raise InputError for a NaN, a whole number beyond 64 bits, or a text with a zero byte."""
    if isinstance(value, Mapping):
        for key, each in value.items():
            check_values(each, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list | tuple):
        for each in value:
            check_values(each, name)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for each in dataclasses.fields(value):
            check_values(getattr(value, each.name), f"{name}.{each.name}" if name else each.name)
    elif isinstance(value, str | Path) and "\0" in str(value):
        raise InputError(f"got --{name} with a zero byte; expected a text without one")
    elif isinstance(value, float) and math.isnan(value):
        raise InputError(f"got --{name} nan; expected a number")
    elif isinstance(value, int) and not -MAX_INT <= value <= MAX_INT:
        raise InputError(f"got --{name} {to_line(str(value))}; expected a whole number of at most 64 bits")


def to_line(text: str, length: int = 1000) -> str:
    """Return text as one line of printable characters, cut after some."""
    plain = re.sub(r"\s+", " ", text).strip().encode("utf-8", "backslashreplace").decode()
    return plain if len(plain) <= length else f"{plain[:length]} ..."


def normalise_spelling(parser: ArgumentParser, arguments: Sequence[str]) -> list[str]:
    """Turn `--flow-map` into `--flow_map`, and a `--full` without a value into `--full=true`."""
    actions = {option: action for action in parser._actions for option in action.option_strings}
    spelled = []
    for argument, following in zip(arguments, [*arguments[1:], "--"], strict=False):
        option, equals, value = argument.partition("=")
        underscored = option.replace("-", "_").replace("__", "--", 1)
        if option.startswith("--") and option not in actions and underscored in actions:
            option = underscored
        is_switch = getattr(actions.get(option), "_typehint", None) is bool
        bare = is_switch and not equals and following.startswith("--")
        spelled.append(f"{option}=true" if bare else f"{option}{equals}{value}")
    return spelled


def simplify_message(text: str) -> str:
    """Return the parser's message about a value, without Python's notation for types."""
    union = re.search(r'"([\w.]+)": Does not validate .*? Subtypes: \[(.*?)\] .*Given value: (.*)', text)
    if union is not None:
        kinds = re.findall(r"'(?:[\w.]+\.)?(\w+)'", union[2].replace("NoneType", "null"))
        return f"got --{union[1]} {union[3]}; expected {' or '.join(kinds) or union[2]}"
    match = re.fullmatch(r'Parser key "([\w.]+)": Expected an? (.+?)\. Got value: (.*)', text)
    if match is None:
        return text.replace("Parser key ", "option ")
    option, expected, got = match.groups()
    expected = re.sub(r"<class '(?:[\w.]+\.)?(\w+)'>", r"\1", expected)
    expected = re.sub(r"typing\.Literal\[(.+)\]", r"one of \1", expected)
    return f"got --{option} {got}; expected {expected}"


def describe_error(error: Exception, parser: ArgumentParser) -> str:
    """Return an error as one sentence; for an unknown option, with the nearest one."""
    text = to_line(str(error), 2000)
    match = re.search(r"unrecognized arguments: (?:--)?([\w.-]+)|[Oo]ption '([\w.-]+)'", text)
    key = next((group for group in match.groups() if group), None) if match else None
    if key is None:
        return simplify_message(text)
    unlisted = ("help", "config", "traceback", "print_config", "print_shtab")
    known = [action.dest for action in parser._actions if action.dest not in unlisted]
    leaf = {name.rsplit(".", 1)[-1]: name for name in known}
    near = difflib.get_close_matches(key.replace("-", "_"), [*known, *leaf], n=1, cutoff=0.5)
    some = f"expected one of {', '.join(known)}" if known else "this command takes none"
    hint = f"did you mean {leaf.get(near[0], near[0])}?" if near else some
    return f"got the option {key}, which does not exist; {hint}"
