"""uf.unlearn: a request and a method in, a model and its lineage out."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from unflow.data import LabelledData
from unflow.disk import bundle
from unflow.energies import Decoded
from unflow.ground.errors import InputError
from unflow.ground.files import sha256_module, sha256_tensors, sha256_text
from unflow.models import GenerativeModel, Latent, inner_model, plain_module
from unflow.target import Target
from unflow.training.compute import Precision
from unflow.training.loop import METRICS, Fit, finish, fit, seconds_to_within
from unflow.training.low_rank import LowRank
from unflow.training.method import Method, Problem, settings

GUIDE_DATA = ("guide: train_images, train_labels",)
"""What a method has seen through a guide that was trained on the generator's part of a split."""


@dataclass(frozen=True)
class Unlearned:
    """What ``unlearn`` returns.

    Attributes:
        model: after unlearning; the original is unchanged.
        lineage: parent, request, method, settings, seed, data, seconds.
    """

    model: GenerativeModel
    lineage: dict[str, Any]

    def module(self) -> nn.Module:
        """Return the network itself, as its owner wrote it, with the new weights."""
        return plain_module(self.model)


def unlearn(
    target: Target,
    method: Method,
    out: str | Path | None = None,
    *,
    seed: int = 0,
    retain: Tensor | None = None,
    forget: Tensor | None = None,
    held_out: Tensor | None = None,
    teacher: GenerativeModel | None = None,
    device: str = "cpu",
    devices: int = 1,
    precision: Precision = "32-true",
    loggers: Sequence[Any] = (),
    on_step: Callable[[int], None] | None = None,
    name: str = "",
    guide_data: tuple[str, ...] = (),
    train_only: Sequence[str] | None = None,
    adapters: LowRank | None = None,
    micro_batches: int = 1,
    compile: bool = False,
) -> Unlearned:
    """Move a model towards the target of a request; the same call continues a run that was killed.

    Args:
        target: model, energy, strength, divergence.
        method: how, for example ``methods.UNLEARNERS["uot_tilted"]``.
        out: folder for the bundle, metrics and checkpoints; None keeps nothing. A finished bundle of
            the same call is loaded, not made again.
        seed: >= 0.
        retain: real samples of the classes to keep, for methods that need them.
        forget: real samples of the classes to forget, for methods that need them.
        held_out: real samples on which the retrained model's loss is watched.
        teacher: a retrained flow, from which the retrained flow map is distilled.
        device: "cpu", "cuda" or "mps".
        devices: data-parallel processes.
        precision: "32-true", or "bf16-mixed" for matrix products in bfloat16.
        loggers: of Lightning Fabric, beside metrics.jsonl.
        on_step: called with the number of finished steps after each.
        name: of the row in audits and progress; the method's class name by default.
        guide_data: what the energy's classifier was trained on, for the record.
        train_only: regular expressions; the model's weights with other names stay as they are.
        adapters: ``LowRank(8)`` trains a product of rank 8 beside each weight of linear and convolution
            layers (of those, the ones that ``train_only`` names), and nothing else of the model.
        micro_batches: parts of a batch that go forward and backward one after the other: less memory.
        compile: whether losses and networks go through ``torch.compile``.

    Raises:
        InputError: before any training, for a method that does not fit the model, the energy or the
            data; and for a folder that holds another run.
    """
    data: dict[str, Any] = {"retain": retain, "forget": forget, "held_out": held_out}
    problem = trained_in_part(problem_inside(target, data, teacher), train_only, adapters)
    method.check(problem)
    name = name or type(method).__name__
    request = {
        "words": target.energy.describe(),
        "strength": target.strength,
        "divergence": target.divergence.name,
    }
    identity: dict[str, Any] = {
        "parent": sha256_module(target.model),
        "method": name,
        "settings": settings(method),
        "seed": seed,
        "data": {k: sha256_tensors(v) for k, v in data.items() if v is not None},
    }
    how = {
        "train_only": None if problem.train_only is None else list(problem.train_only),
        "adapters": None if adapters is None else dataclasses.asdict(adapters),
        "precision": None if precision == "32-true" else precision,
    }
    identity |= {name: value for name, value in how.items() if value is not None}
    if "teacher" in method.reads(problem):
        assert problem.teacher is not None
        identity |= {"teacher": sha256_module(problem.teacher)}
    if "target" in method.reads(problem):  # another energy changes nothing for the others
        identity |= {"energy": sha256_module(target.energy), "request": request}
    if out is not None:  # what cannot be kept is refused here, and not after the training
        identity |= {"architecture": sha256_text(json.dumps(target.model.config(), sort_keys=True))}
    if out is not None and bundle.is_complete(Path(out)):
        if "architecture" not in bundle.read_lineage(Path(out)):  # older than this part of the record
            identity.pop("architecture")
        bundle.check_lineage(Path(out), how | identity, settings(type(method)()))
        model = bundle.load(out, trust_code=True)  # it came from the model in hand
        return Unlearned(model, bundle.read_lineage(Path(out)))
    result = fit(
        method,
        problem,
        out,
        seed=seed,
        device=device,
        devices=devices,
        precision=precision,
        loggers=loggers,
        on_step=on_step,
        label=f"{target.model.family} {name}",
        problem_id=bundle.hash_lineage(identity),
        micro_batches=micro_batches,
        compile=compile,
    )
    model = _outside(target.model, result.model)
    lineage = (
        {"request": request}
        | identity
        | {
            "family": model.family,
            "data_used": data_used(method.reads(problem), guide_data),
            "steps": result.steps,
            "seconds": result.seconds,
            "peak_rss_mb": result.peak_rss_mb,
            "metrics": None,
            "versions": bundle.collect_versions(method, target.energy, target.model, model),
        }
    )
    if result.facts:
        lineage |= {"facts": result.facts}
    if out is not None and result.is_first:
        lineage |= _watched_cost(method, Path(out), result)
        bundle.save(model, out, lineage)
        finish(out)
    return Unlearned(model, lineage)


