"""A few calls of a network before anything is trained: whether it is a function of each row of its input.

A method draws, scores and trains in batches of its own choice. It is right only for a network whose output
for a row depends on that row alone, and that leaves its input and itself unchanged.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from unflow.energies import BlackBox, ClassLogOdds, Decoded, Energy
from unflow.energies.base import Decoder
from unflow.energies.unread import Unread
from unflow.ground.errors import InputError, convert_errors
from unflow.ground.streams import Stream, stream
from unflow.models.base import GenerativeModel
from unflow.models.chain import Chain
from unflow.models.classifier import Classifier
from unflow.models.conditional import Conditional
from unflow.models.filtered import Filtered
from unflow.models.flow import Flow
from unflow.models.flow_map import FlowMap
from unflow.models.latent import Latent
from unflow.nets import AdaptedVelocity
from unflow.nets.adapted import Adapted
from unflow.nets.dtypes import check_dtypes, check_fits, check_weights, shorten
from unflow.nets.modes import evaluating

ROWS = 7
"""Rows of the first call; the later ones have 1 and 2 of them."""
REPEATED, ALONE = 1e-5, 1e-3
"""Largest relative distance of a row's outputs in two equal calls, and in batches of other sizes: libraries
multiply matrices in another order for another batch."""


@dataclass(frozen=True)
class Probed:
    """A network under probe.

    Attributes:
        name: in messages, for example "the guide".
        function: maps the inputs to a tensor [batch, ...].
        inputs: [ROWS, ...] each.
        module: holds the weights and buffers behind ``function``.
    """

    name: str
    function: Callable[..., Tensor]
    inputs: tuple[Tensor, ...]
    module: nn.Module


def probe_model(model: GenerativeModel) -> None:
    """Raise InputError for a generative model whose networks misbehave on a few latents.

    The probe calls each network with ``ROWS`` rows twice, and with 1 and 2 of them: a few dozen evaluations.
    """
    if isinstance(model, Filtered):
        probe_model(model.model)
    elif isinstance(model, Chain):
        probe_model(model.base)
        probe_model(model.after)
    elif isinstance(model, Latent):
        probe_model(model.inner)
        _probe_decoder(model)
    else:
        check_weights(model, "the model")
        _probe_network(model)


def probe_energy(energy: Energy, x: Tensor) -> None:
    """Raise InputError for an energy that misbehaves on samples x [n, *shape].

    A ``BlackBox`` is left out: it copies its input and remembers its scores, and each call of it may cost
    money.
    """
    if any(isinstance(part, Unread) for part in energy.modules()):
        return  # the method reads no energy
    if isinstance(energy, Decoded):
        with undisturbed(energy):
            samples = cast(Decoder, energy.autoencoder).decode(x[:ROWS].clone())
        probe_energy(energy.energy, samples)
    for guide in _list_guides(energy):
        probe_classifier(guide, x, "the guide")
    if not any(isinstance(value, BlackBox) for part in energy.modules() for value in vars(part).values()):
        check_dtypes(energy, "the energy")
        check_function(Probed(f"the energy ({energy.describe()})", energy, (x[:ROWS],), energy))


def _list_guides(energy: Energy) -> list[Classifier]:
    """Return the classifiers that read the energy's samples as they are."""
    parts = list(energy.modules())
    if any(isinstance(part, Decoded) for part in parts):
        return []
    found = (part.classifier for part in parts if isinstance(part, ClassLogOdds))
    return [guide for guide in found if isinstance(guide, Classifier)]


def probe_classifier(classifier: Classifier, x: Tensor, name: str) -> None:
    """Raise InputError for a classifier (``name``: the guide, the judge) that misbehaves on samples x."""
    check_weights(classifier, name)
    check_fits(classifier, x, name)
    check_function(Probed(name, classifier, (x[:ROWS],), classifier))


