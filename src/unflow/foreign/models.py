"""Third-party generative models, by a model specification."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unflow.disk import bundle
from unflow.foreign.conditions import READERS, Conditions, take_conditions
from unflow.foreign.specification import (
    Readers,
    Source,
    Specification,
    import_from_working_directory,
    parse_specification,
    read_call,
    read_prior,
    read_range,
    read_shape,
)
from unflow.ground.errors import InputError
from unflow.ground.files import read_json
from unflow.ground.streams import stream
from unflow.ground.values import expand_home, is_file, unquote
from unflow.models import (
    Conditional,
    Flow,
    FlowMap,
    GenerativeModel,
    Generator,
    Latent,
    family_of_config,
    inner_model,
)
from unflow.models.autoencoder import Autoencoder
from unflow.models.probe import probe_model
from unflow.nets import AdaptedAverageVelocity, AdaptedGenerator, AdaptedVelocity, WritesAs
from unflow.nets.adapters import Range

PROBED = 64
"""Samples that are drawn to check a model against its specification."""
TOLERANCE, FEW = 0.1, 0.05
"""How far numbers may lie outside the range at either end, as a share of its width, and the share of numbers
that may lie further outside: flows overshoot, but a wrong range affects more than a few numbers."""
ANY = "any"
"""The range of samples that are no images, for example latents: they are not converted or checked."""
NARROW = 0.02
"""Share of the declared range that a network's images must cover; if they cover less, the range is wrong."""


def load_model(text: Source, trust_code: bool = False) -> GenerativeModel:
    """Return the generative model in a bundle, or the third-party model of a specification.

    Args:
        text: folder, ``pretrained:org/name@revision``, or a specification like
            ``generator:my_pkg.nets:build@w.safetensors,prior=normal:64,range=0:1``,
            ``flow:my_pkg.nets:build@w.pth,shape=3x32x32,call=x/t,noise_at=1`` or ``diffusers:DIR``.
        trust_code: as ``bundle.load``.

    Raises:
        InputError: as ``bundle.load``; for a specification of something else, and a model that contradicts
            its specification.
    """
    spec = parse_specification(text, tuple(MODELS))
    if spec is not None:
        return _decode(MODELS[spec.kind](spec), spec, trust_code)
    folder = Path(expand_home(str(text)))
    if trust_code:
        import_from_working_directory()
    _check_is_bundle(folder)
    return bundle.load(folder, trust_code)


def _check_is_bundle(path: Path) -> None:
    """Raise InputError for a file or a folder of diffusers, with its specification."""
    if is_file(path):
        raise InputError(
            f"got the file {path}; expected the folder of a bundle, or the function that makes the network: "
            f"write generator:PACKAGE.MODULE:FUNCTION@{path},prior=normal:64"
        )
    if is_file(path / "model_index.json"):
        raise InputError(f"got {path}, a folder of diffusers; expected its kind: write diffusers:{path}")


def load_whole(text: Source, autoencoder: str | Path | None, trust_code: bool = False) -> GenerativeModel:
    """Return ``load_model``; a model of latents without a decoder is followed by that of another bundle.

    Raises:
        InputError: as ``load_model``, and for samples that are not latents of the autoencoder.
    """
    model = load_model(text, trust_code)
    if autoencoder is None or isinstance(model, Latent):
        return model
    return Latent(model, load_autoencoder(autoencoder, trust_code)).eval()


def load_autoencoder(text: str | Path, trust_code: bool = False) -> Autoencoder:
    """Return the autoencoder in a bundle, or the AutoencoderKL in a folder of diffusers: ``diffusers:DIR``.

    Raises:
        InputError: as ``bundle.load_autoencoder``, and for a folder of diffusers that holds something else.
    """
    kind, _, folder = str(text).partition(":")
    if kind != "diffusers":
        return bundle.load_autoencoder(text, trust_code)
    from unflow.disk.diffusers import load_diffusers

    found = load_diffusers(unquote(folder))
    if not isinstance(found, Autoencoder):
        raise InputError(f"{folder} holds a generative model; expected a folder with an AutoencoderKL alone")
    return found


def _decode(model: GenerativeModel, spec: Specification, trust_code: bool) -> GenerativeModel:
    """Return a model of latents followed by the decoder that its specification names, if it names one."""
    if "decoder" not in spec.options:
        return model
    return Latent(model, load_autoencoder(unquote(spec.options["decoder"]), trust_code)).eval()


def with_options(text: str, weights: Path | None, prior: str | None) -> str:
    """Return a model specification with weights and a prior that were given apart from it.

    Raises:
        InputError: for either with the path of a bundle, or given twice.
    """
    return str(add_options(text, weights, prior))


