"""Run a command: parse its arguments, call it, and turn errors into a sentence and an exit code."""

from __future__ import annotations

import difflib
import importlib
import re
import sys
import warnings
from argparse import ArgumentError
from collections.abc import Callable, Sequence
from typing import Any

from jsonargparse import ArgumentParser

from unflow.commands.arguments import HelpFormatter, add_run, gather_groups
from unflow.commands.consent import check_files, consent
from unflow.ground.batches import batch_rows
from unflow.ground.errors import InputError, TrainingDivergedError

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
    parser.add_argument("--config", action="config", help="YAML file with any of these options")
    warnings.showwarning = lambda message, *_: print(f"unflow {name}: warning: {message}", file=sys.stderr)
    try:
        check_files(arguments)
        values = parse(parser, module, arguments)
        with batch_rows(values.pop("batch_rows", None)), consent(values, arguments):
            code = module.run(**values)
    except (InputError, ArgumentError) as error:
        print(f"unflow {name}: {describe_error(error, parser)}", file=sys.stderr)
        return 2
    except TrainingDivergedError as error:
        print(f"unflow {name}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"unflow {name}: interrupted; run the same command again to continue", file=sys.stderr)
        return 130
    return 0 if code is None else int(code)


def parse(parser: ArgumentParser, module: Any, arguments: Sequence[str]) -> dict[str, Any]:
    """Return the keyword arguments of a command's ``run``."""
    add = getattr(module, "add_arguments", None)
    if add is None:
        add_run(parser, module.run)
        rest = list(arguments)
    else:
        rest = add(parser, list(arguments))
    namespace = parser.instantiate(parser.parse_args(normalise_spelling(parser, rest)))
    values = {k: v for k, v in vars(namespace).items() if k not in ("config", "__default_config__")}
    return gather_groups(module.run, values)


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
    match = re.fullmatch(r'Parser key "([\w.]+)": Expected an? (.+?)\. Got value: (.*)', text)
    if match is None:
        return text.replace("Parser key ", "option ")
    option, expected, got = match.groups()
    expected = re.sub(r"<class '(?:[\w.]+\.)?(\w+)'>", r"\1", expected)
    expected = re.sub(r"typing\.Literal\[(.+)\]", r"one of \1", expected)
    return f"got --{option} {got}; expected {expected}"


def describe_error(error: Exception, parser: ArgumentParser) -> str:
    """Return an error as one sentence; for an unknown option, with the nearest one."""
    text = re.sub(r"\s+", " ", str(error)).strip()
    match = re.search(r"unrecognized arguments: (?:--)?([\w.-]+)|[Oo]ption '([\w.-]+)'", text)
    key = next((group for group in match.groups() if group), None) if match else None
    if key is None:
        return simplify_message(text)
    unlisted = ("help", "config", "print_config", "print_shtab")
    known = [action.dest for action in parser._actions if action.dest not in unlisted]
    leaf = {name.rsplit(".", 1)[-1]: name for name in known}
    near = difflib.get_close_matches(key.replace("-", "_"), [*known, *leaf], n=1, cutoff=0.5)
    some = f"expected one of {', '.join(known)}" if known else "this command takes none"
    hint = f"did you mean {leaf.get(near[0], near[0])}?" if near else some
    return f"got the option {key}, which does not exist; {hint}"