def probe_judge(judge: object, x: Tensor, name: str) -> None:
    """Raise InputError for a classifier whose logits or features misbehave on samples x."""
    if isinstance(judge, Classifier):
        x = x[:ROWS].to(next(judge.parameters(), x).device)
        probe_classifier(judge, x, name)
        if callable(getattr(judge.net, "features", None)):
            probe_features(judge.features, x, judge, f"{name} (its features)")


def probe_features(extract: Callable[[Tensor], Tensor], x: Tensor, module: nn.Module, name: str) -> None:
    """Raise InputError for an extractor of features that misbehaves on samples x."""
    check_function(Probed(name, extract, (x[:ROWS],), module))


def draw_probe(model: GenerativeModel, n: int = ROWS) -> Tensor:
    """Return n samples of the model from the probe's own random stream."""
    with undisturbed(model):
        return model.sample(n, stream(0, Stream.PROBE))


# Networks of a model


def _probe_network(model: GenerativeModel) -> None:
    z = model.prior(ROWS, stream(0, Stream.PROBE))
    if isinstance(model, Conditional) and isinstance(model.inner, Flow | FlowMap):
        noise, labels = model.noise(z), model.conditions(z)
        _probe_times(model.inner, noise, (labels,))
    elif isinstance(model, Flow | FlowMap):
        _probe_times(model, z, ())
    else:
        check_function(Probed(f"the {model.family}'s network", model.push, (z,), model))


def _probe_times(model: Flow | FlowMap, x: Tensor, labels: tuple[Tensor, ...]) -> None:
    """Probe a velocity, or an average velocity, at other times in each row and at both ends."""
    net = model.net

    def call(x: Tensor, *rest: Tensor) -> Tensor:
        given = net.with_labels(rest[-1]) if labels and isinstance(net, Adapted) else net
        output: Tensor = given(x, *(rest[:-1] if labels else rest))
        return output

    name = "the velocity" if isinstance(model, Flow) else "the average velocity"
    inner = torch.linspace(0.1, 0.9, ROWS).to(x)
    times = (inner,) if isinstance(model, Flow) else (inner / 2, 1 - inner.flip(0) / 2)
    check_function(Probed(name, call, (x, *times, *labels), model), shape=model.sample_shape)
    for ends in _list_ends(model):
        _check_end(name, call, x[:2], ends, tuple(each[:2] for each in labels), model)


def _list_ends(model: Flow | FlowMap) -> list[tuple[float, ...]]:
    """Return the extreme times; a velocity from predicted data is 0/0 at t=1 and says so itself."""
    if isinstance(model, FlowMap):
        return [(0.0, 1.0)]
    is_data = isinstance(model.net, AdaptedVelocity) and model.net.predicts == "data"
    return [(0.0,)] if is_data else [(0.0,), (1.0,)]


def _check_end(
    name: str,
    call: Callable[..., Tensor],
    x: Tensor,
    ends: tuple[float, ...],
    labels: tuple[Tensor, ...],
    module: nn.Module,
) -> None:
    where = f"t={ends[0]:g}" if len(ends) == 1 else f"the step from t={ends[0]:g} to t={ends[1]:g}"
    mend = "expected the noise at t=0 and the data at t=1, both ends included: clamp the time in the network"
    times = [x.new_full((len(x),), t) for t in ends]
    with (
        convert_errors(f"{name} does not run at {where}", mend.removeprefix("expected ")),
        undisturbed(module),
    ):
        y = call(x.clone(), *times, *labels)
    if not bool(torch.isfinite(y).all()):
        raise InputError(f"{name} is NaN or infinite at {where}; {mend}, or declare noise_at and time_scale")


def _probe_decoder(model: Latent) -> None:
    decode, latents = model.autoencoder.decode, draw_probe(model.inner)
    check_weights(model.autoencoder, "the autoencoder")
    check_function(Probed("the decoder", decode, (latents,), model.autoencoder))


# One function


