"""Generative models that unflow has never seen, by a line of words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unflow.disk import bundle
from unflow.foreign.line import (
    Foreign,
    Readers,
    find_beside_the_shell,
    read_call,
    read_line,
    read_prior,
    read_range,
    read_shape,
)
from unflow.ground.errors import InputError
from unflow.ground.streams import stream
from unflow.models import Flow, FlowMap, GenerativeModel, Generator, Labelled, Latent, inner_model
from unflow.models.autoencoder import Autoencoder
from unflow.nets import AdaptedAverageVelocity, AdaptedVelocity, WritesAs
from unflow.nets.adapters import Range

PROBED = 64
"""Samples that are looked at before a model is believed to write what was said."""
TOLERANCE, FEW = 0.1, 0.05
"""How far over the ends of its range a number may lie, in widths of the range, and what share of numbers may
lie further: flows overshoot, and another range is not a matter of a few numbers."""
NARROW = 0.02
"""Of its declared range, that a network's images must take up; less is the range of something else."""


def load_model(text: str | Path, trust_code: bool = False) -> GenerativeModel:
    """Return the generative model in a bundle, or the one that a line of words names.

    Args:
        text: folder, ``pretrained:org/name@revision``, or a line like
            ``generator:my_pkg.nets:build@w.safetensors,prior=normal:64,range=0:1``,
            ``flow:my_pkg.nets:build@w.pth,shape=3x32x32,call=x/t,noise_at=1`` or ``diffusers:DIR``.
        trust_code: as ``bundle.load``.

    Raises:
        InputError: as ``bundle.load``; for a line that names no model, and a model that does not do what the
            line says of it.
    """
    line = read_line(str(text), tuple(MODELS))
    if line is not None:
        return MODELS[line.kind](line)
    if trust_code:
        find_beside_the_shell()
    _check_is_bundle(Path(text))
    return bundle.load(text, trust_code)


def _check_is_bundle(path: Path) -> None:
    """Raise InputError for what is no bundle, but can be named in a line."""
    if path.is_file():
        raise InputError(
            f"got the file {path}; expected the folder of a bundle, or the function that makes the network: "
            f"write generator:PACKAGE.MODULE:FUNCTION@{path},prior=normal:64"
        )
    if (path / "model_index.json").is_file():
        raise InputError(f"got {path}, a folder of diffusers; expected its kind: write diffusers:{path}")


def load_whole(text: str | Path, autoencoder: str | Path | None, trust_code: bool = False) -> GenerativeModel:
    """Return ``load_model``; a model of latents with the decoder of another bundle after it.

    Raises:
        InputError: as ``load_model``, and for samples that are no latents of the autoencoder.
    """
    model = load_model(text, trust_code)
    if autoencoder is None:
        return model
    return Latent(model, bundle.load_autoencoder(autoencoder, trust_code))


def with_options(text: str, weights: Path | None, prior: str | None) -> str:
    """Return a line with its weights and its prior, where they were said apart from it.

    Raises:
        InputError: for either with the path of a folder, or said twice.
    """
    if weights is None and prior is None:
        return text
    line = read_line(text, tuple(MODELS))
    if line is None:
        raise InputError(
            f"got --weights or --prior for {text}; expected them for generator:PACKAGE.MODULE:FUNCTION alone"
        )
    if (weights is not None and line.weights is not None) or (prior is not None and "prior" in line.options):
        raise InputError(
            f"got weights or prior twice, in {text!r} and apart from it; expected one or the other"
        )
    weights = weights or line.weights
    options = dict(line.options) | ({} if prior is None else {"prior": prior})
    words = [f"{line.kind}:{line.what}" + ("" if weights is None else f"@{weights}")]
    return ",".join([*words, *(f"{name}={value}" for name, value in options.items())])


def lineage_of(text: str | Path) -> dict[str, Any]:
    """Return the lineage of a bundle; for a line of words, what it says."""
    line = read_line(str(text))
    return bundle.read_lineage(text) if line is None else {"line": str(text)}


# Kinds


def _generator(line: Foreign) -> Generator:
    known: Readers = {"prior": read_prior, "range": read_range, "shape": read_shape, "key": str}
    ours, theirs = line.take(known)
    if "prior" not in ours:
        raise InputError(
            f"got {line.what} without its prior; expected the law of its latents: write prior=normal:64"
        )
    law, shape = ours["prior"]
    net = _written(line.network(theirs, ours.get("key"), known), ours)
    model = Generator(net, shape, law).eval()
    _check_written(model, ours.get("range"), line)
    return model


def _written(net: nn.Module, ours: Mapping[str, Any]) -> nn.Module:
    """Return a network whose samples are unflow's."""
    return WritesAs(net, ours.get("range"), ours.get("shape")) if {"range", "shape"} & ours.keys() else net


def _flow(line: Foreign) -> GenerativeModel:
    known: Readers = {
        **_OF_FLOWS,
        "predicts": str,
        "null_label": int,
        "guidance": float,
        "integrator": str,
        "steps": int,
    }
    ours, net, shape = _velocity(line, known)
    sampling = {name: ours.pop(name) for name in ("integrator", "steps") if name in ours}
    model = Flow(AdaptedVelocity(net, shape, ours.pop("call", "x, t"), **ours), shape, **sampling)
    return _labelled(model, line)


