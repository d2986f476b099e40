"""The training loop: seeded per step, logged as JSON lines, with atomic checkpoints and exact resumption.

Every random number of step k depends on (seed, k) alone. A killed run that is started again therefore draws
the same batches as an uninterrupted run and ends in the same bits. Every device draws the same global batch
and takes its own rows, so that the number of devices does not change the loss curve.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from unflow.ground.errors import InputError, TrainingDivergedError
from unflow.ground.files import append_json_line, read_json_lines, read_tensors, write_bytes, write_tensors
from unflow.ground.locks import locks_output
from unflow.ground.memory import measure_peak_memory
from unflow.ground.progress import Progress, print_line
from unflow.ground.records import gathers
from unflow.ground.streams import Stream, check_seed, derive_seed, stream
from unflow.training.compute import ONE_CPU, Compute
from unflow.training.method import (
    Method,
    Problem,
    Tensors,
    Trained,
    Training,
    Untrained,
    select_prefix,
    settings,
)
from unflow.training.rates import (
    MAX_RESTARTS,
    RATES,
    RISE,
    START,
    UNTRIED,
    Watch,
    bound_mean,
    count_trial_steps,
    pick_rate,
)
from unflow.training.trained_weights import adapt, is_partial, merge, require_own_weights, train_only

if TYPE_CHECKING:
    from lightning_fabric import Fabric

CHECKPOINT_SECONDS = 30.0
RECORDS = 20
"""Lines of metrics.jsonl, at least, of a training of that many steps."""
MIN_STEPS = 6
"""Fewest steps of a trial."""
CHECKPOINT, PREPARED, METRICS = "checkpoint.safetensors", "prepared.safetensors", "metrics.jsonl"
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


class _Loop:
    """The state of one training: networks wrapped by Fabric, the step number, the clock."""

    def __init__(
        self, fabric: Fabric, compute: Compute, loop: Training, problem: Problem, prepared: Tensors, seed: int
    ) -> None:
        self.fabric, self.compute, self.loop, self.seed = fabric, compute, loop, seed
        self.prepared = {k: v.to(fabric.device) for k, v in prepared.items()}
        self.parts = loop.init(problem, self.prepared, seed)
        self._choose_weights(problem)
        self.wrapped: dict[str, Any] = {}
        self.optimizers: dict[str, Any] = {}
        for name, part in self.parts.items():
            loss = compute.compile_loss(part.loss)
            self.wrapped[name], self.optimizers[name] = fabric.setup(loss, part.optimizer)
            part.average.to(fabric.device)
        self.step = 0
        self.watch = Watch(max(20, loop.steps // 20), loop.learning_rate)
        self.is_chosen = any(part.learning_rate is None for part in self.parts.values())
        self._start = self._copy_start() if self.is_chosen else {}

    def _choose_weights(self, problem: Problem) -> None:
        started = [one for one in (problem.model, problem.earlier) if one is not None]
        if problem.adapters is not None:
            adapt(
                self.parts, started, problem.adapters, problem.train_only, stream(self.seed, Stream.ADAPTERS)
            )
        elif problem.train_only is not None:
            train_only(self.parts, started, problem.train_only)

    def __call__(self, name: str, /, *args: Tensor | float) -> Tensor:
        """Take one optimizer step on a part (``Descend``)."""
        return self.with_outputs(name, *args)[0]

    def with_outputs(self, name: str, /, *args: Tensor | float) -> tuple[Tensor, ...]:
        """Take one optimizer step on a part; return the loss and its further outputs."""
        part, optimizer = self.parts[name], self.optimizers[name]
        optimizer.zero_grad()
        last = self.compute.micro_batches - 1
        found = [
            self._backward(name, part, k < last) for k, part in enumerate(self.compute.split_batch(args))
        ]
        optimizer.step()
        part.update_average(self.step)
        losses, *outputs = zip(*found, strict=True)
        return torch.stack(losses).sum(), *(torch.cat(rows) for rows in outputs)

    def _backward(self, name: str, args: Sequence[Tensor | float], more: bool) -> tuple[Tensor, ...]:
        """Add the gradient of one micro-batch; devices synchronise unless ``more`` micro-batches follow."""
        wrapped = self.wrapped[name]
        with self.fabric.no_backward_sync(wrapped, enabled=more):
            found = wrapped(*args)
            loss, *outputs = found if isinstance(found, tuple) else (found,)
            loss = loss / self.compute.micro_batches
            self.fabric.backward(loss)
        return loss.detach(), *(rows.detach() for rows in outputs)

    def _copy_start(self) -> Tensors:
        return {name: tensor.detach().clone() for name, tensor in self.state().items()}

    def start_again(self) -> None:
        """Set weights, optimizers and the step number as at the start."""
        self.restore(self._start)
        self.step = 0

    def choose_rate(self) -> None:
        """Choose the rate of the parts that name none, by a range test from the start of the training.

        Each rate takes the same first batches, at a constant rate; the mean loss over the second half of
        these steps decides. It is the mean over all devices, which therefore decide alike.
        """
        steps = count_trial_steps(self.loop.steps)
        still = self._try_rate(0.0, max(START, steps))
        tried = [self._try_rate(rate, steps) for rate in RATES] if steps else []
        self.start_again()
        self.watch.start = bound_mean(still)
        late = slice(steps // 2, steps)
        start, *losses = [sum(each[late]) for each in (still, *tried)]
        self.watch.rate = pick_rate(start, losses) if steps else UNTRIED

    def _try_rate(self, rate: float, steps: int) -> list[float]:
        """Return the losses of the first steps at a constant rate, each before its step."""
        self.start_again()
        self.watch.rate = rate
        return [float(self.falling_loss(self.advance(1.0))) for _ in range(steps)]

    def falling_loss(self, losses: Tensors) -> Tensor:
        """Return the mean over all devices of the loss that a sound training lowers."""
        loss = torch.as_tensor(losses[self.loop.falling_loss])
        return _mean_over_devices(self.fabric, loss)

    def advance(self, relative: float | None = None) -> Tensors:
        """Take one step, at a rate relative to the peak (None: of the schedule), and return its losses."""
        loop, world, rank = self.loop, self.fabric.world_size, self.fabric.global_rank
        relative = loop.schedule(self.step) if relative is None else relative
        for part in self.parts.values():
            peak = self.watch.rate if part.learning_rate is None else part.learning_rate
            assert peak is not None
            for group in part.optimizer.param_groups:
                group["lr"] = peak * relative
        batch = loop.draw(self.prepared, stream(self.seed, Stream.STEP, self.step))
        device = self.fabric.device
        batch = {k: v[rank::world].to(device, non_blocking=True) for k, v in batch.items()}
        with _seed_globally(derive_seed(self.seed, Stream.DROPOUT, self.step), device):
            losses = loop.step(self.parts, batch, self, self.step / loop.steps)
        self.step += 1
        return losses

    def find_broken(self, losses: Tensors) -> str | None:
        """Return the name of a loss or a weight that is NaN or infinite; None if there is none."""
        weights = {
            f"the weight '{k}'": v
            for part in self.parts.values()
            for k, v in part.net.named_parameters()
            if v.requires_grad
        }
        named = {f"the loss '{name}'": torch.as_tensor(loss) for name, loss in losses.items()} | weights
        return next((name for name, value in named.items() if not bool(value.isfinite().all())), None)

    def state(self) -> Tensors:
        """Return all tensors that the next step depends on and that steps change, by name."""
        tensors: Tensors = {}
        for name, part in self.parts.items():
            fixed = {k for k, weight in part.net.named_parameters() if not weight.requires_grad}
            for kind, net in part.networks.items():
                changing = {k: v for k, v in net.state_dict().items() if k not in fixed}
                tensors |= {f"{name}/{kind}/{k}": v for k, v in changing.items()}
            for index, moments in part.optimizer.state_dict()["state"].items():
                tensors |= {f"{name}/adam/{index}/{k}": v for k, v in moments.items()}
        return tensors

    def restore(self, tensors: Tensors) -> None:
        """Set the tensors that ``state`` returned."""
        for name, part in self.parts.items():
            for kind, net in part.networks.items():
                net.load_state_dict(net.state_dict() | select_prefix(tensors, f"{name}/{kind}/"))
            moments: dict[int, Tensors] = {}
            weights = [weight for group in part.optimizer.param_groups for weight in group["params"]]
            for key, value in select_prefix(tensors, f"{name}/adam/").items():
                index, _, entry = key.partition("/")
                moments.setdefault(int(index), {})[entry] = _lay_out(value, weights[int(index)])
            groups = part.optimizer.state_dict()["param_groups"]
            part.optimizer.load_state_dict({"state": moments, "param_groups": groups})


def _lay_out(moment: Tensor, weight: Tensor) -> Tensor:
    """Return a moment in the memory layout of its weight, which the fused kernel of Adam assumes."""
    if moment.shape != weight.shape:
        return moment  # the number of steps
    return torch.empty_like(weight, dtype=moment.dtype, device=moment.device).copy_(moment)


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
    train = partial(
        _train,
        compute.launch(),
        compute,
        log_every=log_every,
        checkpoint_every=checkpoint_every,
        problem_id=problem_id,
        on_step=on_step,
    )
    if first is None:
        return train(loop, problem, folder, seed, name)
    within = None if folder is None else folder / EARLIER
    before = train(
        first, problem, within, derive_seed(seed, Stream.EARLIER), f"{name}, {type(first).__name__}"
    )
    problem = replace(problem, earlier=before.model)
    last = train(loop, problem, folder, seed, name, steps_before=before.steps)
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
) -> Fit:
    """Run one training from the last checkpoint in its folder."""
    clock, is_first = _Clock(), fabric.is_global_zero
    with _move_networks(problem, fabric.device):
        folder = _Folder(out, loop, seed, problem_id, is_first)
        prepared = folder.load_prepared(lambda: loop.prepare(problem, stream(seed, Stream.PREPARE)))
        run = _Loop(fabric, compute, loop, problem, prepared, seed)
        folder.keep(prepared)
        clock.seconds_before = folder.resume(run)
        fabric.barrier()
        often = min(log_every, max(1, loop.steps // RECORDS))
        with Progress(label, loop.steps, run.step, is_first) as progress:
            if run.watch.rate is None and run.is_chosen:
                run.choose_rate()
            while run.step < loop.steps:
                losses = run.advance()
                if on_step is not None:
                    on_step(steps_before + run.step)
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


def _watch(run: _Loop, losses: Tensors, label: str) -> None:
    """Add the losses of a step to the watch over a falling loss.

    Raises:
        TrainingDivergedError: if it has risen, and the rate was chosen; a rate of the user's gives a line.
    """
    watch = run.watch
    if run.loop.falling_loss not in losses or not watch.add(run.falling_loss(losses)) or watch.said:
        return
    rise = f"the loss '{run.loop.falling_loss}' rose to more than {RISE:g} times its start by step {run.step}"
    if run.is_chosen:
        raise TrainingDivergedError(
            f"{rise}; expected it to fall: write a smaller learning_rate (--settings.learning_rate in the "
            "shell), or bound the energy"
        )
    watch.said = True
    if run.fabric.is_global_zero:
        print_line(f"{label}: {rise}; expected it to fall: write a smaller learning_rate, or leave it out")


def _restart(run: _Loop, error: TrainingDivergedError, folder: _Folder, clock: _Clock, label: str) -> None:
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


@contextmanager
def _seed_globally(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global generators, from which the dropout of a third-party network draws in training."""
    generators = [torch.default_generator]
    if device.type == "cuda":
        generators.append(torch.cuda.default_generators[device.index or 0])
    states = [generator.get_state() for generator in generators]
    try:
        for generator in generators:
            generator.manual_seed(seed)
        yield
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)