def add_options(text: str, weights: Path | None, prior: str | None) -> str | Specification:
    """Return ``with_options`` parsed; or the text itself if it is the path or name of a bundle."""
    parsed = parse_specification(text, tuple(MODELS))
    if weights is None and prior is None:
        return parsed or text
    if parsed is None:
        raise InputError(
            f"got --weights or --prior for {text}; expected them only with generator:PACKAGE.MODULE:FUNCTION"
        )
    if (weights and parsed.weights) or (prior is not None and "prior" in parsed.options):
        raise InputError(
            f"got weights or prior twice, in {text!r} and apart from it; expected one or the other"
        )
    options = dict(parsed.options) | ({} if prior is None else {"prior": prior})
    return dataclasses.replace(parsed, weights=weights or parsed.weights, options=options, text="")


def lineage_of(text: Source) -> dict[str, Any]:
    """Return the lineage of a bundle; for a specification, the specification."""
    return bundle.read_lineage(str(text)) if parse_specification(text) is None else {"line": str(text)}


def family_of(text: Source) -> str:
    """Return the family that a model's description states, without loading the model.

    That is "flow" for a description that is missing or states none: ``load_model`` raises for it later.
    """
    spec = parse_specification(text)
    if spec is not None:
        return spec.kind if spec.kind in ("generator", "flow_map") else "flow"
    try:
        return family_of_config(read_json(bundle.find_folder(str(text)) / bundle.CONFIG))
    except (InputError, KeyError, TypeError):
        return "flow"


# Kinds


def _build_generator(spec: Specification) -> GenerativeModel:
    known: Readers = {
        "prior": read_prior,
        "range": _read_range,
        "shape": read_shape,
        "axes": str,
        "key": str,
        "decoder": str,
        "call": read_call,
        **READERS,
    }
    ours, theirs = spec.take(known)
    if "prior" not in ours:
        raise InputError(
            f"got {spec.source} without its prior; expected the distribution of its latents: write "
            "prior=normal:64"
        )
    law, shape = ours["prior"]
    net = _convert_samples(spec.build_network(theirs, ours.get("key"), known), ours)
    conditions = take_conditions(spec, ours, net)
    if conditions.label is not None:
        net = AdaptedGenerator(net, shape, ours.get("call", "z, label"), **conditions.options)
    return _add_conditions(Generator(net, shape, law), conditions, spec, ours.get("range"))


def _convert_samples(net: nn.Module, ours: Mapping[str, Any]) -> nn.Module:
    """Return the network with its samples converted to the range and shape of unflow."""
    if not {"range", "shape", "axes"} & ours.keys():
        return net
    return WritesAs(net, ours.get("range"), ours.get("shape"), ours.get("axes"))


def _read_range(text: str) -> Range | None:
    """Return the range in "0:1"; None for "any", numbers without a range, such as latents."""
    return None if text == ANY else read_range(text)


def _build_flow(spec: Specification) -> GenerativeModel:
    known: Readers = {
        **_OF_FLOWS,
        "predicts": str,
        "null_label": int,
        "guidance": float,
        "integrator": str,
        "steps": int,
    }
    ours, net, shape = _read_velocity(spec, known)
    conditions = take_conditions(spec, ours, net)
    if conditions.null is not None:
        ours["null_label"] = conditions.null
    sampling = {name: ours.pop(name) for name in ("integrator", "steps") if name in ours}
    model = Flow(
        AdaptedVelocity(net, shape, ours.pop("call", "x, t"), **conditions.options, **ours), shape, **sampling
    )
    return _add_conditions(model, conditions, spec)


def _build_flow_map(spec: Specification) -> GenerativeModel:
    ours, net, shape = _read_velocity(spec, {**_OF_FLOWS, "steps": int})
    sampling = {"steps": ours.pop("steps")} if "steps" in ours else {}
    conditions = take_conditions(spec, ours, net)
    u = AdaptedAverageVelocity(net, shape, ours.pop("call", "x, start, end"), **conditions.options, **ours)
    return _add_conditions(FlowMap(u, shape, **sampling), conditions, spec)


_OF_FLOWS: Readers = {
    "shape": read_shape,
    "range": str,
    "decoder": str,
    "key": str,
    "call": read_call,
    "noise_at": int,
    "time_scale": float,
    "time_shape": str,
    **READERS,
}


def _read_velocity(spec: Specification, known: Readers) -> tuple[dict[str, Any], nn.Module, tuple[int, ...]]:
    """Return unflow's options, the network, and the shape of one sample."""
    ours, theirs = spec.take(known)
    if spec.options.get("range", ANY) != ANY:
        raise InputError(
            f"got range= for the {spec.kind} {spec.source}; expected one that was "
            "trained on images in [-1, 1], as others cannot be converted: leave it out, or write range=any "
            "for latents"
        )
    for name in ("range", "decoder"):  # read by ``_check_samples`` and ``_decode``
        ours.pop(name, None)
    if "shape" not in ours:
        raise InputError(
            f"got {spec.source} without the shape of one sample; expected it: write shape=3x32x32"
        )
    return ours, spec.build_network(theirs, ours.pop("key", None), known), ours.pop("shape")