def check_function(probed: Probed, shape: Sequence[int] | None = None) -> None:
    """Raise InputError unless a function's output for a row is a function of that row alone.

    Args:
        probed: the function, with its inputs of ``ROWS`` rows.
        shape: of the output for one row; None: any.
    """
    name, inputs = probed.name, probed.inputs
    with undisturbed(probed.module) as disturbed:
        returned = _call(probed, inputs, shape)
        first = returned.clone()
        draws = disturbed.drew_randomly()
        changed = disturbed.find_changed()
        again = _call(probed, inputs, shape).clone()
        recorded = _call_with_gradient(probed)
        one = _call(probed, [x[:1] for x in inputs], shape)
        rows = [2, 1] if len(first) > 2 else [0]
        two = _call(probed, [x[rows] for x in inputs], shape)
    if changed is not None:
        raise InputError(
            f"{name} changes its own buffer {changed} when it is evaluated; expected one that stays as it "
            "was trained: change it only `if self.training`"
        )
    if _distance(first, again) > REPEATED:
        cause = "it draws from a global random generator" if draws else "it counts or remembers its calls"
        raise InputError(
            f"{name} gives another output for the same input in a second call: {cause}; expected the same "
            "output in evaluation mode: write dropout(x, p, self.training), and take all noise from the input"
        )
    if not torch.equal(returned, first):
        raise InputError(
            f"{name} writes each output into the memory of an earlier one; expected a new tensor from each "
            "call: write y.clone() where the network ends"
        )
    if recorded is not None and _distance(first, recorded) > REPEATED:
        raise InputError(
            f"{name} gives another output where a gradient is recorded; expected the same output in training "
            "and in sampling: write no torch.is_grad_enabled() in forward"
        )
    if max(_distance(first[:1], one), _distance(first[rows], two)) > ALONE:
        raise InputError(
            f"the output of {name} for a row depends on the other rows of its batch, or on their number; "
            "expected a function of each row: use running statistics in evaluation mode (BatchNorm in "
            "eval()), or normalise each sample by itself"
        )


def _call(probed: Probed, inputs: Sequence[Tensor], shape: Sequence[int] | None) -> Tensor:
    """Return the output for copies of the inputs, after the checks that one call permits."""
    name, n = probed.name, len(inputs[0])
    copies = [x.clone() for x in inputs]
    expected = "one that runs on batches of any size"
    with (
        _check_globals(name),
        convert_errors(f"{name} does not run on {n} sample{'s' if n > 1 else ''}", expected),
    ):
        y = probed.function(*copies)
    if not isinstance(y, Tensor):
        raise InputError(
            f"{name} returned a {type(y).__name__}; expected one tensor, a row for each sample: wrap the "
            "network in a module that returns that alone"
        )
    if y.ndim == 0 or len(y) != n or (shape is not None and y.shape[1:] != tuple(shape)):
        wanted = [n, *(shape if shape is not None else y.shape[1:] if y.ndim and len(y) == n else ["..."])]
        raise InputError(
            f"{name} returned the shape {list(y.shape)} for {n} sample{'s' if n > 1 else ''}; expected "
            f"[{', '.join(map(str, wanted))}], one row for each: write no squeeze() or mean over the batch, "
            "and permute the axes where the network ends"
        )
    check_kind(name, y, inputs[0])
    for k, (x, copy) in enumerate(zip(inputs, copies, strict=True)):
        if not torch.equal(x, copy):
            raise InputError(
                f"{name} changes its input{'' if k == 0 else f' {k + 1}'} in place, which is the batch that "
                "the method uses again; expected one that leaves it alone: write x = x - 1 for "
                "x.sub_(1) or x -= 1, and inplace=False"
            )
    if not bool(torch.isfinite(y).all()):
        raise InputError(
            f"{name} returned NaN or infinite numbers for {n} sample{'s' if n > 1 else ''} of the model; "
            "expected finite numbers: give the weights of a trained model, and no square root or logarithm "
            "of 0"
        )
    return y


