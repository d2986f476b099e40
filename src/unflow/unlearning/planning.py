"""Before training: what a request would leave of a model, which methods fit, and what each would take."""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from torch import Tensor

from unflow.ground.errors import InputError
from unflow.ground.progress import hide_progress
from unflow.ground.streams import Stream, check_seed, stream
from unflow.methods import UNLEARNERS
from unflow.models import GenerativeModel
from unflow.target import Target
from unflow.training.compute import Precision
from unflow.training.loop import fit, peak_rss_mb
from unflow.training.low_rank import LowRank, find_adaptable_layers
from unflow.training.method import Method, Problem, Trained, target_of
from unflow.training.trained_weights import match_names
from unflow.unlearning.unlearn import problem_inside, trained_in_part

TRIED = 6
"""Steps of a method that are carried out to time them."""
LOOKED_AT = 4000
"""Samples of the original on which the request is looked at."""
BYTES = 4
"""Of a number. In training it has a gradient and Adam's two moments beside it."""


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
        trained: numbers in training: of all weights, those that ``train_only`` names, or adapters.
        training_mb: weights, and gradients and moments of what is trained, in MB.
        acceptance: mean probability with which rejection keeps a sample, in (0, 1]; None for an energy
            without a lower bound.
        effective_share: of a bank, that its weights leave, in (0, 1].
        methods: one outlook each.
    """

    request: str
    parameters: int
    trained: int
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
    precision: Precision = "32-true",
    train_only: Sequence[str] | None = None,
    adapters: LowRank | None = None,
    micro_batches: int = 1,
    compile: bool = False,
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
        precision: as ``unlearn``, and so are all that follow.
        train_only: names of weights.
        adapters: low-rank ones.
        micro_batches: parts of a batch.
        compile: whether to compile; the first step, which takes long then, counts as preparation.

    Raises:
        InputError: for an energy that is none on the model's samples (``energies.evaluate``), and names of
            weights that match nothing.
    """
    check_seed(seed)
    how: dict[str, Any] = {
        "seed": seed,
        "device": device,
        "precision": precision,
        "micro_batches": micro_batches,
        "compile": compile,
    }
    problem = problem_inside(target, {"retain": retain, "forget": forget, "held_out": None}, teacher)
    problem = trained_in_part(problem, train_only, adapters)
    parameters, trained = sum(weight.numel() for weight in problem.model.parameters()), _trained(problem)
    return Plan(
        target.energy.describe(),
        parameters,
        trained,
        _bytes(parameters, trained, problem) / 2**20,
        *_left(target_of(problem), seed),
        tuple(_outlook(name, method, problem, how) for name, method in methods.items()),
    )


def _left(target: Target, seed: int) -> tuple[float | None, float]:
    """Return the acceptance and the effective share of a request."""
    energy = target.bank(LOOKED_AT, stream(seed, Stream.PLAN)).energy
    bounded = target.energy.lower_bound > -float("inf")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the share itself is what this returns
        share = target.effective_sample_size(energy)
    return float(target.acceptance(energy).mean()) if bounded else None, share


def _trained(problem: Problem) -> int:
    """Return how many numbers a method that changes the model's weights trains of it."""
    model, names = problem.model, problem.train_only
    if problem.adapters is None:
        weights = [name for name, _ in model.named_parameters()]
        chosen = weights if names is None else match_names(weights, names)
        return sum(model.get_parameter(name).numel() for name in chosen)
    weights = list(find_adaptable_layers(model))
    shapes = [
        model.get_parameter(name).flatten(1).shape
        for name in (weights if names is None else match_names(weights, names))
    ]
    return sum(problem.adapters.parameters(m, n) for m, n in shapes)


def _bytes(parameters: int, trained: int, problem: Problem) -> int:
    """Return the bytes of weights, of adapters beside them, and of gradients and moments."""
    added = 0 if problem.adapters is None else trained
    return BYTES * (parameters + added + 3 * trained)


class _EnoughError(Exception):
    """A trial has seen what it wanted to see."""


def _outlook(name: str, method: Method, problem: Problem, how: dict[str, Any]) -> Outlook:
    try:
        method.check_model(problem.model)
    except InputError as error:
        return Outlook(name, str(error))
    real = tuple(sorted({"retain", "forget"} & method.reads(problem)))
    missing = [kind for kind in real if getattr(problem, kind) is None]
    if missing:
        words = " and to ".join({"retain": "keep"}.get(kind, kind) for kind in missing)
        return Outlook(name, f"it reads real samples of what to {words}, and there are none", real)
    try:
        method.check(problem)
        steps = _steps(method, problem, how["seed"])
        seconds = _seconds(method, problem, how, steps)
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


def _seconds(method: Method, problem: Problem, how: dict[str, Any], steps: int) -> float:
    """Return what preparation and all steps would take, from a few of them."""
    times = [time.perf_counter()]

    def watch(_: int) -> None:
        times.append(time.perf_counter())
        if len(times) > TRIED:
            raise _EnoughError

    try:
        with hide_progress():
            fit(method, problem, on_step=watch, **how)
    except _EnoughError:
        prepared = times[1] - times[0]
        return prepared + (steps - 1) * statistics.median(b - a for a, b in pairwise(times[1:]))
    return time.perf_counter() - times[0]
