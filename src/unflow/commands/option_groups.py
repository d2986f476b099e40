"""Options that several commands share: the model, the request, labelled samples, and the training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from unflow.commands.arguments import OptionGroup, parse_classes
from unflow.commands.class_names import has_names, number_classes
from unflow.ground.errors import InputError

if TYPE_CHECKING:  # the help of a command must not wait for torch
    from unflow.data import LabelledData
    from unflow.foreign import Specification
    from unflow.models import GenerativeModel
    from unflow.target import Target
    from unflow.training.compute import Compute
    from unflow.training.low_rank import LowRank


@dataclass(frozen=True)
class ModelOptions(OptionGroup):
    """The model that forgets.

    Attributes:
        model: folder of a bundle; pretrained:ORG/NAME@REVISION for a bundle on the Hugging Face Hub; or the
            specification of a third-party model (see docs/your-model.md):
            generator:PACKAGE.MODULE:FUNCTION@WEIGHTS,prior=normal:64,range=0:1;
            flow:...,shape=3x32x32,call=x/t,noise_at=1; flow_map:...; diffusers:DIR.
        weights: weights of a third-party model, instead of @WEIGHTS in its specification.
        prior: prior of a third-party generator, like normal:64, instead of prior= in its specification.
        autoencoder: bundle of the autoencoder that decodes the samples of a model of latents, instead of
            decoder= in its specification.
    """

    model: str
    weights: Path | None = None
    prior: str | None = None
    autoencoder: str | None = None

    @cached_property
    def source(self) -> str | Specification:
        """The bundle, or the specification with its weights and prior."""
        from unflow.foreign import add_options

        return add_options(self.model, self.weights, self.prior)

    def load(self, trust_code: bool) -> GenerativeModel:
        """Return the model."""
        from unflow.foreign import load_whole

        return load_whole(self.source, self.autoencoder, trust_code)

    def record(self) -> dict[str, Any]:
        """Return the options as config.yaml records them."""
        decoder = {} if self.autoencoder is None else {"autoencoder": self.autoencoder}
        return {"model": str(self.source), **decoder}


@dataclass(frozen=True)
class RequestOptions(OptionGroup):
    """The request: what to forget, and how strongly.

    Attributes:
        energy: classifier:DIR, the bundle of the guide; or another specification (see docs/your-model.md):
            classifier:PACKAGE.MODULE:FUNCTION@WEIGHTS,range=0:1,shape=784; onnx:FILE;
            estimator:PACKAGE.MODULE:FUNCTION or estimator:FILE.joblib; score:PACKAGE.MODULE:FUNCTION;
            images:FOLDER,extractor=DIR; label:3 or prompt:NAME, what a conditional model draws when it is
            asked for it, without a guide.
        forget: classes to forget, like 3 or 3,5, or by name, like cat; required if the energy has classes, by
            judges, and to select real samples.
        margin: margin of the energy in nats, >= 0.
        strength: strength lam of the request, >= 0.
        divergence: divergence that keeps the target near the original.
        replace: what a conditional model draws when it is asked for what it has forgotten: retained (samples
            of all retained conditions), nearest (the nearest of them), label:5 or prompt:"a truck"
            (those of one condition), null (those of no condition) or noise.
        trust_code: true to let bundles run the third-party functions that they name, and files of estimators
            the code in them.
    """

    energy: str | None = None
    forget: str | None = None
    margin: float = 4.0
    strength: float = 1.0
    divergence: Literal["kl", "softplus", "chi2"] = "kl"
    replace: str = "retained"
    trust_code: bool = False

    @property
    def classes(self) -> tuple[int, ...] | None:
        """The classes to forget; None where none were given."""
        return None if self.forget is None else parse_classes(self.forget)

    def require_classes(self, purpose: str) -> tuple[int, ...]:
        """Return the classes to forget.

        Raises:
            InputError: where none were given; ``purpose`` names what needs them.
        """
        if self.classes is None:
            raise InputError(f"got no --forget, and {purpose} needs classes; expected them: write --forget 3")
        return self.classes

    @cached_property
    def specification(self) -> Specification:
        """The specification of the energy.

        Raises:
            InputError: without an energy; as ``parse_energy``.
        """
        from unflow.foreign import parse_energy

        if self.energy is None:
            raise InputError("got no --energy; expected what to forget: write --energy classifier:DIR")
        return parse_energy(self.energy)

    def with_numbers(self, rows: DataOptions, judge: Sequence[str] | None = None) -> RequestOptions:
        """Return the request with the numbers of classes that it gives by name.

        The names are those of the energy's classifier, or else of the judge or the labelled samples.

        Args:
            rows: labelled samples.
            judge: class names of a judge.

        Raises:
            InputError: for a name that no class has; as ``list_class_names``.
        """
        from unflow.foreign import list_class_names
        from unflow.unlearning.sight import is_anonymous

        if self.forget is None or not has_names(self.forget):
            return self
        names = None if self.energy is None else list_class_names(self.specification, self.trust_code)
        owner = "the guide"
        if is_anonymous(names) and judge is not None:
            names, owner = list(judge), "the judge"
        if is_anonymous(names) and rows.data is not None:
            names, owner = rows.part("train").class_names, f"the data {rows.data}"
        return replace(self, forget=",".join(map(str, number_classes(self.forget, names, owner))))

    def target(self, model: GenerativeModel, is_read: bool = True) -> Target:
        """Return the target of the request for a model.

        Args:
            model: the model that forgets.
            is_read: whether the method reads the energy; if not, the request needs none.

        Raises:
            InputError: as ``specification`` and ``load_energy``.
        """
        from unflow.energies.unread import Unread
        from unflow.foreign import load_energy
        from unflow.mathematics.divergences import DIVERGENCES
        from unflow.target import Target

        if self.energy is None and not is_read:
            words = "no class" if self.classes is None else f"class {' or '.join(map(str, self.classes))}"
            return Target(model, Unread(words), self.strength, DIVERGENCES[self.divergence](), self.replace)
        F = load_energy(self.specification, self.classes, self.margin, model, self.trust_code)
        return Target(model, F, self.strength, DIVERGENCES[self.divergence](), self.replace)

    def record(self) -> dict[str, Any]:
        """Return the options as config.yaml records them."""
        return {
            "energy": self.energy,
            "forget": None if self.classes is None else list(self.classes),
            "margin": self.margin,
            "strength": self.strength,
            "divergence": self.divergence,
            **({} if self.replace == "retained" else {"replace": self.replace}),
        }


@dataclass(frozen=True)
class DataOptions(OptionGroup):
    """Labelled samples.

    Attributes:
        data: digits, mnist:DIR, cifar10:DIR, cifar100:DIR, idx:DIR, folder:DIR@32 or npz:FILE.
        split: split.json, which says which samples train, judge and measure.
        cache: folder that keeps decoded samples for later commands; it changes no result.
    """

    data: str | None = "digits"
    split: Path | None = None
    cache: Path | None = None

    def all(self) -> LabelledData:
        """Return all samples, whatever the split."""
        from unflow.training.originals.base_models import load_rows

        return load_rows(self._require_data(), None, "", self.cache)

    def part(self, name: str) -> LabelledData:
        """Return the samples in one part of the split; without a split, all samples."""
        from unflow.training.originals.base_models import load_rows

        return load_rows(self._require_data(), self.split, name, self.cache)

    def parts(self, *names: str) -> list[LabelledData]:
        """Return the samples in parts of the split.

        Raises:
            InputError: without a split.
        """
        from unflow.training.originals.base_models import load_parts

        if self.split is None:
            raise InputError(
                "got no --split; expected the file that `unflow split` wrote: write --split split.json"
            )
        return load_parts(self._require_data(), self.split, *names, cache=self.cache)

    def _require_data(self) -> str:
        if self.data is None:
            raise InputError("got no --data; expected labelled samples: write --data digits")
        return self.data

    def record(self) -> dict[str, Any]:
        """Return the options as config.yaml records them."""
        return {"data": self.data, "split": None if self.split is None else str(self.split)}


@dataclass(frozen=True)
class TrainingOptions(OptionGroup):
    """How the training runs.

    Attributes:
        device: cpu, cuda or mps.
        precision: precision of the steps; bf16-mixed computes matrix products in bfloat16.
        train_only: names of the weights to train, like "layers.2,head"; regular expressions, separated by
            commas outside of brackets.
        rank: rank of low-rank adapters, trained instead of the weights of all linear and convolution layers,
            or of those that --train_only names.
        micro_batches: parts of a batch that are processed one after the other, which takes less memory.
        compile: true to use torch.compile for losses and networks.
        one_label: true to train the own weights of a network with labels at its one fixed label, which
        changes
            in an unknown way what it draws at its other labels.

    Raises:
        InputError: for a device that this machine does not have.
    """

    device: str = "cpu"
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    train_only: str | None = None
    rank: int | None = None
    micro_batches: int = 1
    compile: bool = False
    one_label: bool = False

    def __post_init__(self) -> None:
        if self.device == "cpu":
            return
        from unflow.training.compute import check_device

        check_device(self.device)

    def compute(self, devices: int = 1, loggers: Sequence[Any] = ()) -> Compute:
        """Return the options as the record that trainings take."""
        from unflow.training.compute import Compute

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
        from unflow.training.low_rank import LowRank

        return None if self.rank is None else LowRank(self.rank)

    def record(self) -> dict[str, Any]:
        """Return the options that change more than rounding, as config.yaml records them."""
        return {
            "train_only": self.train_only,
            "rank": self.rank,
            "precision": None if self.precision == "32-true" else self.precision,
        }


def split_patterns(text: str) -> list[str]:
    """Return the regular expressions in "layers.2,head"; a comma within brackets separates nothing."""
    from unflow.foreign.specification import split_options

    return [part.strip() for part in split_options(text)]