def rows_read(
    method: Method,
    target: Target,
    classes: Sequence[int],
    train: LabelledData,
    held_out: LabelledData | None = None,
    teacher: GenerativeModel | None = None,
) -> dict[str, Any]:
    """Return the real samples that a method reads, by the names ``unlearn`` has for them.

    Args:
        method: how.
        target: of the request.
        classes: to forget.
        train: labelled samples to take them from.
        held_out: labelled samples on which the retrained model's loss is watched.
        teacher: a retrained flow, for a method that distils from one.
    """
    reads = method.reads(Problem(model=inner_model(target.model), teacher=teacher))
    watched = held_out if method.watches_held_out and "retain" in reads else None
    return {
        "retain": train.without_classes(classes).x if "retain" in reads else None,
        "forget": train.of_classes(classes).x if "forget" in reads else None,
        "held_out": None if watched is None else watched.without_classes(classes).x,
    }


def problem_inside(target: Target, data: dict[str, Any], teacher: GenerativeModel | None) -> Problem:
    """Return the problem to solve: that of the inner model and of latents where there is an autoencoder."""
    model, teacher = target.model, None if teacher is None else inner_model(teacher)
    if not isinstance(model, Latent):
        return Problem(model=model, target=target, teacher=teacher, **data)
    energy = Decoded(target.energy, model.autoencoder)
    inner = dataclasses.replace(target, model=model.inner, energy=energy)
    encode = model.autoencoder.encode
    encoded: dict[str, Any] = {name: None if x is None else encode(x) for name, x in data.items()}
    return Problem(model=model.inner, target=inner, teacher=teacher, **encoded)


def trained_in_part(problem: Problem, train_only: Sequence[str] | None, adapters: LowRank | None) -> Problem:
    """Return the problem with what is trained of its model: some weights, or adapters of them.

    Raises:
        InputError: for adapters that are no ``LowRank``, and names that are no list of strings.
    """
    if not isinstance(adapters, LowRank | None):
        raise InputError(f"got adapters={adapters!r}; expected a LowRank: write adapters=LowRank(8)")
    if train_only is None:
        return dataclasses.replace(problem, adapters=adapters)
    if not isinstance(train_only, list | tuple) or not all(isinstance(name, str) for name in train_only):
        raise InputError(
            f"got train_only={train_only!r}; expected a list of regular expressions: write "
            'train_only=["head"]'
        )
    return dataclasses.replace(problem, train_only=tuple(train_only), adapters=adapters)


def _outside(original: GenerativeModel, trained: nn.Module) -> GenerativeModel:
    assert isinstance(trained, GenerativeModel)
    if not isinstance(original, Latent):
        return trained
    return Latent(trained, copy.deepcopy(original.autoencoder).cpu())


def data_used(reads: frozenset[str], guide_data: tuple[str, ...]) -> list[str]:
    """Return what a method has seen, directly or through the guide behind the energy."""
    images = [f"{name}_images" for name in ("forget", "retain") if name in reads]
    guide, teacher = guide_data if "target" in reads else (), ["teacher"] if "teacher" in reads else []
    return [*guide, *teacher, *images]


def _watched_cost(method: Method, out: Path, result: Fit) -> dict[str, float | None]:
    if not method.watches_held_out:
        return {}
    return {"seconds_to_5pct": seconds_to_within(out / METRICS)}
