"""One training in progress: its networks and optimizers, its steps, its learning rate, and its state."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from unflow.ground.streams import Stream, derive_seed, stream
from unflow.training.compute import Compute
from unflow.training.method import Problem, Tensors, Training, select_prefix
from unflow.training.rates import RATES, START, UNTRIED, Watch, bound_mean, count_trial_steps, pick_rate
from unflow.training.trained_weights import adapt, train_only

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class Run:
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
        return mean_over_devices(self.fabric, loss)

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


def mean_over_devices(fabric: Fabric, loss: Tensor) -> Tensor:
    """Return the mean of a number over all devices."""
    if fabric.world_size == 1:
        return loss
    return torch.as_tensor(fabric.all_reduce(loss, reduce_op="mean"))