def _flow_map(line: Foreign) -> GenerativeModel:
    ours, net, shape = _velocity(line, {**_OF_FLOWS, "steps": int})
    sampling = {"steps": ours.pop("steps")} if "steps" in ours else {}
    u = AdaptedAverageVelocity(net, shape, ours.pop("call", "x, start, end"), **ours)
    return _labelled(FlowMap(u, shape, **sampling), line)


def _label(text: str) -> int:
    """Return the label in "3", or in "random:10" one that stands for any."""
    number = text.removeprefix("random:")
    if not (number.isdigit() and (number == text or int(number) > 0)):
        raise InputError(f"got label={text}; expected label=3, or label=random:10 with the number of classes")
    return int(number) if number == text else 0


_OF_FLOWS: Readers = {
    "shape": read_shape,
    "key": str,
    "call": read_call,
    "noise_at": int,
    "time_scale": float,
    "time_shape": str,
    "label": _label,
}


def _velocity(line: Foreign, known: Readers) -> tuple[dict[str, Any], nn.Module, tuple[int, ...]]:
    """Return unflow's options, the network, and the shape of one sample."""
    ours, theirs = line.take(known)
    if "range" in line.options:
        raise InputError(
            f"got range= for the {line.kind} {line.what}; expected one that was trained on images in "
            "[-1, 1], as others cannot be converted: leave it out"
        )
    if "shape" not in ours:
        raise InputError(f"got {line.what} without the shape of one sample; expected it: write shape=3x32x32")
    return ours, line.network(theirs, ours.pop("key", None), known), ours.pop("shape")


def _labelled(model: Flow | FlowMap, line: Foreign) -> GenerativeModel:
    """Return the model; with random labels, where the line says so."""
    label = line.options.get("label", "")
    number = label.removeprefix("random:")
    whole = Labelled(model, [1 / int(number)] * int(number)) if label.startswith("random:") else model
    _check_written(whole.eval(), None, line)
    return whole


def _diffusers(line: Foreign) -> GenerativeModel:
    from unflow.disk.diffusers import load_diffusers

    known: Readers = {"kind": str, "label": int, "sample_size": int, "integrator": str, "steps": int}
    ours = line.take_all(known)
    sampling: dict[str, Any] = {name: ours.pop(name) for name in ("integrator", "steps") if name in ours}
    model = load_diffusers(line.what, **ours)
    if isinstance(model, Autoencoder):
        raise InputError(
            f"{line.what} holds an AutoencoderKL alone; expected a model that draws: name its pipeline"
        )
    return _sampled(model, sampling, line) if sampling else model


def _sampled(model: GenerativeModel, sampling: dict[str, Any], line: Foreign) -> GenerativeModel:
    """Return a flow, or one of latents, with another integrator or number of steps."""
    flow = inner_model(model)
    if not isinstance(flow, Flow):
        raise InputError(
            f"got {next(iter(sampling))}= for {line.what}, which draws in one step; expected it for a flow "
            "alone: leave it out"
        )
    integrator, steps = sampling.get("integrator", flow.integrator), sampling.get("steps", flow.steps)
    again = Flow(flow.net, flow.sample_shape, integrator, steps).eval()
    return Latent(again, model.autoencoder).eval() if isinstance(model, Latent) else again


def _check_written(model: GenerativeModel, value_range: Range | None, line: Foreign) -> None:
    """Raise InputError if samples lie outside the range that was said, or images look like another's."""
    x = model.sample(PROBED, stream(0))
    if not torch.isfinite(x).all():
        raise InputError(
            f"{line.what} draws NaN or infinite numbers; expected the weights of a trained model"
        )
    if value_range is None and len(model.sample_shape) != 3:
        return  # points and latents have no range
    low, high = value_range or (-1.0, 1.0)
    least, most = (low + (high - low) * (float(end) + 1) / 2 for end in (x.min(), x.max()))
    outside = _share(x.abs() > 1 + 2 * TOLERANCE)
    if outside > FEW:
        raise InputError(
            f"{line.what} draws numbers from {least:.2f} to {most:.2f}, {100 * outside:.0f} % of them far "
            f"outside the range {low:g}:{high:g}; expected what is black and what is white in its images: "
            "write range=LOW:HIGH"
        )
    if value_range is not None and most - least < NARROW * (high - low):
        raise InputError(
            f"{line.what} draws numbers from {least:.3g} to {most:.3g} alone in the range {low:g}:{high:g}; "
            "expected images that use it: write range=LOW:HIGH"
        )
    if value_range is None and _starts_at_zero(x):
        raise InputError(
            f"{line.what} draws images of numbers from {least:.2f} to {most:.2f}, as if black were 0; "
            "expected to know: write range=0:1, or range=-1:1 if that is so"
        )


def _starts_at_zero(x: Tensor) -> bool:
    """Whether black seems to be 0: what lies below is little beside what lies above, as an overshoot is."""
    lower, upper = np.quantile(x.numpy(), (0.01, 0.99))
    return bool(lower > -upper / 4)


def _share(mask: Tensor) -> float:
    return float(mask.double().mean())


MODELS: dict[str, Callable[[Foreign], GenerativeModel]] = {
    "generator": _generator,
    "flow": _flow,
    "flow_map": _flow_map,
    "diffusers": _diffusers,
}
"""Kind -> how its line becomes a model."""
