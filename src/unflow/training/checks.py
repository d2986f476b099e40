"""Checks of the laws that every energy and method obeys, for third-party ones too; no pytest is needed.

    check_energy(energy, x)                  # samples x [batch, *shape], two or more
    check_method(method, problem, folder)    # a short training, an empty folder

Both return None, or raise ``AssertionError`` with the law, the finding, and the expectation.
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
from unflow.ground.batches import in_batches
from unflow.ground.errors import InputError
from unflow.ground.files import read_json_lines
from unflow.ground.streams import Stream, stream
from unflow.models import MODELS, GenerativeModel
from unflow.training.loop import METRICS, fit
from unflow.training.method import Method, Problem, Tensors, Trained, settings

FAMILIES = frozenset(MODELS) - {"chain", "latent", "filtered", "conditional"}
"""Families that a method may name. A model that wraps another one has the family of the inner model."""

__all__ = ["FAMILIES", "check_energy", "check_method"]


def _require(holds: bool, law: str, got: object, expected: object) -> None:
    if not holds:
        raise AssertionError(f"{law}: got {got}; expected {expected}")


def check_energy(energy: Energy, x: Tensor, seed: int = 0) -> None:
    """Check the laws of an energy on samples x [batch, *shape].

    F returns one finite number per sample, which depends on that sample alone and is not below
    ``lower_bound``. ``differentiable`` is right. Evaluating F changes no state. ``describe`` returns a text.

    Args:
        energy: F.
        x: two or more samples; F is smooth almost everywhere near them.
        seed: of the random direction of the finite difference.

    Raises:
        AssertionError: for the first law that does not hold.
        InputError: for fewer than two samples.
    """
    if len(x) < 2:
        raise InputError(f"got {len(x)} samples to check an energy on; expected 2 or more")
    with _require_unchanged(f"evaluating {type(energy).__name__}", {"the energy": energy}, {"x": x}):
        _check_one_number_per_sample(energy, x)
        _check_deterministic(energy, x)
        _check_rows_independent(energy, x)
        _check_lower_bound(energy, x)
        _check_description(energy)
        if energy.differentiable:
            _check_gradient(energy, x, stream(seed))
        else:
            _check_no_gradient(energy, x)


def _check_one_number_per_sample(energy: Energy, x: Tensor) -> None:
    F = energy(x)
    _require(F.shape == (len(x),), "an energy is one number per sample", list(F.shape), [len(x)])
    _require(bool(torch.isfinite(F).all()), "an energy is finite", F.detach().tolist(), "finite numbers")


def _check_deterministic(energy: Energy, x: Tensor) -> None:
    first, second = _evaluate(energy, x), _evaluate(energy, x)
    _require(
        torch.equal(first, second),
        "an energy is deterministic",
        "two different values for the same x",
        "one value",
    )


def _check_rows_independent(energy: Energy, x: Tensor) -> None:
    F, law = _evaluate(energy, x), "F(x_i) depends on x_i alone"
    alone = torch.cat([_evaluate(energy, row) for row in in_batches(x, 1)])
    _require(_are_close(alone, F), law, "other values for samples one by one", "those of the batch")
    backwards = _evaluate(energy, x.flip(0)).flip(0)
    _require(_are_close(backwards, F), law, "other values for samples in another order", "the same values")


def _check_lower_bound(energy: Energy, x: Tensor) -> None:
    bound, least = energy.lower_bound, float(_evaluate(energy, x).min())
    _require(not math.isnan(bound), "lower_bound is a number or -inf", bound, "a number")
    slack = 1e-4 * (1 + abs(bound)) if math.isfinite(bound) else 0.0
    _require(least >= bound - slack, "F(x) >= lower_bound", f"F = {least:g}", f"{bound:g} or more")


def _check_description(energy: Energy) -> None:
    words = energy.describe()
    _require(isinstance(words, str) and bool(words.strip()), "describe() has words", repr(words), "a text")


def _check_gradient(energy: Energy, x: Tensor, generator: torch.Generator) -> None:
    """Compare dF/dx . u with (F(x + h u) - F(x - h u)) / 2h; kinks may spoil one row in ten."""
    law = "the gradient of a differentiable energy is its slope (or write differentiable = False)"
    leaf = x.detach().clone().requires_grad_(True)
    F = energy(leaf)
    _require(F.requires_grad, law, "values without gradient", "values with a gradient")
    F.sum().backward()
    grad = leaf.grad
    _require(grad is not None, law, "no gradient", "a gradient of the shape of x")
    assert grad is not None
    _require(bool(torch.isfinite(grad).all()), law, "NaN or infinite entries", "finite entries")
    flat = bool((grad == 0).all()) and bool((F[0] != F).any())
    _require(not flat, law, "0 everywhere for values that differ", "another gradient")
    direction = torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device)
    h = torch.finfo(x.dtype).eps ** (1 / 3)
    found = (grad * direction).flatten(1).sum(1)
    slope = (_evaluate(energy, x + h * direction) - _evaluate(energy, x - h * direction)) / (2 * h)
    rounding = torch.finfo(x.dtype).eps * (1 + float(F.detach().abs().max())) / h
    near = (found - slope).abs() <= 0.02 * (found.abs() + slope.abs()) + 10 * rounding
    share = float(near.double().mean())
    _require(share >= 0.9, law, f"the slope in {share:.0%} of the rows", "90 % or more")


def _check_no_gradient(energy: Energy, x: Tensor) -> None:
    F = energy(x.detach().clone().requires_grad_(True))
    law = "an energy with differentiable = False has no gradient"
    _require(not F.requires_grad, law, "values with a gradient", "values without gradient")


@torch.no_grad()
def _evaluate(energy: Energy, x: Tensor) -> Tensor:
    F: Tensor = energy(x)
    return F


def _are_close(a: Tensor, b: Tensor) -> bool:
    tolerance = 100 * torch.finfo(a.dtype).eps
    return torch.allclose(a, b, rtol=tolerance, atol=tolerance * (1 + float(b.abs().max())))


def check_method(method: Method, problem: Problem, folder: str | Path, seed: int = 0) -> None:
    """Check the laws of a method by four short trainings on a small problem.

    Hyper-parameters are documented plain data. ``check`` refuses a problem without the fields that the
    method needs. Every tensor of a batch has batch_size rows. Training changes neither the original nor
    torch's global random stream, and logs losses. The same seed gives the same bits, also after a stop in the
    middle. The result is a model like the original. An untrained method skips the laws about training.

    Args:
        method: the method, with at least 4 steps and small batches.
        problem: a small problem with every field that the method needs.
        folder: empty or new; the trainings leave their logs and checkpoints there.
        seed: of the trainings.

    Raises:
        AssertionError: for the first law that does not hold.
        InputError: for fewer than 4 steps, or a problem that the method refuses.
    """
    if isinstance(method, Trained) and method.steps < 4:
        raise InputError(f"got steps={method.steps} to check; expected 4 or more, to stop in the middle")
    _check_declaration(method)
    _check_plain_data(method)
    _check_docstring(method)
    _check_needs_and_families(method)
    method.check(problem)
    _check_refuses_missing_fields(method, problem)
    _check_refuses_other_families(method, problem)
    if isinstance(method, Trained):
        _check_batches(method, problem, seed)
    folder = Path(folder)
    with _require_unchanged(
        f"training with {type(method).__name__}", _list_modules(problem), _list_tensors(problem)
    ):
        trained = fit(method, problem, folder / "whole", seed=seed, log_every=1).model
    _check_result(trained, problem.model, seed)
    again = fit(method, problem, seed=seed).model
    _require_same_bits(trained, again, "the same seed gives the same bits")
    if not isinstance(method, Trained):
        return
    _check_losses_are_logged(folder / "whole")
    resumed = _stop_and_resume(method, problem, folder / "stopped", seed)
    _require_same_bits(trained, resumed, "a stopped and resumed training ends in the same bits")


def _check_declaration(method: Method) -> None:
    kind = type(method)
    own = vars(kind).get("__dataclass_params__")
    law = "a method is declared with @dataclass(frozen=True, kw_only=True)"
    _require(own is not None, law, f"no decorator on {kind.__name__}", "that decorator")
    _require(own is not None and own.frozen, law, "frozen=False", "frozen=True")
    positional = [f.name for f in dataclasses.fields(method) if not f.kw_only]
    _require(not positional, law, f"positional fields {positional}", "kw_only=True")


def _check_plain_data(method: Method) -> None:
    kind, law = type(method), "hyper-parameters are plain data with defaults"
    try:
        kind()
        read = json.loads(json.dumps(settings(method)))
    except TypeError as error:
        raise AssertionError(f"{law}: got {error}; expected numbers, strings, booleans, None") from error
    _require(read == settings(method), law, read, f"{settings(method)} back from JSON")
    _require(kind(**read) == method, law, kind(**read), f"{method} from its settings")


def _check_docstring(method: Method) -> None:
    law, kind = "a docstring names every hyper-parameter", type(method)
    own = vars(kind).get("__doc__") or ""
    _require(bool(own) and not own.startswith(f"{kind.__name__}("), law, "no docstring", "a docstring")
    words = set(re.findall(r"\w+", " ".join(c.__doc__ or "" for c in kind.__mro__ if issubclass(c, Method))))
    unnamed = [f.name for f in dataclasses.fields(method) if f.name not in words]
    _require(not unnamed, law, f"nothing about {', '.join(unnamed)}", "an entry under Attributes")


def _check_needs_and_families(method: Method) -> None:
    fields = {f.name for f in dataclasses.fields(Problem)}
    unknown = sorted(method.needs - fields)
    _require(not unknown, "needs are fields of Problem", unknown, sorted(fields))
    law, families = "families are known names, at least one", sorted(method.families)
    _require(bool(families) and method.families <= FAMILIES, law, families, sorted(FAMILIES))


def _check_refuses_missing_fields(method: Method, problem: Problem) -> None:
    law = "check() refuses a problem without a field that the method needs"
    for name in sorted(method.needs - {"model"}):
        nothing: dict[str, Any] = {name: None}
        refused = _refuses(method, dataclasses.replace(problem, **nothing))
        _require(refused, law, f"no InputError without {name}", "an InputError")
    if method.reads(problem) - {"model"}:
        refused = _refuses(method, Problem(model=problem.model))
        _require(refused, law, "no InputError for a model alone", "an InputError")


def _check_refuses_other_families(method: Method, problem: Problem) -> None:
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


def _check_batches(method: Trained, problem: Problem, seed: int) -> None:
    loop, own = method.training(problem, seed)
    first = loop.earlier(own)
    if first is not None:
        _check_batches(first, own, seed)
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


def _check_losses_are_logged(folder: Path) -> None:
    records = read_json_lines(folder / METRICS)
    losses = [r.keys() - {"step", "seconds", "held_out"} for r in records]
    law = "step() returns at least one loss"
    _require(bool(losses) and all(losses), law, f"the log {records[:1]}", "a named number in every line")


def _check_result(trained: nn.Module, original: nn.Module, seed: int) -> None:
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
    _require(bool(torch.isfinite(x).all()), "samples are finite", "NaN or infinite entries", "finite entries")


class _Stopped(Exception):  # noqa: N818 - a signal, not an error
    pass


def _stop_and_resume(method: Trained, problem: Problem, folder: Path, seed: int) -> nn.Module:
    """Stop each training one step after a checkpoint, so that a step is repeated; return the final model."""
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
    raise AssertionError(f"a training takes its steps one by one: got no step {at}; expected one")


def _require_same_bits(first: nn.Module, second: nn.Module, law: str) -> None:
    a, b = first.state_dict(), second.state_dict()
    differing = [k for k in a.keys() | b.keys() if k not in a or k not in b or not torch.equal(a[k], b[k])]
    _require(not differing, law, f"{len(differing)} tensors that differ", "equal tensors")


def _list_modules(problem: Problem) -> dict[str, nn.Module]:
    modules: dict[str, nn.Module] = {"the original model": problem.model}
    if problem.teacher is not None:
        modules["the teacher"] = problem.teacher
    if problem.critic is not None:
        modules["the critic"] = problem.critic
    if problem.target is not None:
        modules |= {"the target's model": problem.target.model, "the energy": problem.target.energy}
    return modules


def _list_tensors(problem: Problem) -> Tensors:
    fields = {f.name: getattr(problem, f.name) for f in dataclasses.fields(problem)}
    return {name: value for name, value in fields.items() if isinstance(value, Tensor)}


@contextmanager
def _require_unchanged(action: str, modules: dict[str, nn.Module], tensors: Tensors) -> Iterator[None]:
    """Require that a block changes no weight, mode, gradient or tensor, and draws no global random number."""
    states = {name: _read_state(module) for name, module in modules.items()}
    contents = {name: tensor.clone() for name, tensor in tensors.items()}
    numbers = torch.random.get_rng_state()
    yield
    law = f"{action} leaves everything else alone"
    drawn = not torch.equal(numbers, torch.random.get_rng_state())
    _require(not drawn, law, "another state of torch's global random stream", "the state before")
    for name, module in modules.items():
        _require_same_state(states[name], _read_state(module), f"{law} ({name})")
    for name, tensor in tensors.items():
        _require(torch.equal(contents[name], tensor), law, f"other values in {name}", "those before")


def _read_state(module: nn.Module) -> dict[str, Tensors | dict[str, bool]]:
    parameters = dict(module.named_parameters())
    return {
        "weights": {name: tensor.detach().clone() for name, tensor in module.state_dict().items()},
        "modes (train or eval)": {name: part.training for name, part in module.named_modules()},
        "requires_grad": {name: p.requires_grad for name, p in parameters.items()},
        "gradients": {n: p.grad.clone() for n, p in parameters.items() if p.grad is not None},
    }


def _require_same_state(
    before: dict[str, Tensors | dict[str, bool]], after: dict[str, Tensors | dict[str, bool]], law: str
) -> None:
    for what, old in before.items():
        new = after[what]
        same = old.keys() == new.keys() and all(_are_equal(old[k], new[k]) for k in old)
        _require(same, law, f"other {what}", "those before")


def _are_equal(a: Tensor | bool, b: Tensor | bool) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return torch.equal(a, b)
    return a is b