def _add_conditions(
    model: Flow | FlowMap | Generator,
    conditions: Conditions,
    spec: Specification,
    value_range: Range | None = None,
) -> GenerativeModel:
    """Return the model; a conditional one, whose conditions are equally probable, if it is asked for them."""
    whole: GenerativeModel = model
    if conditions.count is not None:
        n = conditions.count
        whole = Conditional(model, [1 / n] * n, conditions.null, names=conditions.names)
    _check_samples(whole.eval(), value_range, spec)
    return whole


def _build_diffusers(spec: Specification) -> GenerativeModel:
    from unflow.disk.diffusers import load_diffusers

    known: Readers = {"kind": str, "label": int, "sample_size": int, "integrator": str, "steps": int}
    ours = spec.take_all(known)
    sampling: dict[str, Any] = {name: ours.pop(name) for name in ("integrator", "steps") if name in ours}
    model = load_diffusers(spec.source, **ours)
    if isinstance(model, Autoencoder):
        raise InputError(
            f"{spec.source} holds an AutoencoderKL alone; expected a generative model: name its pipeline"
        )
    return _set_sampling(model, sampling, spec) if sampling else model


def _set_sampling(model: GenerativeModel, sampling: dict[str, Any], spec: Specification) -> GenerativeModel:
    """Return a flow, or one of latents, with another integrator or number of steps."""
    flow = inner_model(model)
    if not isinstance(flow, Flow):
        raise InputError(
            f"got {next(iter(sampling))}= for {spec.source}, which draws in one step; expected it for a flow "
            "only: leave it out"
        )
    integrator, steps = sampling.get("integrator", flow.integrator), sampling.get("steps", flow.steps)
    again = Flow(flow.net, flow.sample_shape, integrator, steps).eval()
    return Latent(again, model.autoencoder).eval() if isinstance(model, Latent) else again


def _check_samples(model: GenerativeModel, value_range: Range | None, spec: Specification) -> None:
    """Raise InputError if samples lie outside the declared range, or if the range seems to be another one."""
    probe_model(model)
    x = model.sample(PROBED, stream(0))
    if not torch.isfinite(x).all():
        raise InputError(
            f"{spec.source} draws NaN or infinite numbers; expected the weights of a trained model"
        )
    if {"decoder", ANY} & {*spec.options, spec.options.get("range")} or (
        value_range is None and len(model.sample_shape) != 3
    ):
        return  # points and latents have no range
    low, high = value_range or (-1.0, 1.0)
    least, most = (low + (high - low) * (float(end) + 1) / 2 for end in (x.min(), x.max()))
    outside = float((x.abs() > 1 + 2 * TOLERANCE).double().mean())
    if outside > FEW:
        raise InputError(
            f"{spec.source} draws numbers from {least:.2f} to {most:.2f}, {100 * outside:.0f} % of them far "
            f"outside the range {low:g}:{high:g}; expected {_RANGES[spec.kind == 'generator']}"
        )
    if value_range is not None and most - least < NARROW * (high - low):
        raise InputError(
            f"{spec.source} draws numbers only from {least:.3g} to {most:.3g} in the range "
            f"{low:g}:{high:g}; expected images that cover it: write range=LOW:HIGH"
        )
    if value_range is None and _starts_at_zero(x):
        raise InputError(
            f"{spec.source} draws images of numbers from {least:.2f} to {most:.2f}, as if black were 0; "
            f"expected {_BLACK_IS_0[spec.kind == 'generator']}"
        )


_RANGES = {
    True: "the values of black and white in its images: write range=LOW:HIGH, or range=any for latents",
    False: "images in [-1, 1], on which it was trained: check noise_at and predicts, or write range=any for "
    "latents",
}
_BLACK_IS_0 = {
    True: "their range: write range=0:1, or range=-1:1 if black is -1",
    False: "images in [-1, 1], on which it was trained: write range=any for latents",
}
"""Whether the model is a generator, whose images can be converted -> the range that is expected."""


def _starts_at_zero(x: Tensor) -> bool:
    """Return whether black seems to be 0: numbers below 0 are few and small, as in an overshoot."""
    lower, upper = np.quantile(x.numpy(), (0.01, 0.99))
    return bool(lower > -upper / 4)


MODELS: dict[str, Callable[[Specification], GenerativeModel]] = {
    "generator": _build_generator,
    "flow": _build_flow,
    "flow_map": _build_flow_map,
    "diffusers": _build_diffusers,
}
"""Kind -> the function that builds the model of a spec."""
