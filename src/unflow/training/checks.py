"""Laws that a new member can check on itself, shipped or third-party: no test framework is needed.

    check_energy(energy, x)                  on samples x [batch, *shape], two rows or more
    check_method(method, problem, folder)    on a short training, in an empty folder

Both return nothing, or raise ``AssertionError`` with the law, what was found, and what was expected.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unflow.energies import Energy
from unflow.ground.errors import InputError
from unflow.ground.files import read_json_lines
from unflow.ground.streams import Stream, stream
from unflow.models import MODELS, GenerativeModel
from unflow.training.loop import METRICS, fit
from unflow.training.method import Method, Problem, Tensors, Trained, settings

FAMILIES = frozenset(MODELS) - {"chain", "latent", "filtered", "labelled"}
"""The families that a method may name; a chain is of its base's, what wraps a model of the model's inside."""

__all__ = ["FAMILIES", "check_energy", "check_method"]


def _require(holds: bool, law: str, got: object, expected: object) -> None:
    if not holds:
        raise AssertionError(f"{law}: got {got}; expected {expected}")


def check_energy(energy: Energy, x: Tensor, seed: int = 0) -> None:
    """Check the laws of an energy on samples x [batch, *shape].

    One finite number per sample, a function of that sample alone; never under ``lower_bound``;
    ``differentiable`` says the truth; evaluating changes nothing; the request has words.

    Args:
        energy: what is checked.
        x: samples where the energy is smooth almost everywhere, at least two.
        seed: of the random direction of the finite difference.

    Raises:
        AssertionError: for the first law that does not hold.
        InputError: for fewer than two samples.
    """
    if len(x) < 2:
        raise InputError(f"got {len(x)} samples to check an energy on; expected 2 or more")
    with _unchanged(f"evaluating {type(energy).__name__}", {"the energy": energy}, {"x": x}):
        _one_number_per_sample(energy, x)
        _deterministic(energy, x)
        _batch_independent(energy, x)
        _above_its_bound(energy, x)
        _has_words(energy)
        if energy.differentiable:
            _gradient_is_the_slope(energy, x, stream(seed))
        else:
            _has_no_gradient(energy, x)


def _one_number_per_sample(energy: Energy, x: Tensor) -> None:
    F = energy(x)
    _require(F.shape == (len(x),), "an energy is one number per sample", list(F.shape), [len(x)])
    _require(bool(torch.isfinite(F).all()), "an energy is finite", F.detach().tolist(), "finite numbers")


def _deterministic(energy: Energy, x: Tensor) -> None:
    first, second = _values(energy, x), _values(energy, x)
    _require(torch.equal(first, second), "an energy is deterministic", "two answers for one x", "one")


def _batch_independent(energy: Energy, x: Tensor) -> None:
    F, law = _values(energy, x), "F(x_i) depends on x_i alone"
    alone = torch.cat([_values(energy, row) for row in x.split(1)])
    _require(_close(alone, F), law, "other values one by one", "those of the batch")
    backwards = _values(energy, x.flip(0)).flip(0)
    _require(_close(backwards, F), law, "other values in another order", "the same")


def _above_its_bound(energy: Energy, x: Tensor) -> None:
    bound, least = energy.lower_bound, float(_values(energy, x).min())
    _require(not math.isnan(bound), "lower_bound is a number or -inf", bound, "a number")
    slack = 1e-4 * (1 + abs(bound)) if math.isfinite(bound) else 0.0
    _require(least >= bound - slack, "F(x) >= lower_bound", f"F = {least:g}", f"{bound:g} or more")


def _has_words(energy: Energy) -> None:
    words = energy.describe()
    _require(isinstance(words, str) and bool(words.strip()), "describe() has words", repr(words), "some")


def _gradient_is_the_slope(energy: Energy, x: Tensor, generator: torch.Generator) -> None:
    """Compare dF/dx . u with (F(x + h u) - F(x - h u)) / 2h; a kink may spoil one row in ten."""
    law = "a differentiable energy has its slope as gradient (or write differentiable = False)"
    leaf = x.detach().clone().requires_grad_(True)
    F = energy(leaf)
    _require(F.requires_grad, law, "values without gradient", "values that follow x")
    F.sum().backward()
    grad = leaf.grad
    _require(grad is not None, law, "no gradient", "one of the shape of x")
    assert grad is not None
    _require(bool(torch.isfinite(grad).all()), law, "NaN or infinite entries", "finite ones")
    flat = bool((grad == 0).all()) and bool((F[0] != F).any())
    _require(not flat, law, "0 everywhere for values that differ", "another gradient")
    direction = torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device)
    h = torch.finfo(x.dtype).eps ** (1 / 3)
    found = (grad * direction).flatten(1).sum(1)
    slope = (_values(energy, x + h * direction) - _values(energy, x - h * direction)) / (2 * h)
    rounding = torch.finfo(x.dtype).eps * (1 + float(F.detach().abs().max())) / h
    near = (found - slope).abs() <= 0.02 * (found.abs() + slope.abs()) + 10 * rounding
    share = float(near.double().mean())
    _require(share >= 0.9, law, f"the slope in {share:.0%} of the rows", "90 % or more")


def _has_no_gradient(energy: Energy, x: Tensor) -> None:
    F = energy(x.detach().clone().requires_grad_(True))
    law = "an energy with differentiable = False has no gradient"
    _require(not F.requires_grad, law, "values that follow x", "values without gradient")


@torch.no_grad()
def _values(energy: Energy, x: Tensor) -> Tensor:
    return energy(x)


def _close(a: Tensor, b: Tensor) -> bool:
    tolerance = 100 * torch.finfo(a.dtype).eps
    return torch.allclose(a, b, rtol=tolerance, atol=tolerance * (1 + float(b.abs().max())))


def check_method(method: Method, problem: Problem, folder: str | Path, seed: int = 0) -> None:
    """Check the laws of a method by four short trainings on a small problem.

    Hyper-parameters are documented plain data; what is missing is refused before training; every
    tensor of a batch has batch_size rows; training leaves the original and torch's random stream
    alone; the same seed gives the same bits, also after a stop in the middle; losses are logged; the
    result is a model like the original. A method without training is held to the laws that speak of none.

    Args:
        method: what is checked, with few steps (at least 4) and small batches.
        problem: something it can train on, with all that it needs.
        folder: empty or new; the trainings leave their logs and checkpoints there.
        seed: of the trainings.

    Raises:
        AssertionError: for the first law that does not hold.
        InputError: for a training too short to be stopped in the middle, or a problem that the
            method refuses.
    """
    if isinstance(method, Trained) and method.steps < 4:
        raise InputError(f"got steps={method.steps} to check; expected 4 or more, to stop in the middle")
    _frozen_and_keyword_only(method)
    _plain_data(method)
    _documented(method)
    _known_needs_and_families(method)
    method.check(problem)
    _refuses_what_it_lacks(method, problem)
    _refuses_other_families(method, problem)
    if isinstance(method, Trained):
        _batches_have_batch_size_rows(method, problem, seed)
    folder = Path(folder)
    with _unchanged(f"training with {type(method).__name__}", _modules(problem), _tensors(problem)):
        trained = fit(method, problem, folder / "whole", seed=seed, log_every=1).model
    _like_the_original(trained, problem.model, seed)
    again = fit(method, problem, seed=seed).model
    _same_bits(trained, again, "the same seed gives the same bits")
    if not isinstance(method, Trained):
        return
    _logs_losses(folder / "whole")
    resumed = _stopped_and_resumed(method, problem, folder / "stopped", seed)
    _same_bits(trained, resumed, "a stopped and resumed training ends in the same bits")


def _frozen_and_keyword_only(method: Method) -> None:
    kind = type(method)
    own = vars(kind).get("__dataclass_params__")
    law = "a method is declared with @dataclass(frozen=True, kw_only=True)"
    _require(own is not None, law, f"no decorator on {kind.__name__}", "that one")
    _require(own is not None and own.frozen, law, "frozen=False", "frozen=True")
    positional = [f.name for f in dataclasses.fields(method) if not f.kw_only]
    _require(not positional, law, f"positional fields {positional}", "kw_only=True")


def _plain_data(method: Method) -> None:
    kind, law = type(method), "hyper-parameters are plain data with defaults"
    try:
        kind()
        read = json.loads(json.dumps(settings(method)))
    except TypeError as error:
        raise AssertionError(f"{law}: got {error}; expected numbers, strings, booleans, None") from error
    _require(read == settings(method), law, read, f"{settings(method)} back from JSON")
    _require(kind(**read) == method, law, kind(**read), f"{method} from its settings")


def _documented(method: Method) -> None:
    law, kind = "a docstring names every hyper-parameter", type(method)
    own = vars(kind).get("__doc__") or ""
    _require(bool(own) and not own.startswith(f"{kind.__name__}("), law, "no docstring", "one")
    words = set(re.findall(r"\w+", " ".join(c.__doc__ or "" for c in kind.__mro__ if issubclass(c, Method))))
    unnamed = [f.name for f in dataclasses.fields(method) if f.name not in words]
    _require(not unnamed, law, f"nothing about {', '.join(unnamed)}", "an entry under Attributes")


def _known_needs_and_families(method: Method) -> None:
    fields = {f.name for f in dataclasses.fields(Problem)}
    unknown = sorted(method.needs - fields)
    _require(not unknown, "needs are fields of Problem", unknown, sorted(fields))
    law, families = "families are known names, at least one", sorted(method.families)
    _require(bool(families) and method.families <= FAMILIES, law, families, sorted(FAMILIES))


def _refuses_what_it_lacks(method: Method, problem: Problem) -> None:
    law = "check() refuses a problem without what the method needs"
    for name in sorted(method.needs - {"model"}):
        nothing: dict[str, Any] = {name: None}
        refused = _refuses(method, dataclasses.replace(problem, **nothing))
        _require(refused, law, f"no InputError without {name}", "an InputError")
    if method.reads(problem) - {"model"}:
        refused = _refuses(method, Problem(model=problem.model))
        _require(refused, law, "no InputError for a model alone", "an InputError")


def _refuses_other_families(method: Method, problem: Problem) -> None:
    law = "check() refuses a model of another family"
    if isinstance(problem.model, GenerativeModel):
        for family in sorted(FAMILIES - method.families):
            other = copy.copy(problem.model)
            other.family = family
            refused = _refuses(method, dataclasses.replace(problem, model=other))
            _require(refused, law, f"no InputError for a {family}", "an InputError")


def _refuses(method: Method, problem: Problem) -> bool:
    try:
        method.check(problem)
    except InputError:
        return True
    return False


def _batches_have_batch_size_rows(method: Trained, problem: Problem, seed: int) -> None:
    loop, own = method.training(problem, seed)
    first = loop.earlier(own)
    if first is not None:
        _batches_have_batch_size_rows(first, own, seed)
        own = dataclasses.replace(own, earlier=fit(first, own, seed=seed).model)
    law = "a training has the method's steps and batch_size"
    asked, given = (method.steps, method.batch_size), (loop.steps, loop.batch_size)
    _require(asked == given, law, given, asked)
    batch = loop.draw(loop.prepare(own, stream(seed, Stream.PREPARE)), stream(seed, Stream.STEP, 0))
    law = "every tensor of a batch has batch_size rows"
    _require(bool(batch), law, "an empty batch", "at least one tensor")
    for name, tensor in batch.items():
        rows = len(tensor) if tensor.ndim else "no rows"
        _require(rows == method.batch_size, law, f"{rows} in {name!r}", method.batch_size)


def _logs_losses(folder: Path) -> None:
    records = read_json_lines(folder / METRICS)
    losses = [r.keys() - {"step", "seconds", "held_out"} for r in records]
    law = "step() returns at least one loss"
    _require(bool(losses) and all(losses), law, f"the log {records[:1]}", "a named number in every line")


def _like_the_original(trained: nn.Module, original: nn.Module, seed: int) -> None:
    law = "the result is a model like the original"
    if not isinstance(original, GenerativeModel):
        _require(isinstance(trained, type(original)), law, type(trained), type(original))
        return
    _require(isinstance(trained, GenerativeModel), law, type(trained), GenerativeModel)
    assert isinstance(trained, GenerativeModel)
    for name in ("prior_shape", "sample_shape", "family"):
        got, expected = getattr(trained, name), getattr(original, name)
        _require(got == expected, law, f"{name} {got}", expected)
    x = trained.sample(16, stream(seed))
    _require(x.shape[1:] == original.sample_shape, law, list(x.shape[1:]), list(original.sample_shape))
    _require(bool(torch.isfinite(x).all()), "samples are finite", "NaN or infinite entries", "numbers")


class _Stopped(Exception):  # noqa: N818 - a signal, not an error
    pass


def _stopped_and_resumed(method: Trained, problem: Problem, folder: Path, seed: int) -> nn.Module:
    """Stop one step after a checkpoint, so that the resumed training repeats a step; each training once."""
    loop, own = method.training(problem, seed)
    first = loop.earlier(own)
    before = 0 if first is None else first.steps
    for start, steps in ((0, before), (before, loop.steps)):
        if steps:
            _stop(method, problem, folder, seed, max(1, steps // 2), start + steps // 2 + 1)
    return fit(method, problem, folder, seed=seed).model


def _stop(method: Trained, problem: Problem, folder: Path, seed: int, every: int, at: int) -> None:
    def stop(step: int) -> None:
        if step == at:
            raise _Stopped

    try:
        fit(method, problem, folder, seed=seed, checkpoint_every=every, on_step=stop)
    except _Stopped:
        return
    raise AssertionError(f"a training takes its steps one by one: got none numbered {at}; expected it")


def _same_bits(first: nn.Module, second: nn.Module, law: str) -> None:
    a, b = first.state_dict(), second.state_dict()
    differing = [k for k in a.keys() | b.keys() if k not in a or k not in b or not torch.equal(a[k], b[k])]
    _require(not differing, law, f"{len(differing)} tensors that differ", "equal ones")


def _modules(problem: Problem) -> dict[str, nn.Module]:
    modules: dict[str, nn.Module] = {"the original model": problem.model}
    if problem.teacher is not None:
        modules["the teacher"] = problem.teacher
    if problem.critic is not None:
        modules["the critic"] = problem.critic
    if problem.target is not None:
        modules |= {"the target's model": problem.target.model, "the energy": problem.target.energy}
    return modules


def _tensors(problem: Problem) -> Tensors:
    fields = {f.name: getattr(problem, f.name) for f in dataclasses.fields(problem)}
    return {name: value for name, value in fields.items() if isinstance(value, Tensor)}


@contextmanager
def _unchanged(action: str, modules: dict[str, nn.Module], tensors: Tensors) -> Iterator[None]:
    """Require that a block changes no weight, mode, gradient or tensor, and draws no global number."""
    states = {name: _state(module) for name, module in modules.items()}
    contents = {name: tensor.clone() for name, tensor in tensors.items()}
    numbers = torch.random.get_rng_state()
    yield
    law = f"{action} leaves everything else alone"
    drawn = not torch.equal(numbers, torch.random.get_rng_state())
    _require(not drawn, law, "another state of torch's global random stream", "the state before")
    for name, module in modules.items():
        _same_state(states[name], _state(module), f"{law} ({name})")
    for name, tensor in tensors.items():
        _require(torch.equal(contents[name], tensor), law, f"other values in {name}", "those before")


def _state(module: nn.Module) -> dict[str, Tensors | dict[str, bool]]:
    parameters = dict(module.named_parameters())
    return {
        "weights": {name: tensor.detach().clone() for name, tensor in module.state_dict().items()},
        "modes (train or eval)": {name: part.training for name, part in module.named_modules()},
        "requires_grad": {name: p.requires_grad for name, p in parameters.items()},
        "gradients": {n: p.grad.clone() for n, p in parameters.items() if p.grad is not None},
    }


def _same_state(
    before: dict[str, Tensors | dict[str, bool]], after: dict[str, Tensors | dict[str, bool]], law: str
) -> None:
    for what, old in before.items():
        new = after[what]
        same = old.keys() == new.keys() and all(_equal(old[k], new[k]) for k in old)
        _require(same, law, f"other {what}", "those before")


def _equal(a: Tensor | bool, b: Tensor | bool) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return torch.equal(a, b)
    return a is b
