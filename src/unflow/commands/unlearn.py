"""`unflow unlearn`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from jsonargparse import ArgumentParser

from unflow.base_models import load_parts
from unflow.bundle import CONFIG
from unflow.commands.options import add_settings, parse_classes, peek, with_recipe
from unflow.data import load_data
from unflow.divergences import DIVERGENCES
from unflow.errors import InputError
from unflow.files import read_json
from unflow.foreign import load_energy, load_model, read_line, with_options
from unflow.methods import UNLEARNERS, LowRank, Method, Problem
from unflow.methods.base import settings as plain_settings
from unflow.models import inner_model
from unflow.runs import is_first_process, run_folder
from unflow.target import Target
from unflow.training import check_device, check_seed
from unflow.unlearning import rows_read, unlearn


def add_arguments(parser: ArgumentParser, arguments: Sequence[str]) -> list[str]:
    """Add the options; those of ``settings`` depend on the method."""
    rest = with_recipe(arguments)
    parser.add_function_arguments(run, skip={"settings"})
    if peek("method", rest) is None:
        rest = [*rest, "--method", default_method(peek("model", rest, ""))]
    add_settings(parser, peek("method", rest), UNLEARNERS)
    return rest


def default_method(model: str | None) -> str:
    """Return the method that takes any energy, for a model in a bundle or by a line of words."""
    return "erfm_resample" if family_of(model or "") == "flow" else "latent_transport"


def family_of(model: str) -> str:
    """Return the family that a model's description says it has; "flow" where nothing is said.

    Only the description is read: the model itself is loaded, and judged, later.
    """
    line = read_line(model)
    if line is not None:
        return line.kind if line.kind in ("generator", "flow_map") else "flow"
    try:
        return _family(read_json(Path(model) / CONFIG))
    except (InputError, KeyError, TypeError):
        return "flow"


def _family(config: dict[str, Any]) -> str:
    if config["model"] == "chain":  # as ``Chain`` has it
        base = _family(config["base"])
        return _family(config["after"]) if base == "flow" else base
    return _family(config["inner"]) if "inner" in config else str(config["model"])


def run(
    settings: Method,
    model: str,
    energy: str,
    forget: str,
    out: Path,
    weights: Path | None = None,
    prior: str | None = None,
    method: str | None = None,
    margin: float = 4.0,
    strength: float = 1.0,
    divergence: Literal["kl", "softplus", "chi2"] = "kl",
    data: str | None = None,
    split: Path | None = None,
    teacher: Path | None = None,
    seed: int = 0,
    device: str = "cpu",
    devices: int = 1,
    precision: Literal["32-true", "bf16-mixed"] = "32-true",
    logger: Literal["csv", "tensorboard", "none"] = "none",
    train_only: str | None = None,
    rank: int | None = None,
    micro_batches: int = 1,
    compile: bool = False,
    trust_code: bool = False,
) -> None:
    """Make a model forget classes.

    Args:
        settings: hyper-parameters of the method.
        model: bundle of the model, or a line that names one of somebody else's (see docs/your-model.md):
            generator:PACKAGE.MODULE:FUNCTION@WEIGHTS,prior=normal:64,range=0:1; flow:...,shape=3x32x32,
            call=x/t,noise_at=1; flow_map:...; diffusers:DIR.
        energy: classifier:DIR, the bundle of the guide, or a line:
            classifier:PACKAGE.MODULE:FUNCTION@WEIGHTS,range=0:1,shape=784; onnx:FILE;
            score:PACKAGE.MODULE:FUNCTION.
        forget: classes, like 3 or 3,5.
        out: folder of the new bundle; the same command continues a run that was stopped.
        weights: of a model that is no bundle, as @WEIGHTS behind it.
        prior: of a model that is no bundle, like normal:64, as prior= behind it.
        method: by default erfm_resample for a flow, latent_transport for a one-step model. There are: erfm,
            erfm_resample, either with _prior after it, ot_fm (flow); uot, uot_tilted,
            latent_transport, latent_transport_uot, latent_transport_chain (one-step); relabel, saliency,
            selective_amnesia (baselines, one-step); gradient_ascent, neg_grad_plus, fine_tune,
            weight_extrapolation, reject, retrained (baselines).
        margin: of the energy, >= 0.
        strength: lam, >= 0.
        divergence: what holds the target near the original.
        data: digits, mnist:DIR, folder:DIR@32, npz:FILE, ..., for methods that need real samples (the
            baselines).
        split: split.json, to use its training part only.
        teacher: bundle of a retrained flow, from which retrained distils a flow map.
        seed: >= 0.
        device: cpu, cuda or mps.
        devices: data-parallel processes.
        precision: of the steps; bf16-mixed for matrix products in bfloat16.
        logger: csv or tensorboard (`pip install tensorboard`): the losses in OUT/logs too.
        train_only: names of the weights that are trained, like "layers.2,head": regular expressions.
        rank: of low-rank adapters, trained in place of the weights of linear and convolution layers: all of
            those, or the ones that --train_only names.
        micro_batches: parts of a batch that go forward and backward one after the other: less memory.
        compile: true to put losses and networks through torch.compile.
        trust_code: whether bundles may run the functions that they name for networks of somebody else's.
    """
    torch.set_num_threads(1)
    assert method is not None  # ``add_arguments`` has seen to that
    check_seed(seed)
    check_device(device)
    classes = parse_classes(forget)
    named = with_options(model, weights, prior)
    original = load_model(named, trust_code)
    F = load_energy(energy, classes, margin, original, trust_code)
    target = Target(original, F, strength, DIVERGENCES[divergence]())
    retrained = None if teacher is None else load_model(teacher, trust_code)
    problem = Problem(model=inner_model(target.model), teacher=retrained)
    if data is None and settings.reads(problem) & {"retain", "forget"}:
        raise InputError(
            f"{method} reads real samples, and --data is missing; write --data digits, and --split "
            "split.json to use its training part only"
        )
    rows = held_out = None
    if data is not None and split is not None:
        rows, held_out = load_parts(data, split, "train", "held_out")
    elif data is not None:
        rows = load_data(data)
    real = {} if rows is None else rows_read(settings, target, classes, rows, held_out, retrained)
    record = {
        "command": "unlearn", "model": named, "energy": energy, "forget": list(classes),
        "method": method, "settings": plain_settings(settings), "margin": margin,
        "strength": strength, "divergence": divergence, "data": data,
        "split": None if split is None else str(split),
        "teacher": None if teacher is None else str(teacher), "seed": seed, "train_only": train_only,
        "rank": rank, "precision": None if precision == "32-true" else precision,
    }  # fmt: skip
    with run_folder(out, record):
        result = unlearn(
            target, settings, out, seed=seed, device=device, devices=devices, name=method,
            guide_data=("guide",), teacher=retrained, precision=precision,
            loggers=loggers(logger, out),
            train_only=None if train_only is None else train_only.split(","),
            adapters=None if rank is None else LowRank(rank), micro_batches=micro_batches,
            compile=compile, **real,
        )  # fmt: skip
    if is_first_process():
        print(f"model: {out} ({result.lineage['seconds']:.1f} s)")


def loggers(name: str, out: Path) -> list[Any]:
    """Return the loggers of Lightning Fabric that were asked for.

    Raises:
        InputError: if tensorboard is not installed.
    """
    if name == "none":
        return []
    from lightning_fabric.loggers import CSVLogger, TensorBoardLogger

    if name == "csv":
        return [CSVLogger(out / "logs", name="", flush_logs_every_n_steps=1)]
    try:
        return [TensorBoardLogger(out / "logs", name="")]
    except ModuleNotFoundError as error:
        raise InputError(
            "got --logger tensorboard, and tensorboard is not installed; expected it: pip install tensorboard"
        ) from error
