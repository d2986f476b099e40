"""Before training: what a request would leave of a model, which methods fit, and what each would take."""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from unflow.errors import InputError
from unflow.methods import UNLEARNERS, Method, Problem, Trained
from unflow.models import GenerativeModel
from unflow.target import Target
from unflow.training import check_seed, fit, peak_rss_mb, stream
from unflow.unlearning import problem_inside

TRIED = 6
"""Steps of a method that are carried out to time them."""
LOOKED_AT = 4000
"""Samples of the original on which the request is looked at."""
BYTES_PER_WEIGHT = 16
"""Of a weight in training: itself, its gradient and Adam's two moments, four bytes each."""


@dataclass(frozen=True)
class Outlook:
    """What one method would take.

    Attributes:
        method: its row name.
        obstacle: why it does not fit; None where it does.
        needs: real samples that it would read: "retain", "forget".
        steps: of all its training.
        seconds: estimated from ``TRIED`` steps here, its preparation whole; None where it was not tried.
        peak_rss_mb: largest memory of this process after trying it.
    """

    method: str
    obstacle: str | None = None
    needs: tuple[str, ...] = ()
    steps: int = 0
    seconds: float | None = None
    peak_rss_mb: float | None = None


@dataclass(frozen=True)
class Plan:
    """What is known of a request before anything is trained.

    Attributes:
        request: in words.
        parameters: of the model.
        training_mb: weights, gradients and moments of all of them in training, in MB.
        acceptance: mean probability with which rejection keeps a sample, in (0, 1]; None for an energy
            without a lower bound.
        effective_share: of a bank, that its weights leave, in (0, 1].
        methods: one outlook each.
    """

    request: str
    parameters: int
    training_mb: float
    acceptance: float | None
    effective_share: float
    methods: tuple[Outlook, ...]


def plan(
    target: Target,
    methods: Mapping[str, Method] = UNLEARNERS,
    *,
    retain: Tensor | None = None,
    forget: Tensor | None = None,
    teacher: GenerativeModel | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> Plan:
    """Look at a request, and try the first steps of every method that fits it; nothing is kept.

    Args:
        target: the request.
        methods: row name -> method.
        retain: real samples of the classes to keep, if there are any.
        forget: real samples of the classes to forget, if there are any.
        teacher: a retrained flow, if there is one.
        seed: >= 0.
        device: "cpu", "cuda" or "mps".

    Raises:
        InputError: for an energy that is none on the model's samples (``energies.evaluate``).
    """
    check_seed(seed)
    problem = problem_inside(target, {"retain": retain, "forget": forget, "held_out": None}, teacher)
    assert problem.target is not None
    energy = problem.target.bank(LOOKED_AT, stream(seed, 97)).energy
    bounded = problem.target.energy.lower_bound > -float("inf")
    parameters = sum(weight.numel() for weight in problem.model.parameters())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the share itself is what this returns
        share = problem.target.effective_sample_size(energy)
    return Plan(
        target.energy.describe(), parameters, BYTES_PER_WEIGHT * parameters / 2**20,
        float(problem.target.acceptance(energy).mean()) if bounded else None, share,
        tuple(_outlook(name, method, problem, seed, device) for name, method in methods.items()),
    )  # fmt: skip


class _EnoughError(Exception):
    """A trial has seen what it wanted to see."""


def _outlook(name: str, method: Method, problem: Problem, seed: int, device: str) -> Outlook:
    real = tuple(sorted({"retain", "forget"} & method.reads(problem)))
    missing = [kind for kind in real if getattr(problem, kind) is None]
    if missing:
        words = " and to ".join({"retain": "keep"}.get(kind, kind) for kind in missing)
        return Outlook(name, f"it reads real samples of what to {words}, and there are none", real)
    try:
        method.check(problem)
        steps = _steps(method, problem, seed)
        seconds = _seconds(method, problem, seed, device, steps)
    except InputError as error:
        return Outlook(name, str(error), real)
    return Outlook(name, None, real, steps, seconds, peak_rss_mb())


def _steps(method: Method, problem: Problem, seed: int) -> int:
    """Return the steps of a method's training, and of the one before it."""
    if not isinstance(method, Trained):
        return 0
    loop, within = method.training(problem, seed)
    earlier = loop.earlier(within)
    return loop.steps + (0 if earlier is None else earlier.steps)


def _seconds(method: Method, problem: Problem, seed: int, device: str, steps: int) -> float:
    """Return what preparation and all steps would take, from a few of them."""
    times = [time.perf_counter()]

    def watch(_: int) -> None:
        times.append(time.perf_counter())
        if len(times) > TRIED:
            raise _EnoughError

    try:
        fit(method, problem, seed=seed, device=device, label=f"trying {type(method).__name__}", on_step=watch)
    except _EnoughError:
        prepared = times[1] - times[0]
        return prepared + (steps - 1) * statistics.median(b - a for a, b in pairwise(times[1:]))
    return time.perf_counter() - times[0]
