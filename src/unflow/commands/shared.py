"""Options that several commands share: a model, what it is to forget, labelled samples, and how to train."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from unflow.commands.groups import Group
from unflow.commands.options import parse_classes
from unflow.data import LabelledData
from unflow.foreign import Specification, add_options, load_energy, load_model, parse_energy
from unflow.foreign.specification import split_options
from unflow.ground.errors import InputError
from unflow.mathematics.divergences import DIVERGENCES
from unflow.models import GenerativeModel
from unflow.target import Target
from unflow.training.compute import Compute, Precision, check_device
from unflow.training.low_rank import LowRank
from unflow.training.originals.base_models import load_parts, load_rows


@dataclass(frozen=True)
class Original(Group):
    """Which model forgets.

    Attributes:
        model: bundle of the model; pretrained:ORG/NAME@REVISION, one on the Hugging Face Hub; or a line that
            names one of somebody else's (see docs/your-model.md):
            generator:PACKAGE.MODULE:FUNCTION@WEIGHTS,prior=normal:64,range=0:1; flow:...,shape=3x32x32,
            call=x/t,noise_at=1; flow_map:...; diffusers:DIR.
        weights: of a model that is no bundle, as @WEIGHTS behind it.
        prior: of a model that is no bundle, like normal:64, as prior= behind it.
    """

    model: str
    weights: Path | None = None
    prior: str | None = None

    @cached_property
    def source(self) -> str | Specification:
        """The bundle, or the specification with its weights and prior."""
        return add_options(self.model, self.weights, self.prior)

    def load(self, trust_code: bool) -> GenerativeModel:
        """Return the model."""
        return load_model(self.source, trust_code)


@dataclass(frozen=True)
class Request(Group):
    """What is to be forgotten, and how hard.

    Attributes:
        energy: classifier:DIR, the bundle of the guide, or a line (see docs/your-model.md):
            classifier:PACKAGE.MODULE:FUNCTION@WEIGHTS,range=0:1,shape=784; onnx:FILE;
            estimator:PACKAGE.MODULE:FUNCTION or estimator:FILE.joblib; score:PACKAGE.MODULE:FUNCTION;
            images:FOLDER,extractor=DIR.
        forget: classes, like 3 or 3,5; needed where the energy has classes, by a judge, and for real samples.
        margin: of the energy, >= 0.
        strength: lam, >= 0.
        divergence: what holds the target near the original.
        trust_code: whether bundles may run the functions that they name for networks of somebody else's, and
            files of estimators what is in them.
    """

    energy: str | None = None
    forget: str | None = None
    margin: float = 4.0
    strength: float = 1.0
    divergence: Literal["kl", "softplus", "chi2"] = "kl"
    trust_code: bool = False

    @property
    def classes(self) -> tuple[int, ...] | None:
        """The classes to forget; None where none were said."""
        return None if self.forget is None else parse_classes(self.forget)

    def required_classes(self, purpose: str) -> tuple[int, ...]:
        """Return the classes to forget.

        Raises:
            InputError: where none were said; ``purpose`` says what they are for.
        """
        if self.classes is None:
            raise InputError(
                f"got no --forget, and {purpose} needs classes; expected those to forget: write --forget 3"
            )
        return self.classes

    @cached_property
    def specification(self) -> Specification:
        """The specification of the energy.

        Raises:
            InputError: without an energy; as ``parse_energy``.
        """
        if self.energy is None:
            raise InputError("got no --energy; expected what to forget: write --energy classifier:DIR")
        return parse_energy(self.energy)

    def target(self, model: GenerativeModel) -> Target:
        """Return the target of the request for a model.

        Raises:
            InputError: as ``specification`` and ``load_energy``.
        """
        F = load_energy(self.specification, self.classes, self.margin, model, self.trust_code)
        return Target(model, F, self.strength, DIVERGENCES[self.divergence]())

    def record(self) -> dict[str, Any]:
        """Return what belongs into the configuration of a run."""
        return {
            "energy": self.energy,
            "forget": None if self.classes is None else list(self.classes),
            "margin": self.margin,
            "strength": self.strength,
            "divergence": self.divergence,
        }


@dataclass(frozen=True)
class Rows(Group):
    """Labelled samples.

    Attributes:
        data: digits, mnist:DIR, cifar10:DIR, cifar100:DIR, idx:DIR, folder:DIR@32 or npz:FILE.
        split: split.json: who may see which of them.
        cache: folder that keeps what was decoded, for the next command; it changes no result.
    """

    data: str | None = "digits"
    split: Path | None = None
    cache: Path | None = None

    def part(self, name: str) -> LabelledData:
        """Return one part of the split; without a split, everything."""
        return load_rows(self._named, self.split, name, self.cache)

    def parts(self, *names: str) -> list[LabelledData]:
        """Return parts of the split.

        Raises:
            InputError: without a split.
        """
        if self.split is None:
            raise InputError("got no --split; expected who may see which samples: write --split split.json")
        return load_parts(self._named, self.split, *names, cache=self.cache)

    @property
    def _named(self) -> str:
        if self.data is None:
            raise InputError("got no --data; expected labelled samples: write --data digits")
        return self.data

    def record(self) -> dict[str, Any]:
        """Return what belongs into the configuration of a run."""
        return {"data": self.data, "split": None if self.split is None else str(self.split)}


@dataclass(frozen=True)
class Computing(Group):
    """How a training is carried out.

    Attributes:
        device: cpu, cuda or mps.
        precision: of the steps; bf16-mixed for matrix products in bfloat16.
        train_only: names of the weights that are trained, like "layers.2,head": regular expressions, in whose
            brackets commas may stand.
        rank: of low-rank adapters, trained in place of the weights of linear and convolution layers: all of
            those, or the ones that --train_only names.
        micro_batches: parts of a batch that go forward and backward one after the other: less memory.
        compile: true to put losses and networks through torch.compile.

    Raises:
        InputError: for a device that this machine does not have.
    """

    device: str = "cpu"
    precision: Precision = "32-true"
    train_only: str | None = None
    rank: int | None = None
    micro_batches: int = 1
    compile: bool = False

    def __post_init__(self) -> None:
        check_device(self.device)

    def compute(self, devices: int = 1, loggers: Sequence[Any] = ()) -> Compute:
        """Return the options as the record that trainings take."""
        return Compute(
            device=self.device,
            devices=devices,
            precision=self.precision,
            micro_batches=self.micro_batches,
            compile=self.compile,
            loggers=loggers,
        )

    @property
    def patterns(self) -> list[str] | None:
        """The regular expressions of --train_only."""
        return None if self.train_only is None else split_patterns(self.train_only)

    @property
    def adapters(self) -> LowRank | None:
        """The adapters of --rank."""
        return None if self.rank is None else LowRank(self.rank)

    def record(self) -> dict[str, Any]:
        """Return what belongs into the configuration of a run: what changes more than rounding."""
        return {
            "train_only": self.train_only,
            "rank": self.rank,
            "precision": None if self.precision == "32-true" else self.precision,
        }


def split_patterns(text: str) -> list[str]:
    """Return the regular expressions in "layers.2,head"; a comma within brackets separates nothing."""
    return [part.strip() for part in split_options(text)]