def _make_untrained(method: Untrained, problem: Problem, seed: int, compute: Compute) -> Fit:
    """Run a method without training, which has no checkpoints."""
    compute.check_untrained(type(method).__name__)
    clock = _Clock()
    with _move_networks(problem, torch.device(compute.device)):
        model = method.make(problem, stream(seed, Stream.PREPARE))
        return Fit(_freeze(model), clock.seconds, 0, peak_rss_mb())


def _freeze(model: nn.Module) -> nn.Module:
    return model.cpu().eval().requires_grad_(False)


def _log(
    run: _Loop, problem: Problem, losses: Tensors, folder: _Folder, clock: _Clock, milestone: bool
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


@contextmanager
def _move_networks(problem: Problem, device: torch.device) -> Iterator[None]:
    """Move a problem's networks to a device, and back to their own devices at the end."""
    homes = [(module, next(module.parameters(), torch.empty(0)).device) for module in _list_networks(problem)]
    for module, _ in homes:
        module.to(device)
    try:
        yield
    finally:
        for module, home in homes:
            module.to(home)


def _mean_over_devices(fabric: Fabric, loss: Tensor) -> Tensor:
    if fabric.world_size == 1:
        return loss
    return torch.as_tensor(fabric.all_reduce(loss, reduce_op="mean"))


def _reduce_losses(fabric: Fabric, losses: Tensors, step: int) -> dict[str, float]:
    values = {}
    for name, loss in losses.items():
        values[name] = float(_mean_over_devices(fabric, torch.as_tensor(loss)))
        if not math.isfinite(values[name]):
            raise TrainingDivergedError(
                f"the loss '{name}' became {values[name]} at step {step}; expected finite numbers: write a "
                "smaller learning_rate (--settings.learning_rate in the shell), or bound the energy"
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

    def resume(self, run: _Loop) -> float:
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

    def restart(self, run: _Loop, seconds: float) -> None:
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

    def checkpoint(self, run: _Loop, seconds: float, losses: Tensors) -> None:
        """Write a checkpoint, unless the training has diverged: the next logged step says so.

        Raises:
            TrainingDivergedError: at the last step, after which no step is logged.
        """
        self._written = time.monotonic()
        broken = run.find_broken(losses)
        if broken is not None and run.step == run.loop.steps:
            raise TrainingDivergedError(
                f"{broken} became NaN or infinite at step {run.step}; expected finite numbers: write a "
                "smaller learning_rate (--settings.learning_rate in the shell), or bound the energy"
            )
        if self.path is not None and self.writes and broken is None:
            self._write(run, seconds)

    def _write(self, run: _Loop, seconds: float) -> None:
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