def _call_with_gradient(probed: Probed) -> Tensor | None:
    """Return the output while a gradient is recorded; None for a network that does not run then.

    ``training.derivatives`` refuses such a network for a method that needs the gradient.
    """
    try:
        with torch.enable_grad(), _check_globals(probed.name):
            return probed.function(*(x.clone() for x in probed.inputs)).detach()
    except InputError:
        raise
    except Exception:  # third-party code may raise any exception
        return None


@contextmanager
def _check_globals(name: str) -> Iterator[None]:
    """Raise InputError if the code within changes a switch of the whole process; set it back.

    Raises:
        InputError: for a change of the default dtype, or of whether gradients are recorded.
    """
    dtype, records = torch.get_default_dtype(), torch.is_grad_enabled()
    try:
        yield
        if (torch.get_default_dtype(), torch.is_grad_enabled()) != (dtype, records):
            raise InputError(
                f"{name} changes a setting of the whole process (the default dtype, or whether gradients are "
                "recorded); expected a network that leaves them alone: write `with torch.no_grad():` and "
                "dtype=x.dtype in place of torch.set_grad_enabled and torch.set_default_dtype"
            )
    finally:
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(records)


def check_kind(name: str, y: Tensor, x: Tensor) -> None:
    """Raise InputError for an output of another dtype, layout or device than the input x."""
    if y.layout != x.layout:
        raise InputError(
            f"{name} returned a tensor of the layout {str(y.layout).removeprefix('torch.')}; expected a "
            "dense one: write y.to_dense() where the network ends"
        )
    if y.dtype != x.dtype:
        raise InputError(
            f"{name} returned {shorten(y.dtype)} for {shorten(x.dtype)}; expected the dtype of its input: "
            "write y.to(x.dtype) where the network ends"
        )
    if y.device != x.device:
        raise InputError(
            f"{name} returned a tensor on {y.device} for one on {x.device}; expected the device of its "
            "input: write no .cpu() or .cuda() in forward"
        )


def _distance(one: Tensor, other: Tensor) -> float:
    """Return the largest relative distance of two outputs over the rows."""
    a, b = (
        one.double().flatten(1) if one.ndim > 1 else one.double()[:, None],
        other.double().reshape(len(one), -1),
    )
    scale = torch.maximum(a.norm(dim=1), b.norm(dim=1)).clamp(min=1e-6)
    return float(((a - b).norm(dim=1) / scale).max())


class Disturbed:
    """What a network has changed beside its output: random generators and its own buffers."""

    def __init__(self, module: nn.Module) -> None:
        self._module, self._state = module, _read_generators()
        self._buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}

    def drew_randomly(self) -> bool:
        """Return whether a global generator, of torch, NumPy or Python, has moved."""
        return self._state != _read_generators()

    def find_changed(self) -> str | None:
        """Return the name of the first buffer that has changed, or None."""
        buffers = dict(self._module.named_buffers())
        pairs = ((name, old, buffers.get(name)) for name, old in self._buffers.items())
        return next((name for name, old, new in pairs if new is None or not _is_same(old, new)), None)

    @torch.no_grad()
    def restore(self) -> None:
        """Set the buffers to their earlier values."""
        buffers = dict(self._module.named_buffers())
        for name, old in self._buffers.items():
            new = buffers.get(name)
            if new is not None and not _is_same(old, new):
                new.copy_(old)


def _read_generators() -> tuple[bytes, ...]:
    """Return the states of the global random generators."""
    _, keys, position, *_ = np.random.get_state()
    return (
        torch.random.get_rng_state().numpy().tobytes(),
        repr(random.getstate()).encode(),
        np.asarray(keys).tobytes() + str(position).encode(),
    )


def _is_same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one.nan_to_num(), other.nan_to_num())


@contextmanager
def undisturbed(module: nn.Module) -> Iterator[Disturbed]:
    """Evaluate a module without gradient; afterwards restore random generators, buffers and modes."""
    python, numpy = random.getstate(), np.random.get_state()
    disturbed = Disturbed(module)
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad(), evaluating(module):
            yield disturbed
    finally:
        disturbed.restore()
        random.setstate(python)
        np.random.set_state(numpy)
