"""`unflow train RECIPE`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jsonargparse import ArgumentParser

from unflow.commands.arguments import add_run, add_settings, flag_recipe, peek
from unflow.commands.option_groups import DataOptions
from unflow.commands.run_folders import run_folder
from unflow.commands.settings import TRAININGS
from unflow.ground.errors import InputError
from unflow.ground.locks import is_first_process

if TYPE_CHECKING:  # the help of a command must not wait for torch
    from unflow.data import LabelledData
    from unflow.models.components import SavedModel
    from unflow.training.method import Method


def add_arguments(parser: ArgumentParser, arguments: Sequence[str]) -> list[str]:
    """Add the options; those of ``settings`` depend on the method."""
    rest = name_network(flag_recipe(arguments))
    add_run(parser, run, skip={"settings"})
    add_settings(parser, peek("method", rest, "flow_matching"), TRAININGS)
    return rest


def name_network(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with ``--net mlp`` written as ``--net.net mlp``."""
    words = list(arguments)
    for at, (word, following) in enumerate(zip(words, [*words[1:], ""], strict=True)):
        option, equals, attached = word.partition("=")
        if option == "--net" and (attached or following).isidentifier():
            words[at] = f"--net.net{equals}{attached}"
    return words


def run(
    settings: Method,
    rows: DataOptions,
    out: Path,
    kind: Literal["flow", "flow_map", "generator", "classifier", "autoencoder"],
    net: dict[str, Any],
    method: str = "flow_matching",
    part: str = "train",
    teacher: Path | None = None,
    critic: Path | None = None,
    seed: int = 0,
    device: str = "cpu",
    devices: int = 1,
    conditional: bool = False,
    trust_code: bool = False,
) -> None:
    """Train a base model or a classifier into a bundle.

    The last line says how good it is, on the held-out part of the split: the accuracy and the most confused
    classes of a classifier, or how far the samples of a generator are from real ones, where noise is.

    Args:
        settings: hyper-parameters of the method.
        rows: labelled samples to train on; with a split, those of one part.
        out: folder of the bundle; the same command continues a run that was stopped.
        kind: kind of the model to train.
        net: description of the network without its shape, like {"net": "mlp", "width": 256, "depth": 4}.
        method: flow_matching, mean_flow, distill, gan, classification or autoencoding.
        part: part of the split: train, judge or held_out.
        teacher: bundle of the flow to distil.
        critic: bundle of the classifier (net: resnet) whose features define an autoencoder's perceptual loss.
        seed: random seed of weights and batches, >= 0.
        device: cpu, cuda or mps.
        devices: data-parallel processes.
        conditional: true to train a flow or flow map that is asked for a class: unflow sample OUT --label 3.
            --settings.guidance 2 of mean_flow and distill trains a one-step model that draws at guidance 2.
        trust_code: true to run the third-party functions that the recipe names for its network, and those
            that the bundles of --teacher and --critic name.
    """
    import torch

    from unflow.disk import bundle
    from unflow.ground.streams import check_seed
    from unflow.training.compute import check_device
    from unflow.training.method import settings as plain_settings
    from unflow.training.originals.base_models import train_model

    torch.set_num_threads(1)
    check_seed(seed)
    check_device(device)
    samples = rows.part(part)
    if teacher is None and "teacher" in settings.needs:
        raise InputError(
            f"got no --teacher, and {method} needs a trained flow; write --teacher DIR, its bundle"
        )
    check_consent(net, trust_code)
    flow = bundle.load(teacher, trust_code) if teacher is not None else None
    features = bundle.load_classifier(critic, trust_code) if critic is not None else None
    record = {
        "command": "train",
        "kind": kind,
        "net": net,
        "method": method,
        "settings": plain_settings(settings),
        **rows.record(),
        "part": part,
        "teacher": None if teacher is None else str(teacher),
        "seed": seed,
    }
    if conditional:
        record["conditional"] = True
    if critic is not None:
        record["critic"] = str(critic)
    with run_folder(out, record):
        model = train_model(
            kind,
            net,
            settings,
            samples,
            out,
            seed=seed,
            teacher=flow,
            critic=features,
            part=part,
            device=device,
            devices=devices,
            label=f"{kind} ({method})",
            conditional=conditional,
        )
    if is_first_process():
        print(f"model: {out}")
        sentence = describe_training(model, rows, part, samples, seed)
        if sentence:
            print(sentence)


def describe_training(
    model: SavedModel, rows: DataOptions, part: str, samples: LabelledData, seed: int
) -> str | None:
    """Return the self-measure of a trained model, on held-out samples where a split has some."""
    from unflow.training.originals.self_measure import describe_model

    if rows.split is None or part == "held_out":
        return describe_model(model, samples, "training", seed)
    return describe_model(model, rows.part("held_out"), "held-out", seed)


def check_consent(net: dict[str, Any], trust_code: bool) -> None:
    """Raise InputError for a network that third-party code builds, without consent to run it."""
    from unflow.foreign.specification import import_from_working_directory
    from unflow.nets import builders, trusted

    if trust_code:
        import_from_working_directory()
    unknown = [name for name in builders(net) if not trusted(name)]
    if unknown and not trust_code:
        raise InputError(
            f"got a network that is built by {unknown[0]}, which is not part of unflow; expected your "
            "consent to run that code: write --trust_code true if you know where the recipe comes from"
        )
