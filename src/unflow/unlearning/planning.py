"""``uf.plan``: before training, say what a request keeps, which methods fit, and what each would cost."""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from unflow.ground.errors import InputError
from unflow.ground.progress import Progress, hide_progress
from unflow.ground.records import gathers
from unflow.ground.streams import Stream, check_seed, stream
from unflow.methods import UNLEARNERS
from unflow.models import GenerativeModel
from unflow.target import Target
from unflow.training.compute import ONE_CPU, Compute
from unflow.training.derivatives import probe_method, probe_problem
from unflow.training.loop import fit, peak_rss_mb
from unflow.training.low_rank import LowRank, find_adaptable_layers
from unflow.training.method import Method, Problem, Trained, fixed_names, target_of
from unflow.training.trained_weights import match_names
from unflow.unlearning.unlearn import NO_SAMPLES, RealSamples, make_problem, restrict_training

TRIED = 6
"""Steps of a method that are carried out to time them."""
LOOKED_AT = 4000
"""Samples of the original that estimate the acceptance and the effective share."""
BYTES = 4
"""Bytes of a number. A number in training also has a gradient and the two moments of Adam."""


@dataclass(frozen=True)
class Outlook:
    """What one method would cost.

    Attributes:
        method: its row name.
        obstacle: why the method does not fit; None if it fits.
        needs: the real samples that it reads: "retain", "forget".
        steps: training steps in all.
        seconds: preparation, and all steps as estimated from ``TRIED`` of them on this machine; None if the
            method was not tried.
        peak_rss_mb: largest memory of this process after the trial, in MB.
    """

    method: str
    obstacle: str | None = None
    needs: tuple[str, ...] = ()
    steps: int = 0
    seconds: float | None = None
    peak_rss_mb: float | None = None


@dataclass(frozen=True)
class Plan:
    """The estimates for a request before any training.

    Attributes:
        request: the request in words.
        parameters: number of the model's weights.
        trained: numbers in training: all weights, those that ``train_only`` selects, or those of adapters.
        training_mb: weights, gradients and moments of Adam, in MB.
        acceptance: mean probability with which rejection sampling keeps a sample, in (0, 1]; None for an
            energy without a lower bound.
        effective_share: effective sample size of the weighted bank, as a share of its size, in (0, 1].
        methods: one outlook per method.
    """

    request: str
    parameters: int
    trained: int
    training_mb: float
    acceptance: float | None
    effective_share: float
    methods: tuple[Outlook, ...]


@gathers(compute=Compute, data=RealSamples)
def plan(
    target: Target,
    methods: Mapping[str, Method] = UNLEARNERS,
    *,
    data: RealSamples = NO_SAMPLES,
    teacher: GenerativeModel | None = None,
    compute: Compute = ONE_CPU,
    seed: int = 0,
    train_only: Sequence[str] | None = None,
    adapters: LowRank | None = None,
    one_label: bool = False,
) -> Plan:
    """Measure a request, and try the first steps of every method that fits it; nothing is kept.

    The fields of ``data`` and ``compute`` may also be given as keywords, as in ``unlearn``.

    Args:
        target: the request.
        methods: row name -> method.
        data: real samples of the classes to retain and to forget, if there are any.
        teacher: a retrained flow, if there is one.
        compute: as ``unlearn``; trials run on one device, without loggers. With ``compile``, the first step,
            which is then slow, counts as preparation.
        seed: >= 0.
        train_only: as ``unlearn``.
        adapters: as ``unlearn``.
        one_label: as ``unlearn``.

    Raises:
        InputError: for a network that is no function of each row of its input (``models.probe``), an energy
            that does not score the model's samples (``energies.evaluate``), and names of weights that match
            nothing.
    """
    check_seed(seed)
    compute = replace(compute, devices=1, loggers=())
    problem = restrict_training(
        make_problem(target, replace(data, held_out=None), teacher), train_only, adapters, one_label
    )
    parameters, trained = (
        sum(weight.numel() for weight in problem.model.parameters()),
        _count_trained(problem),
    )
    with Progress("plan", len(methods)) as progress:
        probe_problem(problem)
        return Plan(
            target.energy.describe(),
            parameters,
            trained,
            _count_bytes(parameters, trained, problem) / 2**20,
            *_measure_request(target_of(problem), seed),
            tuple(_try_methods(methods, problem, seed, compute, progress)),
        )


