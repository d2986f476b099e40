"""``uf.plan``: before training, say what a request keeps, and rank the methods that fit by quality and cost.

A method is tried with ``TRIED`` of its steps. The ranking reads the measured table of third-party models
(``ranking``); a trial that fails moves its method down.
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise

from unflow.ground.errors import InputError, TrainingDivergedError
from unflow.ground.progress import Progress, hide_progress
from unflow.ground.records import gathers
from unflow.ground.streams import Stream, check_seed, stream
from unflow.methods import UNLEARNERS
from unflow.models import GenerativeModel, inner_model
from unflow.target import Target
from unflow.training.compute import ONE_CPU, Compute
from unflow.training.derivatives import probe_method, probe_problem
from unflow.training.loop import Fit, fit, peak_rss_mb
from unflow.training.low_rank import LowRank, find_adaptable_layers
from unflow.training.method import Method, Problem, Trained, fixed_names, target_of
from unflow.training.rates import RATES, count_trial_steps
from unflow.training.trained_weights import match_names
from unflow.unlearning.problems import (
    NO_SAMPLES,
    RealSamples,
    make_problem,
    restore_autoencoder,
    restrict_training,
)
from unflow.unlearning.ranking import Measured, list_measured
from unflow.unlearning.self_measure import measure_unlearning
from unflow.unlearning.verdict import SelfMeasure

TRIED = 0.05
"""Share of a method's steps that its trial carries out."""
TRIAL_SAMPLES = 500
"""Fresh samples on which the result of a trial is measured."""
TRIAL_SHARP = 0.9
"""Least sharpness of a trial's samples, and of those at moved latents; a whole run must reach 0.97."""
LOOKED_AT = 4000
"""Samples of the original that estimate the acceptance and the effective share."""
BYTES = 4
"""Bytes of a number. A number in training also has a gradient and the two moments of Adam."""


@dataclass(frozen=True)
class Outlook:
    """The expected quality and cost of one method.

    Attributes:
        method: its row name.
        obstacle: why the method does not fit; None if it fits.
        needs: the real samples that it reads: "retain", "forget".
        steps: training steps in all.
        seconds: preparation, and all steps as estimated from the trial on this machine; None if the method
            was not tried.
        peak_rss_mb: largest memory of this process after the trial, in MB.
        measured: its means over third-party models of the same kind; None if it was not measured.
        faults: of the trial: "diverged", "did not move", "blurred".
        trial: the self-measure of the trial in one sentence; "" without one.
    """

    method: str
    obstacle: str | None = None
    needs: tuple[str, ...] = ()
    steps: int = 0
    seconds: float | None = None
    peak_rss_mb: float | None = None
    measured: Measured | None = None
    faults: tuple[str, ...] = ()
    trial: str = ""


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
        methods: one outlook per method, best first (``rank_outlooks``).
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
    """Measure a request, try every method that fits it in a short training, and rank them; nothing is kept.

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
    trials = _Trials.of(target, data, teacher, compute, seed, train_only, adapters, one_label)
    problem = trials.problem
    parameters, trained = (
        sum(weight.numel() for weight in problem.model.parameters()),
        _count_trained(problem),
    )
    with Progress("plan", len(methods)) as progress:
        probe_problem(problem)
        target.check_replacement(seed)
        return Plan(
            target.energy.describe(),
            parameters,
            trained,
            _count_bytes(parameters, trained, problem) / 2**20,
            *_measure_request(target_of(problem), seed),
            rank_outlooks(trials.carry_out(methods, progress)),
        )


@gathers(compute=Compute, data=RealSamples)
def choose_method(
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
) -> Outlook:
    """Return the first method of a ``plan``; methods that rank after it for certain are not tried.

    The arguments are those of ``plan``.

    Raises:
        InputError: as ``plan``, and if no method fits.
    """
    trials = _Trials.of(target, data, teacher, compute, seed, train_only, adapters, one_label)

    def rank_before(name: str) -> tuple[float, ...]:
        return _rank_quality(trials.find_measured(name, methods[name]))

    tried: tuple[Outlook, ...] = ()
    with Progress("choose the method", len(methods)) as progress:
        probe_problem(trials.problem)
        target.check_replacement(seed)
        for (unmeasured, *_), names in groupby(sorted(methods, key=rank_before), key=rank_before):
            fits = bool(tried) and tried[0].obstacle is None
            if fits and (unmeasured or not tried[0].faults):
                break  # all others rank after the first so far, whatever their trials say
            equals = {name: methods[name] for name in names}
            tried = rank_outlooks([*tried, *trials.carry_out(equals, progress)])
    if not tried or tried[0].obstacle is not None:
        raise InputError(_refuse(tried))
    return tried[0]


def _refuse(tried: Sequence[Outlook]) -> str:
    """Return the message for a request that no method fits."""
    reasons = "; ".join(f"{each.method}: {each.obstacle}" for each in tried[:3]) or "no method was given"
    return (
        f"got method='auto', and none of {len(tried)} methods fits ({reasons}); expected one that does: "
        "`unflow plan` lists the obstacle of each"
    )


def rank_outlooks(outlooks: Iterable[Outlook]) -> tuple[Outlook, ...]:
    """Return outlooks, best first.

    Methods that fit come first; among them measured ones; among these, those without a fault of the trial;
    then those that missed fewer bounds, had the smaller distance over the floor, and take less time. The
    methods that do not fit keep their order.
    """
    return tuple(sorted(outlooks, key=_rank))


def _rank(outlook: Outlook) -> tuple[float, ...]:
    if outlook.obstacle is not None:
        return (1.0,)
    unmeasured, *quality = _rank_quality(outlook.measured)
    return (0.0, unmeasured, len(outlook.faults), *quality, outlook.seconds or 0.0)


def _rank_quality(measured: Measured | None) -> tuple[float, float, float]:
    """Return the part of a rank that needs no trial."""
    return (1.0, 0.0, 0.0) if measured is None else (0.0, *measured.quality)


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


@dataclass(frozen=True)
class _Trials:
    """Short trainings of methods on one request."""

    target: Target
    problem: Problem
    compute: Compute
    seed: int

    @classmethod
    def of(
        cls,
        target: Target,
        data: RealSamples,
        teacher: GenerativeModel | None,
        compute: Compute,
        seed: int,
        train_only: Sequence[str] | None,
        adapters: LowRank | None,
        one_label: bool,
    ) -> _Trials:
        """Return the trials of a request, on one device and without loggers."""
        check_seed(seed)
        problem = make_problem(target, replace(data, held_out=None), teacher)
        problem = restrict_training(problem, train_only, adapters, one_label)
        return cls(target, problem, replace(compute, devices=1, loggers=()), seed)

    def find_measured(self, name: str, method: Method) -> Measured | None:
        """Return the measured row of a method; the benchmark has measured default settings alone."""
        family = inner_model(self.target.model).family
        return list_measured(family).get(name) if UNLEARNERS.get(name) == method else None

    def carry_out(self, methods: Mapping[str, Method], progress: Progress) -> Iterator[Outlook]:
        """Return the outlook of each method; the progress names the method that is tried."""
        label = progress.label.partition(",")[0]
        for name, method in methods.items():
            progress.label = f"{label}, {name}"
            progress.refresh()
            yield self.consider(Outlook(name, measured=self.find_measured(name, method)), method)
            progress.advance(progress.done + 1)

    def consider(self, outlook: Outlook, method: Method) -> Outlook:
        """Return an outlook with the obstacle of the method, or the findings of its trial."""
        problem = self.problem
        try:
            method.check_model(problem.model)
        except InputError as error:
            return replace(outlook, obstacle=str(error))
        real = tuple(sorted({"retain", "forget"} & method.reads(problem)))
        outlook = replace(outlook, needs=real)
        sets = [f"{kind} set" for kind in real if getattr(problem, kind) is None]
        if sets:
            words = " and the ".join(sets)
            return replace(outlook, obstacle=f"it reads real samples of the {words}, and none were given")
        try:
            method.check(problem)
            probe_method(method, problem, self.compute)
            return self.try_method(outlook, method)
        except InputError as error:
            return replace(outlook, obstacle=str(error))

    def try_method(self, outlook: Outlook, method: Method) -> Outlook:
        """Return an outlook with the trial's time, memory and self-measure."""
        outlook = replace(outlook, steps=_count_steps(method, self.problem, self.seed))
        started, times = time.perf_counter(), list[float]()

        def watch(_: int) -> None:
            times.append(time.perf_counter())

        try:
            with hide_progress():
                found = fit(
                    method, self.problem, seed=self.seed, on_step=watch, compute=self.compute, share=TRIED
                )
        except TrainingDivergedError as error:
            return replace(outlook, faults=("diverged",), trial=str(error))
        seconds = time.perf_counter() - started
        seconds += _extrapolate(times, outlook.steps, "learning_rate" in found.facts)
        outlook = replace(outlook, seconds=seconds, peak_rss_mb=peak_rss_mb())
        if not isinstance(method, Trained):
            return outlook  # the whole method, not a trial of it
        measure = self.measure(found)
        return replace(outlook, faults=find_trial_faults(measure), trial=measure.verdict)

    def measure(self, found: Fit) -> SelfMeasure:
        """Return the self-measure of a trial's result."""
        model = restore_autoencoder(found.model, self.target.model)
        return measure_unlearning(
            self.target, model, seed=self.seed, n=TRIAL_SAMPLES, device=self.compute.device
        )


