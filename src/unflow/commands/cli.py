"""The command line: `unflow COMMAND`; each command is a typed function in ``unflow.commands``.

The list of commands and its help import neither torch nor jsonargparse; only a chosen command does.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

COMMANDS = {
    "demo": "train, forget, audit and report on embedded digits, from start to end",
    "split": "split a dataset into samples that train, judge and measure",
    "encode": "encode a dataset into the latents of an autoencoder",
    "train": "train a base model or a classifier from a recipe",
    "plan": "say what a request would keep, which methods fit, and what each would cost",
    "unlearn": "make a model forget classes",
    "sample": "draw samples from a model",
    "export": "write a model's weights for the code that made it",
    "judge": "train and calibrate two judges, and measure how reliable they are",
    "audit": "compare a model with the original, target and retrained models, by an independent judge",
    "reproduce": "reproduce a paper's table and figures, with our rows beside the paper's",
    "report": "write a run folder as one offline HTML page",
    "doctor": "show versions, threads, devices, missing packages, methods and plugins",
}

MEASURING = ("demo", "audit", "reproduce")
"""Commands that allocate large tensors again and again. The others run in less memory without
``keep_freed_memory``."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0; 1 if an audit fails a condition of --fail-if or a training diverges; 2 for bad input, with one
        sentence on standard error; 130 if interrupted.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(format_usage())
        return 0 if arguments else 2
    if arguments[0] == "--version":
        from unflow import __version__

        print(f"unflow {__version__}")
        return 0
    name = arguments[0]
    if name not in COMMANDS:
        print(describe_unknown_command(name), file=sys.stderr)
        return 2
    # libgomp's spinning threads are up to 100x slower on a busy core; must be set before torch loads.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if name in MEASURING:
        keep_freed_memory()
    from unflow.commands.runner import run_command

    return run_command(name, COMMANDS[name], arguments[1:])


def keep_freed_memory() -> None:
    """Let glibc keep freed memory; this does nothing on other systems and with other C libraries.

    An audit allocates large tensors again and again. If glibc returned their memory to the system each time,
    page faults would take a quarter of an audit's time.
    """
    if not sys.platform.startswith("linux"):
        return
    import ctypes

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for threshold in (-1, -3):  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of malloc.h
            mallopt(threshold, 2_000_000_000)


def format_usage() -> str:
    """Return the list of commands."""
    width = max(map(len, COMMANDS)) + 2
    lines = [f"  {name:{width}}{what}" for name, what in COMMANDS.items()]
    head = "usage: unflow COMMAND [options]\n\nMake a trained image generator forget, and show the evidence."
    return "\n".join([head, "", *lines, "", "unflow COMMAND --help lists a command's options."])


def describe_unknown_command(name: str) -> str:
    """Return the error message for a command that does not exist."""
    from unflow.ground.errors import suggest

    return f"unflow: got the command {name!r}; {suggest(name, COMMANDS)}"


if __name__ == "__main__":
    sys.exit(main())