def _try_methods(
    methods: Mapping[str, Method], problem: Problem, seed: int, compute: Compute, progress: Progress
) -> Iterator[Outlook]:
    """Return the outlook of each method; the progress names the method that is tried."""
    for name, method in methods.items():
        progress.label = f"plan, {name}"
        progress.refresh()
        yield _try_method(name, method, problem, seed, compute)
        progress.advance(progress.done + 1)


def _measure_request(target: Target, seed: int) -> tuple[float | None, float]:
    """Return the acceptance and the effective share of a request."""
    energy = target.bank(LOOKED_AT, stream(seed, Stream.PLAN)).energy
    bounded = target.energy.lower_bound > -float("inf")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the warning is of a small share, and the share is returned
        share = target.effective_sample_size(energy)
    return float(target.acceptance(energy).mean()) if bounded else None, share


def _count_trained(problem: Problem) -> int:
    """Return how many numbers are in training for a method that trains the model's own weights."""
    model, names = problem.model, problem.train_only
    if problem.adapters is None:
        weights = [name for name, _ in model.named_parameters()]
        chosen = set(weights) - fixed_names(model) if names is None else match_names(weights, names)
        return sum(model.get_parameter(name).numel() for name in chosen)
    weights = list(find_adaptable_layers(model))
    shapes = [
        model.get_parameter(name).flatten(1).shape
        for name in (set(weights) - fixed_names(model) if names is None else match_names(weights, names))
    ]
    return sum(problem.adapters.parameters(m, n) for m, n in shapes)


def _count_bytes(parameters: int, trained: int, problem: Problem) -> int:
    """Return the bytes of the weights, of adapters, and of the gradients and moments of trained numbers."""
    added = 0 if problem.adapters is None else trained
    return BYTES * (parameters + added + 3 * trained)


class _EnoughError(Exception):
    """Ends a trial after ``TRIED`` steps."""


def _try_method(name: str, method: Method, problem: Problem, seed: int, compute: Compute) -> Outlook:
    try:
        method.check_model(problem.model)
    except InputError as error:
        return Outlook(name, str(error))
    real = tuple(sorted({"retain", "forget"} & method.reads(problem)))
    sets = [f"{kind} set" for kind in real if getattr(problem, kind) is None]
    if sets:
        return Outlook(
            name, f"it reads real samples of the {' and the '.join(sets)}, and none were given", real
        )
    try:
        method.check(problem)
        probe_method(method, problem, compute)
        steps = _count_steps(method, problem, seed)
        seconds = _estimate_seconds(method, problem, seed, compute, steps)
    except InputError as error:
        return Outlook(name, str(error), real)
    return Outlook(name, None, real, steps, seconds, peak_rss_mb())


def _count_steps(method: Method, problem: Problem, seed: int) -> int:
    """Return the steps of a method's training, and of the training before it."""
    if not isinstance(method, Trained):
        return 0
    loop, within = method.training(problem, seed)
    earlier = loop.earlier(within)
    return loop.steps + (0 if earlier is None else earlier.steps)


def _estimate_seconds(method: Method, problem: Problem, seed: int, compute: Compute, steps: int) -> float:
    """Return the seconds of preparation and of all steps, as extrapolated from the first few steps."""
    times = [time.perf_counter()]

    def watch(_: int) -> None:
        times.append(time.perf_counter())
        if len(times) > TRIED:
            raise _EnoughError

    try:
        with hide_progress():
            fit(method, problem, seed=seed, on_step=watch, compute=compute)
    except _EnoughError:
        prepared = times[1] - times[0]
        return prepared + (steps - 1) * statistics.median(b - a for a, b in pairwise(times[1:]))
    return time.perf_counter() - times[0]
