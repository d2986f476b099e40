"""The training problem of a request: from a target, real samples and the choice of weights to train."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from unflow.data import LabelledData
from unflow.energies import ConditionEnergy, Decoded
from unflow.ground.errors import InputError
from unflow.models import GenerativeModel, Latent, inner_model
from unflow.target import Target
from unflow.training.low_rank import LowRank
from unflow.training.method import Method, Problem


@dataclass(frozen=True, kw_only=True)
class RealSamples:
    """Real samples [n, *shape] for the methods that read them.

    Attributes:
        retain: samples of the classes to keep.
        retain_labels: their labels, [n].
        forget: samples of the classes to forget.
        held_out: samples on which the loss of the retrained model is measured; never trained on.
    """

    retain: Tensor | None = None
    retain_labels: Tensor | None = None
    forget: Tensor | None = None
    held_out: Tensor | None = None

    def encode(self, encode: Callable[[Tensor], Tensor]) -> RealSamples:
        """Return the same record with every sample encoded; labels stay as they are."""
        samples = {name: x for name, x in self.present().items() if name != "retain_labels"}
        return dataclasses.replace(self, **{name: encode(x) for name, x in samples.items()})

    def present(self) -> dict[str, Tensor]:
        """Return the samples that are given, by field name."""
        every = {each.name: getattr(self, each.name) for each in dataclasses.fields(self)}
        return {name: x for name, x in every.items() if x is not None}


NO_SAMPLES = RealSamples()
"""No real samples: the default of ``unlearn`` and ``plan``."""


def select_real_samples(
    method: Method,
    target: Target,
    classes: Sequence[int],
    train: LabelledData,
    held_out: LabelledData | None = None,
    teacher: GenerativeModel | None = None,
) -> RealSamples:
    """Return the real samples that a method reads, taken from labelled data.

    Args:
        method: the method.
        target: of the request.
        classes: to forget.
        train: labelled samples for ``retain`` and ``forget``.
        held_out: labelled samples on which the loss of the retrained model is measured.
        teacher: a retrained flow, for a method that distils from one.
    """
    reads = method.reads(Problem(model=inner_model(target.model), teacher=teacher))
    measured = held_out if method.watches_held_out and "retain" in reads else None
    retained = train.without_classes(classes)
    return RealSamples(
        retain=retained.x if "retain" in reads else None,
        retain_labels=retained.labels if "retain_labels" in reads else None,
        forget=train.of_classes(classes).x if "forget" in reads else None,
        held_out=None if measured is None else measured.without_classes(classes).x,
    )


def make_problem(target: Target, data: RealSamples, teacher: GenerativeModel | None) -> Problem:
    """Return the training problem of a request.

    For a model with an autoencoder it is that of the inner model: the samples are encoded, and the energy
    decodes.
    """
    model, teacher = target.model, None if teacher is None else inner_model(teacher)
    if isinstance(model, Latent):
        energy = target.energy
        if not isinstance(energy, ConditionEnergy):
            energy = Decoded(energy, model.autoencoder)
        target = dataclasses.replace(target, model=model.inner, energy=energy)
        data = data.encode(model.autoencoder.encode)
    return Problem(
        model=target.model,
        target=target,
        teacher=teacher,
        retain=data.retain,
        retain_labels=data.retain_labels,
        forget=data.forget,
        held_out=data.held_out,
    )


def restrict_training(
    problem: Problem, train_only: Sequence[str] | None, adapters: LowRank | None, one_label: bool = False
) -> Problem:
    """Return the problem with only some weights of its model, or adapters of them, in training.

    Raises:
        InputError: for adapters that are not a ``LowRank``, and names that are not a list of strings.
    """
    if not isinstance(adapters, LowRank | None):
        raise InputError(f"got adapters={adapters!r}; expected a LowRank: write adapters=LowRank(8)")
    problem = dataclasses.replace(problem, one_label=one_label)
    if train_only is None:
        return dataclasses.replace(problem, adapters=adapters)
    if not isinstance(train_only, list | tuple) or not all(isinstance(name, str) for name in train_only):
        raise InputError(
            f"got train_only={train_only!r}; expected a list of regular expressions: write "
            'train_only=["head"]'
        )
    return dataclasses.replace(problem, train_only=tuple(train_only), adapters=adapters)


def restore_autoencoder(trained: nn.Module, original: GenerativeModel) -> GenerativeModel:
    """Return the trained model, with the original's autoencoder where it has one."""
    assert isinstance(trained, GenerativeModel)
    if not isinstance(original, Latent):
        return trained
    return Latent(trained, copy.deepcopy(original.autoencoder).cpu())
