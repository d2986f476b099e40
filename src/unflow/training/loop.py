"""The training loop: seeded per step, logged as JSON lines, with atomic checkpoints and exact resumption.

Every random number of step k depends on (seed, k) alone. A killed run that is started again therefore draws
the same batches as an uninterrupted run and ends in the same bits. Every device draws the same global batch
and takes its own rows, so that the number of devices does not change the loss curve.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from unflow.ground.errors import InputError, TrainingDivergedError
from unflow.ground.files import append_json_line, read_json_lines, read_tensors, write_bytes, write_tensors
from unflow.ground.locks import locks_output
from unflow.ground.memory import measure_peak_memory
from unflow.ground.progress import Progress, print_line
from unflow.ground.records import gathers
from unflow.ground.streams import Stream, check_seed, derive_seed, stream
from unflow.nets.modes import moved_to
from unflow.training.compute import ONE_CPU, Compute
from unflow.training.derivatives import has_unused_weights
from unflow.training.method import Method, Problem, Tensors, Trained, Training, Untrained, settings
from unflow.training.rates import MAX_RESTARTS, RISE, Watch
from unflow.training.run import Run, mean_over_devices
from unflow.training.snapshots import Snapshot, Snapshots
from unflow.training.trained_weights import is_partial, merge, require_own_weights

if TYPE_CHECKING:
    from lightning_fabric import Fabric

CHECKPOINT_SECONDS = 30.0
RECORDS = 20
"""Lines of metrics.jsonl, at least, of a training of that many steps."""
MIN_STEPS = 6
"""Fewest steps of a trial."""
CHECKPOINT, PREPARED, METRICS = "checkpoint.safetensors", "prepared.safetensors", "metrics.jsonl"
REMEDY = "write a smaller learning_rate (--settings.learning_rate in the shell), or bound the energy"
"""What the user of a diverged training can do."""
EARLIER = "earlier"
"""Subfolder for the earlier training stage of a training (``Training.earlier``)."""


@dataclass(frozen=True)
class Fit:
    """The result of ``fit``."""

    model: nn.Module
    seconds: float
    """Time of preparation and steps, over all restarts."""
    steps: int
    peak_rss_mb: float
    """Largest resident memory of the process so far, in MB."""
    is_first: bool = True
    """Whether this is the process that writes files and prints."""
    facts: dict[str, float | None] = field(default_factory=dict)
    """Numbers about the preparation (``Training.facts``)."""
    losses: list[dict[str, float]] = field(default_factory=list)
    """The logged records of the last training, with "step"."""


@gathers(compute=Compute)
@locks_output
def fit(
    method: Method,
    problem: Problem,
    out: str | Path | None = None,
    *,
    seed: int = 0,
    compute: Compute = ONE_CPU,
    log_every: int = 50,
    checkpoint_every: int = 500,
    label: str = "",
    problem_id: str = "",
    on_step: Callable[[int], None] | None = None,
    share: float = 1.0,
    snapshots: Snapshots | None = None,
) -> Fit:
    """Carry out a method on a problem; the same call continues a run that was killed.

    The fields of ``Compute`` may also be written as keywords of this call: ``fit(..., device="cuda")``.

    Args:
        method: the method, with its hyper-parameters.
        problem: the model and what the method needs beside it.
        out: folder for metrics.jsonl and checkpoints; an earlier training has its own in a folder within.
            None keeps nothing.
        seed: >= 0, of every random number.
        compute: devices, precision, micro-batches, compiler and loggers.
        log_every: steps between lines of metrics.jsonl, at most; short runs have ``RECORDS`` lines.
        checkpoint_every: steps between checkpoints (and held-out losses); slow steps are also saved by time.
        label: name of this training in the progress line.
        problem_id: a hash of model, request and data, so that a folder with another problem's checkpoint is
            refused.
        on_step: called after each step with the number of finished steps, an earlier training's among them.
        share: of the steps of each training that is carried out, in (0, 1]; for trials. The schedule of rates
            is that of a training of so many steps, at least ``MIN_STEPS``.
        snapshots: where to keep models of the (last) training on its way; None keeps none.

    Raises:
        InputError: for a problem that the method cannot take, a batch that devices or micro-batches cannot
            share, a loss that cannot be compiled, or a checkpoint of another method, seed or setting.
        TrainingDivergedError: when a loss becomes NaN or infinite.
    """
    check_seed(seed)
    method.check(problem)
    if isinstance(method, Untrained):
        require_own_weights(not is_partial(problem), problem.model)
        return _make_untrained(method, problem, seed, compute)
    assert isinstance(method, Trained)
    original = problem.model
    loop, problem = method.training(problem, seed)
    require_own_weights(problem.model is original or not is_partial(problem), original)
    loop.check(problem)
    first = loop.earlier(problem)
    loop, first = _shorten(loop, share), None if first is None else _shorten(first, share)
    trainings = [loop] if first is None else [first, loop]
    for training in trainings:
        _check_adapters(training, problem)
    compute.check(trainings, problem.model)
    name, folder = label or type(method).__name__, None if out is None else Path(out)
    if isinstance(method, Training) and type(loop) is not type(method):
        name = f"{name}, {type(loop).__name__}"
    train = partial(
        _train,
        compute.launch(compute.devices > 1 and has_unused_weights(original)),
        compute,
        log_every=log_every,
        checkpoint_every=checkpoint_every,
        problem_id=problem_id,
        on_step=on_step,
    )
    if first is None:
        return train(loop, problem, folder, seed, name, snapshots=snapshots)
    within = None if folder is None else folder / EARLIER
    before = train(
        first, problem, within, derive_seed(seed, Stream.EARLIER), f"{name}, {type(first).__name__}"
    )
    problem = replace(problem, earlier=before.model)
    last = train(loop, problem, folder, seed, name, steps_before=before.steps, snapshots=snapshots)
    return replace(last, seconds=before.seconds + last.seconds, steps=before.steps + last.steps)


def _shorten(loop: Training, share: float) -> Training:
    """Return a training of a share of its steps, at least ``MIN_STEPS``; the training itself for share 1."""
    if share == 1:
        return loop
    return replace(loop, steps=min(loop.steps, max(MIN_STEPS, int(share * loop.steps))))


def _check_adapters(loop: Training, problem: Problem) -> None:
    """Raise InputError for adapters with a training that reads single weights."""
    if problem.adapters is not None and loop.reads_weights:
        raise InputError(
            f"got low-rank adapters for {type(loop).__name__}, which weighs every single weight; expected a "
            "method that does not: write relabel, or leave the rank out"
        )


def _train(
    fabric: Fabric,
    compute: Compute,
    loop: Training,
    problem: Problem,
    out: Path | None,
    seed: int,
    label: str,
    *,
    log_every: int,
    checkpoint_every: int,
    problem_id: str,
    on_step: Callable[[int], None] | None,
    steps_before: int = 0,
    snapshots: Snapshots | None = None,
) -> Fit:
    """Run one training from the last checkpoint in its folder."""
    clock, is_first = _Clock(), fabric.is_global_zero
    with moved_to(_list_networks(problem), fabric.device):
        folder = _Folder(out, loop, seed, problem_id, is_first)
        prepared = folder.load_prepared(lambda: loop.prepare(problem, stream(seed, Stream.PREPARE)))
        run = Run(fabric, compute, loop, problem, prepared, seed)
        folder.keep(prepared)
        clock.seconds_before = folder.resume(run)
        fabric.barrier()
        often = min(log_every, max(1, loop.steps // RECORDS))
        kept = snapshots.list_steps(loop.steps) if snapshots is not None and is_first else ()
        with Progress(label, loop.steps, run.step, is_first) as progress:
            if run.watch.rate is None and run.is_chosen:
                run.choose_rate()
            while run.step < loop.steps:
                losses = run.advance()
                if on_step is not None:
                    on_step(steps_before + run.step)
                if snapshots is not None and run.step in kept:  # before the checkpoint, for a killed run
                    seconds = clock.seconds
                    with clock.paused():
                        snapshots.keep(Snapshot(loop.result(problem, run.parts), run.step, seconds))
                milestone = run.step == loop.steps or run.step % checkpoint_every == 0
                try:
                    _watch(run, losses, label)
                    if milestone or run.step == 1 or run.step % often == 0:
                        _log(run, problem, losses, folder, clock, milestone)
                    if milestone or folder.is_due():
                        folder.checkpoint(run, clock.seconds, losses)
                except TrainingDivergedError as error:
                    _restart(run, error, folder, clock, label)
                progress.advance(run.step)
        merge(run.parts)
        model, facts = _freeze(loop.result(problem, run.parts)), loop.facts(run.prepared)
        if run.is_chosen:
            facts = facts | {"learning_rate": run.watch.rate, "restarts": run.watch.restarts}
        return Fit(model, clock.seconds, loop.steps, peak_rss_mb(), is_first, facts, folder.lines)


def _watch(run: Run, losses: Tensors, label: str) -> None:
    """Add the losses of a step to the watch over a falling loss.

    Raises:
        TrainingDivergedError: if it has risen, and the rate was chosen; a rate of the user's gives a line.
    """
    watch = run.watch
    if run.loop.falling_loss not in losses or not watch.add(run.falling_loss(losses)) or watch.said:
        return
    rise = f"the loss '{run.loop.falling_loss}' rose to more than {RISE:g} times its start by step {run.step}"
    if run.is_chosen:
        raise TrainingDivergedError(f"{rise}; expected it to fall: {REMEDY}")
    watch.said = True
    if run.fabric.is_global_zero:
        print_line(f"{label}: {rise}; expected it to fall: write a smaller learning_rate, or leave it out")


def _restart(run: Run, error: TrainingDivergedError, folder: _Folder, clock: _Clock, label: str) -> None:
    """Start a diverged run again at a lower rate.

    Raises:
        TrainingDivergedError: if the rate is the user's, or after ``MAX_RESTARTS`` restarts.
    """
    watch, step = run.watch, run.step
    if not run.is_chosen:
        raise error
    if watch.restarts == MAX_RESTARTS:
        raise TrainingDivergedError(f"{error} (after {watch.restarts} restarts at lower rates)") from None
    before = watch.rate
    watch.restart()
    run.start_again()
    folder.restart(run, clock.seconds)
    if run.fabric.is_global_zero:
        print_line(
            f"{label}: diverged at step {step} with the learning rate {before:.2g}; starts again at "
            f"{watch.rate:.2g} (restart {watch.restarts} of {MAX_RESTARTS})"
        )


def _make_untrained(method: Untrained, problem: Problem, seed: int, compute: Compute) -> Fit:
    """Run a method without training, which has no checkpoints."""
    compute.check_untrained(type(method).__name__)
    clock = _Clock()
    with moved_to(_list_networks(problem), compute.device):
        model = method.make(problem, stream(seed, Stream.PREPARE))
        return Fit(_freeze(model), clock.seconds, 0, peak_rss_mb())


def _freeze(model: nn.Module) -> nn.Module:
    return model.cpu().eval().requires_grad_(False)


def _log(
    run: Run, problem: Problem, losses: Tensors, folder: _Folder, clock: _Clock, milestone: bool
) -> None:
    values, seconds = _reduce_losses(run.fabric, losses, run.step), clock.seconds
    if milestone and problem.held_out is not None:
        with clock.paused():
            held_out = run.loop.held_out_loss(problem, run.parts)
        values |= {} if held_out is None else {"held_out": held_out}
    folder.log(run.step, seconds, values)
    run.fabric.log_dict(values, run.step)


def peak_rss_mb() -> float:
    """Return the largest resident memory of this process so far, in MB."""
    return measure_peak_memory() / 2**20


class _Clock:
    """Seconds of work over all restarts of a run."""

    def __init__(self) -> None:
        self.seconds_before, self._started = 0.0, time.perf_counter()

    @property
    def seconds(self) -> float:
        return self.seconds_before + time.perf_counter() - self._started

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Do not count the time within, such as that of a held-out loss."""
        paused_at = time.perf_counter()
        yield
        self._started += time.perf_counter() - paused_at


