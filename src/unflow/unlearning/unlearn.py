"""``uf.unlearn``: carry out a request with a method, and return the model with its lineage."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from unflow.disk import bundle
from unflow.ground.errors import InputError, RunFailedError, choose
from unflow.ground.files import sha256_module, sha256_tensors, sha256_text
from unflow.ground.locks import locks_output
from unflow.ground.records import gathers
from unflow.methods import INSTALLED
from unflow.models import GenerativeModel, plain_module
from unflow.models.saved_energies import describe_energy
from unflow.target import RETAINED, Target
from unflow.training.compute import ONE_CPU, Compute
from unflow.training.derivatives import probe_method, probe_problem
from unflow.training.loop import METRICS, finish, fit, seconds_to_within
from unflow.training.low_rank import LowRank
from unflow.training.method import Method, Problem, fixed_names, settings
from unflow.training.snapshots import Snapshots
from unflow.unlearning.defaults import AUTO, default_method
from unflow.unlearning.planning import choose_method
from unflow.unlearning.problems import (
    NO_SAMPLES,
    RealSamples,
    make_problem,
    restore_autoencoder,
    restrict_training,
)
from unflow.unlearning.self_measure import check_n, measure_unlearning
from unflow.unlearning.verdict import SelfMeasure, check_requirements, read_measure

GUIDE_DATA = ("guide: train_images, train_labels",)
"""The data behind a guide that was trained on the training part of a split, as lineages record it."""


@dataclass(frozen=True)
class Unlearned:
    """The result of ``unlearn``.

    Attributes:
        model: the model after unlearning; the original is unchanged.
        lineage: parent, request, method, settings, seed, data, seconds, self-measure.
        measure: of fresh samples; None where ``self_measure=0`` asked for none.
    """

    model: GenerativeModel
    lineage: dict[str, Any]
    measure: SelfMeasure | None = None

    @property
    def verdict(self) -> str:
        """The self-measure in one sentence, like "forgot: ..." or "did not forget, and blurred: ..."."""
        return "cannot know: nothing was measured" if self.measure is None else self.measure.verdict

    def require(self, *names: str) -> Unlearned:
        """Return the result if the self-measure finds each of these properties.

        Args:
            names: "forgotten", "sharp", "diverse", "kept"; ``SelfMeasure`` defines them.

        Raises:
            InputError: for an unknown name.
            RunFailedError: if one does not hold or could not be measured; the bundle, if any, is written.
        """
        failed = self.list_failures(check_requirements(names))
        if failed:
            raise RunFailedError(f"required {', '.join(failed)}; got: {self.verdict}")
        return self

    def list_failures(self, names: Sequence[str]) -> list[str]:
        """Return those of the required properties that do not hold or could not be measured."""
        return list(names) if self.measure is None else self.measure.list_failures(names)

    def module(self) -> nn.Module:
        """Return the user's own network with the new weights, without unflow's adapters."""
        return plain_module(self.model)


@gathers(compute=Compute, data=RealSamples)
@locks_output
def unlearn(
    target: Target,
    method: Method | str | None = None,
    out: str | Path | None = None,
    *,
    data: RealSamples = NO_SAMPLES,
    teacher: GenerativeModel | None = None,
    compute: Compute = ONE_CPU,
    seed: int = 0,
    on_step: Callable[[int], None] | None = None,
    name: str = "",
    guide_data: tuple[str, ...] = (),
    train_only: Sequence[str] | None = None,
    adapters: LowRank | None = None,
    one_label: bool = False,
    self_measure: int | None = None,
    snapshots: Snapshots | None = None,
) -> Unlearned:
    """Train a model towards the target of a request; the same call continues a run that was killed.

    The fields of ``data`` and ``compute`` may also be given as keywords: ``unlearn(..., device="cuda")``.

    Args:
        target: model, energy, strength, divergence.
        method: a method, or the row name of one in ``methods.UNLEARNERS`` or an installed package; None:
            ``default_method``; "auto": the first of ``plan``, found by short trials of the best measured
            methods. The finished bundle in ``out`` keeps the method that made it.
        out: folder for the bundle, metrics and checkpoints; None writes nothing. If the folder holds the
            finished bundle of the same call, that bundle is loaded and nothing is trained.
        data: real samples, for methods that read them.
        teacher: a retrained flow, from which the retrained flow map is distilled; the conditional flow
            for ``SFD``.
        compute: device, devices, precision, micro-batches, compilation and loggers of the training.
        seed: >= 0.
        on_step: called after each step with the number of finished steps.
        name: of the row in audits and progress lines; by default the method's row name or class name.
        guide_data: the data on which the energy's classifier was trained, for the lineage.
        train_only: regular expressions; weights of the model whose names match none of them stay unchanged.
        adapters: ``LowRank(8)`` trains a product of rank 8 beside each weight of linear and convolution
            layers (only those that ``train_only`` selects, if given), and nothing else of the model.
        one_label: whether a network with labels may be trained at its one fixed label; this also changes its
            samples at the other labels.
        self_measure: fresh samples on which the result is measured at the end, >= 100; None: 2,000, for a
            flow 1,000, for a model of more than 30 million weights 500; 0: none. They change no other
            random number.
        snapshots: where to keep models of the training on its way; None keeps none.

    Weights that their owner has fixed (requires_grad=False) stay as they are unless ``train_only`` names
    them; a network in which all are fixed was frozen for evaluation, and is trained.

    Raises:
        InputError: before any training, for an unknown method, or one that does not fit the model, the energy
            or the data; for a network that is no function of each row of its input (``models.probe``); and
            for a folder that holds another run.
    """
    if self_measure:
        check_n(self_measure)
    problem = restrict_training(make_problem(target, data, teacher), train_only, adapters, one_label)
    if method is None:
        method = default_method(target.model.family)
    if method == AUTO:
        method = (
            read_method(out)
            or choose_method(
                target,
                data=data,
                teacher=teacher,
                compute=compute,
                seed=seed,
                train_only=train_only,
                adapters=adapters,
                one_label=one_label,
            ).method
        )
    if isinstance(method, str):
        name, method = name or method, choose(INSTALLED, method, "method")
    method.check(problem)
    name = name or type(method).__name__
    reads = method.reads(problem)
    request = {
        "words": target.energy.describe(),
        "strength": target.strength,
        "divergence": target.divergence.name,
    }
    if target.replace != RETAINED.name:
        request |= {"replace": target.replace}
    identity = _describe_identity(target, method, name, seed, data, problem, compute)
    if "target" in reads:  # methods that do not read the energy give the same result with another one
        identity |= {"energy": sha256_module(target.energy), "request": request}
    if out is not None:  # a model that cannot be described in a file is refused here, before any training
        identity |= {"architecture": sha256_text(json.dumps(target.model.config(), sort_keys=True))}
    if out is not None and bundle.is_complete(Path(out)):
        found = _load_finished(Path(out), identity, problem, compute, method, target)
        return _read_measure(found, target, seed, self_measure, compute)
    probe_problem(problem)
    target.check_replacement(seed)
    probe_method(method, problem, compute)
    result = fit(
        method,
        problem,
        out,
        seed=seed,
        compute=compute,
        on_step=on_step,
        label=f"{target.model.family} {name}",
        problem_id=bundle.hash_lineage(identity),
        snapshots=snapshots,
    )
    model = restore_autoencoder(keep_fixed(result.model, problem.model), target.model)
    lineage = (
        {"request": request}
        | identity
        | {
            "family": model.family,
            "data_used": _list_data_used(reads, guide_data),
            "steps": result.steps,
            "seconds": result.seconds,
            "peak_rss_mb": result.peak_rss_mb,
            "metrics": None,
            "versions": bundle.collect_versions(method, target.energy, target.model, model),
        }
    )
    if result.facts:
        lineage |= {"facts": result.facts}
    measure = None
    if result.is_first and self_measure != 0:
        measure = measure_unlearning(
            target, model, seed=seed, n=self_measure, losses=result.losses, device=compute.device
        )
        lineage |= {"self_measure": measure.as_dict()}
    if out is not None and result.is_first:
        lineage |= _measure_time_to_5pct(method, Path(out))
        bundle.save(model, out, lineage)
        finish(out)
    return Unlearned(model, lineage, measure)


def read_method(out: str | Path | None) -> str | None:
    """Return the method of the finished bundle in a folder; None if there is none."""
    if out is None or not bundle.is_complete(Path(out)):
        return None
    method = bundle.read_lineage(Path(out)).get("method")
    return method if isinstance(method, str) and method in INSTALLED else None


def _read_measure(found: Unlearned, target: Target, seed: int, n: int | None, compute: Compute) -> Unlearned:
    """Return a finished result with its self-measure, which is taken now if its lineage has none."""
    if "self_measure" in found.lineage:
        return dataclasses.replace(found, measure=read_measure(found.lineage["self_measure"]))
    if n == 0:
        return found
    measure = measure_unlearning(target, found.model, seed=seed, n=n, device=compute.device)
    return dataclasses.replace(found, measure=measure)


def _describe_identity(
    target: Target,
    method: Method,
    name: str,
    seed: int,
    data: RealSamples,
    problem: Problem,
    compute: Compute,
) -> dict[str, Any]:
    """Return the part of the lineage that names the call, without its energy and architecture."""
    identity: dict[str, Any] = {
        "parent": sha256_module(target.model),
        "method": name,
        "settings": settings(method),
        "seed": seed,
        "data": {key: sha256_tensors(x) for key, x in data.present().items()},
    }
    identity |= {
        key: value for key, value in _describe_options(problem, compute).items() if value is not None
    }
    if "teacher" in method.reads(problem):
        assert problem.teacher is not None
        identity |= {"teacher": sha256_module(problem.teacher)}
    return identity


def _describe_options(problem: Problem, compute: Compute) -> dict[str, Any]:
    """Return the options that change a result and belong to its identity; None for each default."""
    return {
        "train_only": None if problem.train_only is None else list(problem.train_only),
        "adapters": None if problem.adapters is None else dataclasses.asdict(problem.adapters),
        "precision": None if compute.precision == "32-true" else compute.precision,
    }


def _load_finished(
    out: Path, identity: dict[str, Any], problem: Problem, compute: Compute, method: Method, target: Target
) -> Unlearned:
    """Return the finished bundle of the same call, without what a kill left beside it.

    Raises:
        InputError: for the bundle of another call.
    """
    lineage = bundle.read_lineage(out)
    if "architecture" not in lineage:  # written before lineages recorded it
        identity = {key: value for key, value in identity.items() if key != "architecture"}
    bundle.check_lineage(out, _describe_options(problem, compute) | identity, settings(type(method)()))
    finish(out)
    model = bundle.load_result(out, _describe_networks(target, problem))
    if not isinstance(model, GenerativeModel):
        raise InputError(f"{out} holds a {type(model).__name__}; expected the generative model of this call")
    return Unlearned(model, lineage)


def _describe_networks(target: Target, problem: Problem) -> list[dict[str, Any]]:
    """Return the descriptions of the networks of a call that its result may contain."""
    found = [target.model.config()]
    with suppress(InputError):  # no file can hold such an energy, so no result contains it
        found.append(describe_energy(problem.target.energy if problem.target else target.energy))
    return found


def keep_fixed(result: nn.Module, original: nn.Module) -> nn.Module:
    """Let the weights of a result take gradients again, except those that the original's owner has fixed.

    Without fixed weights, the result stays frozen as a whole.
    """
    fixed = fixed_names(original)
    if fixed:
        for name, weight in result.named_parameters():
            weight.requires_grad_(not any(f".{name}".endswith(f".{each}") for each in fixed))
    return result


def _list_data_used(reads: frozenset[str], guide_data: tuple[str, ...]) -> list[str]:
    """Return the data that a method reads, directly or through the guide behind the energy."""
    images = [f"{name}_images" for name in ("forget", "retain") if name in reads]
    guide, teacher = guide_data if "target" in reads else (), ["teacher"] if "teacher" in reads else []
    return [*guide, *teacher, *images]


def _measure_time_to_5pct(method: Method, out: Path) -> dict[str, float | None]:
    """Return, for a retrained model, the seconds until its held-out loss was within 5 % of the best one."""
    return {"seconds_to_5pct": seconds_to_within(out / METRICS)} if method.watches_held_out else {}