def find_trial_faults(measure: SelfMeasure) -> tuple[str, ...]:
    """Return the faults of a trial's result: "diverged", "did not move", "blurred".

    A short training need not have forgotten or become sharp, so only results far from sound ones are faults:
    NaN; as many forgotten samples as before; a sharpness under ``TRIAL_SHARP`` by more than noise.
    """
    if measure.not_finite:
        return ("diverged",)
    faults = []
    if measure.unchanged or (measure.forgotten is False and not _moved(measure)):
        faults.append("did not move")
    ratios = (measure.sharpness, measure.of_moved("sharpness"))
    if any(ratio is not None and ratio.is_below(TRIAL_SHARP) for ratio in ratios):
        faults.append("blurred")
    return tuple(faults)


def _moved(measure: SelfMeasure) -> bool:
    """Return whether there are fewer forgotten samples than before."""
    assert measure.before is not None
    assert measure.after is not None
    return measure.after.value < measure.before.value


def _extrapolate(times: Sequence[float], steps: int, is_chosen: bool) -> float:
    """Return the seconds of the steps that a trial left out, and of the range test if that chooses the rate.

    Args:
        times: at the end of each step of the trial.
        steps: of the whole training.
        is_chosen: whether a range test chooses the rate; a trial is too short for one.
    """
    step = statistics.median(b - a for a, b in pairwise(times)) if len(times) > 1 else 0.0
    tests = count_trial_steps(steps) * (len(RATES) + 1) if is_chosen else 0
    return step * (max(0, steps - len(times)) + tests)


def _count_steps(method: Method, problem: Problem, seed: int) -> int:
    """Return the steps of a method's training, and of the training before it."""
    if not isinstance(method, Trained):
        return 0
    loop, within = method.training(problem, seed)
    earlier = loop.earlier(within)
    return loop.steps + (0 if earlier is None else earlier.steps)