def _list_networks(problem: Problem) -> list[nn.Module]:
    """Return every network of a problem."""
    target = problem.target
    of_target = (target.model, target.energy) if target else ()
    found = [problem.model, problem.teacher, problem.critic, problem.earlier, *of_target]
    return [module for module in found if module is not None]


def _reduce_losses(fabric: Fabric, losses: Tensors, step: int) -> dict[str, float]:
    values = {}
    for name, loss in losses.items():
        values[name] = float(mean_over_devices(fabric, torch.as_tensor(loss)))
        if not math.isfinite(values[name]):
            raise TrainingDivergedError(
                f"the loss '{name}' became {values[name]} at step {step}; expected finite numbers: {REMEDY}"
            )
    return values


class _Folder:
    """The files of one training; without a folder, its methods do nothing."""

    def __init__(self, path: Path | None, loop: Training, seed: int, problem_id: str, writes: bool) -> None:
        self.path, self.loop, self.writes = path, loop, writes
        self.identity = {"method": type(loop).__name__, **settings(loop), "seed": seed, "problem": problem_id}
        self.lines: list[dict[str, float]] = []
        self._written = time.monotonic()

    def load_prepared(self, make: Callable[[], Tensors]) -> Tensors:
        """Return the fixed tensors; read from disk if a killed run has written them."""
        if self.path is None or not self.loop.keeps_prepared:
            return make()
        file = self.path / PREPARED
        if file.is_file():
            tensors, identity = read_tensors(file)
            self._check_identity(identity, file)
            return tensors
        return make()

    def keep(self, prepared: Tensors) -> None:
        """Make the folder and write the fixed tensors; all checks have passed by then."""
        if self.path is not None and self.writes:
            self.path.mkdir(parents=True, exist_ok=True)
            file = self.path / PREPARED
            if self.loop.keeps_prepared and not file.is_file():
                write_tensors(file, prepared, self.identity)

    def resume(self, run: Run) -> float:
        """Restore the last checkpoint; return the seconds spent before it."""
        if self.path is None or not (self.path / CHECKPOINT).is_file():
            if self.path is not None and self.writes:
                (self.path / METRICS).unlink(missing_ok=True)
            return 0.0
        tensors, metadata = read_tensors(self.path / CHECKPOINT)
        self._check_identity(metadata["identity"], self.path / CHECKPOINT)
        run.restore(tensors)
        run.step = int(metadata["step"])
        self.lines = [r for r in read_json_lines(self.path / METRICS) if r["step"] <= run.step]
        run.watch = Watch(**metadata.get("watch", run.watch.state()))
        if self.writes:
            text = "".join(json.dumps(record) + "\n" for record in self.lines)
            write_bytes(self.path / METRICS, text.encode())
        return float(metadata["seconds"])

    def restart(self, run: Run, seconds: float) -> None:
        """Drop the log of a diverged run, and write a checkpoint of the new start."""
        self.lines = []
        if self.path is not None and self.writes:
            (self.path / METRICS).unlink(missing_ok=True)
            self._write(run, seconds)

    def log(self, step: int, seconds: float, values: dict[str, float]) -> None:
        """Append one line of metrics; without a folder, in memory only."""
        record = {"step": step, "seconds": round(seconds, 3), **values}
        self.lines.append(record)
        if self.path is not None and self.writes:
            append_json_line(self.path / METRICS, record)

    def is_due(self) -> bool:
        """Return whether the last checkpoint is older than ``CHECKPOINT_SECONDS``."""
        due = self.path is not None and time.monotonic() - self._written > CHECKPOINT_SECONDS
        return due and self.writes

    def checkpoint(self, run: Run, seconds: float, losses: Tensors) -> None:
        """Write a checkpoint, unless the training has diverged: the next logged step says so.

        Raises:
            TrainingDivergedError: at the last step, after which no step is logged.
        """
        self._written = time.monotonic()
        broken = run.find_broken(losses)
        if broken is not None and run.step == run.loop.steps:
            raise TrainingDivergedError(
                f"{broken} became NaN or infinite at step {run.step}; expected finite numbers: {REMEDY}"
            )
        if self.path is not None and self.writes and broken is None:
            self._write(run, seconds)

    def _write(self, run: Run, seconds: float) -> None:
        assert self.path is not None
        watch = run.watch.state()
        metadata = {"identity": self.identity, "step": run.step, "seconds": seconds, "watch": watch}
        write_tensors(self.path / CHECKPOINT, run.state(), metadata)

    def _check_identity(self, identity: dict[str, Any], file: Path) -> None:
        ours = json.loads(json.dumps(self.identity))
        names = sorted(k for k in ours.keys() | identity.keys() if ours.get(k) != identity.get(k))
        if names:
            differences = ", ".join(f"{k}: {identity.get(k)} -> {ours.get(k)}" for k in names)
            raise InputError(
                f"{file} is from a run with other settings ({differences}); expected the same ones to "
                "continue it: undo the change, or choose another --out"
            )


def finish(out: str | Path) -> None:
    """Remove checkpoints and prepared tensors, which only a resumed run needs, once the model is saved."""
    for folder in (Path(out), Path(out) / EARLIER):
        for name in (CHECKPOINT, PREPARED):
            (folder / name).unlink(missing_ok=True)


def seconds_to_within(metrics: Path, share: float = 0.05) -> float | None:
    """Return the seconds to the first checkpoint within ``share`` of the best held-out loss.

    None if no held-out loss was recorded.
    """
    watched = [r for r in read_json_lines(metrics) if r.get("held_out") is not None]
    if not watched:
        return None
    best = min(r["held_out"] for r in watched)
    return next(float(r["seconds"]) for r in watched if r["held_out"] <= (1 + share) * best)
