"""The interface of a method: its hyper-parameters, what it needs, what it trains, and one training step."""

from __future__ import annotations

import copy
import dataclasses
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Protocol, TypeVar

import torch
from torch import Tensor, nn

from unflow.ground.errors import InputError, require_at_least
from unflow.ground.faces import renamed
from unflow.models import Conditional, Filtered, GenerativeModel, Latent
from unflow.models.classifier import Classifier
from unflow.target import Target
from unflow.training.low_rank import LowRank

Tensors = dict[str, Tensor]
Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Everything that a method may need; ``Method.needs`` names the fields that one method needs.

    Args:
        model: a base model with fresh weights to train, or the trained model that must forget.
        target: the request (energy, strength, divergence), for methods that unlearn by it.
        data: training samples [n, *shape]; with ``labels`` [n] for classifiers.
        retain: real samples of the classes to keep.
        retain_labels: their labels [n], for conditional models.
        forget: real samples of the classes to forget.
        teacher: a trained flow to distil from.
        critic: the classifier whose features define an autoencoder's perceptual loss.
        held_out: real samples for a held-out loss; no method trains on them.
        earlier: the model that the previous training stage produced (``Training.earlier``).
        train_only: regular expressions for the names of the weights to train; None trains all weights.
        adapters: the low-rank adapters to train in place of those weights; None trains the weights.
        one_label: consent to train a network with labels at its one fixed label alone.
    """

    model: nn.Module
    target: Target | None = None
    data: Tensor | None = None
    labels: Tensor | None = None
    retain: Tensor | None = None
    retain_labels: Tensor | None = None
    forget: Tensor | None = None
    teacher: GenerativeModel | None = None
    critic: Classifier | None = None
    held_out: Tensor | None = None
    earlier: nn.Module | None = None
    train_only: tuple[str, ...] | None = None
    adapters: LowRank | None = None
    one_label: bool = False


class Part:
    """One network in training, with its loss, its optimizer, and the average of its weights.

    Args:
        loss: a module that holds ``net`` and whose ``forward`` returns the scalar loss, or a tuple of the
            loss and tensors [batch, ...] that the step needs again (``Descend.with_outputs``). The loss is
            computed inside one forward call, because that is where data-parallel wrappers
            synchronise gradients (``torch.func.jvp`` around the wrapper would skip them).
        net: the network inside ``loss`` whose parameters are trained.
        learning_rate: peak learning rate of Adam; None: the loop chooses it (``training.rates``).
        betas: Adam's decay rates of the moments.
        decay: of the exponential moving average of the weights, in [0, 1); 0 keeps no average.
    """

    def __init__(
        self,
        loss: nn.Module,
        net: nn.Module,
        learning_rate: float | None,
        betas: tuple[float, float] = (0.9, 0.999),
        decay: float = 0.0,
    ) -> None:
        self.loss, self.net, self.learning_rate, self.decay = loss, net, learning_rate, decay
        self.betas = betas
        self.start()

    def start(self) -> None:
        """Make the optimizer and the average for the parameters that the network has now.

        Call it again after a change of which parameters take gradients. The average shares the others.
        """
        # The loop sets the rate of every step.
        self.optimizer = torch.optim.Adam(self.net.parameters(), betas=self.betas, fused=True)
        fixed = {id(weight): weight for weight in self.net.parameters() if not weight.requires_grad}
        self.average = copy.deepcopy(self.net, fixed).requires_grad_(False) if self.decay else self.net
        # Listed once: collecting the parameters of all modules takes longer than averaging them.
        pairs = zip(self.average.parameters(), self.net.parameters(), strict=True)
        moving = [pair for pair in pairs if pair[1].requires_grad]
        self._averaged: list[Tensor] = [average for average, _ in moving]
        self._current: list[Tensor] = [weight for _, weight in moving]
        self._buffers = list(zip(self.average.buffers(), self.net.buffers(), strict=True))

    @property
    def networks(self) -> dict[str, nn.Module]:
        """The network in training, and the average of its weights if there is one."""
        return {"net": self.net} if self.average is self.net else {"net": self.net, "average": self.average}

    @torch.no_grad()
    def update_average(self, step: int) -> None:
        """Move the average towards the weights; the first steps use a smaller decay."""
        if self.average is not self.net:
            decay = min(self.decay, (1 + step) / (10 + step))
            torch._foreach_lerp_(self._averaged, self._current, 1 - decay)
            for old, new in self._buffers:
                old.copy_(new)


Parts = dict[str, Part]


class Descend(Protocol):
    """Evaluate the loss of a part on a batch and take one optimizer step on it."""

    def __call__(self, part: str, /, *args: Tensor | float) -> Tensor:
        """Return the loss before the step, detached."""
        ...

    def with_outputs(self, part: str, /, *args: Tensor | float) -> tuple[Tensor, ...]:
        """Return the loss and the other outputs of ``Part.loss`` for all rows, before the step, detached."""
        ...


@dataclass(frozen=True, kw_only=True)
class Method(ABC):  # noqa: B024 - its two subclasses have the abstract methods
    """Hyper-parameters of one way to train or to unlearn; either ``Trained`` or ``Untrained``."""

    needs: ClassVar[frozenset[str]] = frozenset()
    """Fields of ``Problem`` without which the method cannot run."""
    families: ClassVar[frozenset[str]] = frozenset({"flow", "flow_map", "generator"})
    """Model families that it can train or unlearn."""
    needs_conditional: ClassVar[bool] = False
    """Whether it forgets labels, so that it unlearns only conditional models."""
    trains_own_weights: ClassVar[bool] = False
    """Whether the result is the model's own network with other weights."""
    watches_held_out: ClassVar[bool] = False
    """Whether its loss on held-out retain data is recorded during training."""
    citation: ClassVar[str] = ""
    """arXiv number of the paper, an entry of docs/references.bib."""

    @property
    def needs_gradient(self) -> bool:
        """Whether it follows the gradient of the energy; if so, ``check`` refuses an energy without one."""
        return False

    @property
    def label(self) -> str:
        """Short name in tables and figures; the class name by default."""
        return type(self).__name__

    @property
    def summary(self) -> str:
        """One line on what the method does; the first line of the docstring by default."""
        return next(iter((type(self).__doc__ or "").strip().splitlines()), "")

    def reads(self, problem: Problem) -> frozenset[str]:
        """Return the fields of this problem that the method reads: ``needs`` by default."""
        return self.needs

    def check(self, problem: Problem) -> None:
        """Raise InputError, before any training, for a problem that the method cannot solve."""
        self.check_model(problem.model)
        missing = sorted(name for name in self.reads(problem) if getattr(problem, name) is None)
        if missing:
            raise InputError(
                f"{type(self).__name__} needs {' and '.join(missing)}, and the problem has none; "
                f"give {missing[0]}=…"
            )
        if self.needs_gradient and "target" in self.reads(problem):
            require_gradient(problem, type(self).__name__)

    def check_model(self, model: nn.Module) -> None:
        """Raise InputError for a model that the method does not train."""
        if isinstance(model, Filtered):
            raise InputError(
                f"got a filtered model for {type(self).__name__}; expected the model inside, which is the "
                "original: unlearn that, by both energies together (A | B)"
            )
        if isinstance(model, Latent):
            raise InputError(
                f"got a latent model for {type(self).__name__}; expected its inner model, which `unlearn` "
                "takes by itself"
            )
        if isinstance(model, GenerativeModel) and model.family not in self.families:
            raise InputError(
                f"{type(self).__name__} does not train models of the family {model.family}; expected "
                f"{' or '.join(sorted(self.families))}"
            )
        if self.needs_conditional and not isinstance(model, Conditional):
            raise InputError(
                f"got a model without conditions for {type(self).__name__}, which forgets a label; expected "
                "a conditional model: declare label=random:10 in the specification of the model"
            )


@dataclass(frozen=True, kw_only=True)
class Untrained(Method):
    """A method that computes the model directly, without training."""

    @abstractmethod
    def make(self, problem: Problem, generator: torch.Generator) -> nn.Module:
        """Return the model."""


@dataclass(frozen=True, kw_only=True)
class Trained(Method):
    """A method that trains a network; ``fit`` runs the loop.

    Attributes:
        steps: optimizer steps, >= 1.
        batch_size: samples per step, summed over all devices, >= 1.
        learning_rate: peak learning rate, > 0; it rises over the first 5 % of the steps and then falls as
            a cosine to 0. None (methods whose default is None, flow matching, distillation): a range test
            of 5 % of the steps chooses it for this network, and a run whose loss rises to twice its start
            begins again at a third of the rate.
    """

    steps: int = 1000
    batch_size: int = 128
    learning_rate: float | None = 1e-3

    shares_batches: ClassVar[bool] = True
    """Whether the loss is a mean over rows, so that devices or micro-batches may share a batch."""
    reads_weights: ClassVar[bool] = False
    """Whether the method reads single weights of the model, so that adapters cannot replace them."""
    trains_own_weights: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_at_least(self, steps=1, batch_size=1)
        rate = self.learning_rate
        if rate is None and isinstance(self, Training) and not (self.falling_loss or self.scales_rate):
            raise InputError(
                f"got learning_rate=None for {type(self).__name__}, whose losses do not rank rates; expected "
                "a number > 0"
            )
        if rate is not None and not (rate > 0 and math.isfinite(rate)):
            raise InputError(f"got learning_rate={rate}; expected a number > 0")

    @abstractmethod
    def training(self, problem: Problem, seed: int) -> tuple[Training, Problem]:
        """Return the training loop for a model of this family, and the problem that it solves."""


@dataclass(frozen=True, kw_only=True)
class Training(Trained):
    """A method with a training loop of its own: what to draw, what to train, and one step."""

    keeps_prepared: ClassVar[bool] = False
    """Whether a resumed run reads the result of ``prepare`` from disk."""
    falling_loss: ClassVar[str] = ""
    """The loss that a sound training lowers: a range test compares rates by it, and a rise means divergence.
    "" for a training without such a loss, like that of two adversaries; it needs a learning rate."""
    scales_rate: ClassVar[bool] = False
    """Whether the method takes a missing learning rate from the size of the weights (``scale_rate``)."""
    derivatives: ClassVar[frozenset[str]] = frozenset({"weights"})
    """Derivatives of a network of the model's architecture by "weights", "latents" or "times"."""

    def training(self, problem: Problem, seed: int) -> tuple[Training, Problem]:
        """Return itself."""
        return self, problem

    def earlier(self, problem: Problem) -> Training | None:
        """Return the stage before this one, whose model becomes ``problem.earlier``; None by default.

        That stage has its own seed, log and checkpoints, and no earlier stage.
        """
        return None

    def check(self, problem: Problem) -> None:
        """Raise InputError, before any training, for a problem that this or the earlier stage cannot take."""
        super().check(problem)
        first = self.earlier(problem)
        if first is not None:
            first.check(problem)

    def uncompilable(self) -> str:
        """Return a phrase for the part of the loss that torch.compile cannot compile; "" if there is none."""
        return ""

    def schedule(self, step: int) -> float:
        """Return the learning rate at ``step`` relative to its peak, in (0, 1]."""
        warmup = max(1, self.steps // 20)
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, self.steps - warmup)))

    @abstractmethod
    def prepare(self, problem: Problem, generator: torch.Generator) -> Tensors:
        """Return the fixed tensors that batches are drawn from (banks, pairs, datasets)."""

    @abstractmethod
    def init(self, problem: Problem, prepared: Tensors, seed: int) -> Parts:
        """Return the networks to train, by name."""

    @abstractmethod
    def draw(self, prepared: Tensors, generator: torch.Generator) -> Tensors:
        """Return one batch for all devices together; every tensor has batch_size rows."""

    @abstractmethod
    def step(self, parts: Parts, batch: Tensors, descend: Descend, progress: float) -> Tensors:
        """Take one training step on this device's rows, at ``progress`` in [0, 1); return named losses."""

    @abstractmethod
    def result(self, problem: Problem, parts: Parts) -> nn.Module:
        """Return the trained model."""

    def held_out_loss(self, problem: Problem, parts: Parts) -> float | None:
        """Return the loss on ``problem.held_out``, or None if the training has no such loss."""
        return None

    def facts(self, prepared: Tensors) -> dict[str, float | None]:
        """Return numbers about the prepared tensors for the lineage; none by default."""
        return {}


def draw_rows(n: int, batch_size: int, generator: torch.Generator) -> Tensor:
    """Return batch_size row numbers below n, drawn with replacement."""
    return torch.randint(n, (batch_size,), generator=generator)


def draw_weighted(x: Tensor, weight: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """Return n rows of x drawn with probability ∝ weight, with replacement."""
    cumulative = weight.double().cumsum(0).cpu()
    uniform = torch.rand(n, generator=generator, dtype=torch.float64) * cumulative[-1]
    return x[torch.searchsorted(cumulative, uniform).clamp(max=len(x) - 1).to(x.device)]


def select_prefix(tensors: Tensors, prefix: str) -> Tensors:
    """Return the tensors whose names begin with ``prefix``, named without it."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def target_of(problem: Problem) -> Target:
    """Return the problem's target; ``check`` has made sure that there is one."""
    assert problem.target is not None
    return problem.target


def model_of(problem: Problem) -> GenerativeModel:
    """Return the problem's model, a generative model."""
    assert isinstance(problem.model, GenerativeModel)
    return problem.model


def start_of(problem: Problem) -> GenerativeModel:
    """Return the model that G starts at: the original, or the result of the earlier stage."""
    if problem.earlier is None:
        return model_of(problem)
    assert isinstance(problem.earlier, GenerativeModel)
    return problem.earlier


KNOWN: dict[str, Method] = {}
"""Row name -> method, for suggestions in error messages; ``unflow.methods`` adds ``UNLEARNERS``."""


def find_gradient_free() -> dict[str, list[str]]:
    """Return kind of model -> names of known methods that take any energy, also one without gradient."""
    kinds = {"one-step models": "flow_map", "flows": "flow"}
    free = {name: each for name, each in KNOWN.items() if "target" in each.needs and not each.needs_gradient}
    free = {name: each for name, each in free.items() if not each.needs_conditional}
    return {kind: [name for name in free if family in free[name].families] for kind, family in kinds.items()}


def require_gradient(problem: Problem, what: str) -> None:
    """Raise InputError for an energy without gradient; ``what`` names the method that needs one."""
    energy = target_of(problem).energy
    if not energy.differentiable:
        rows = "; ".join(f"{', '.join(names)} for {kind}" for kind, names in find_gradient_free().items())
        raise InputError(
            f"{what} follows the gradient of the energy, and this energy has none ({energy.describe()}); "
            f"expected a differentiable energy, or a method that takes any energy: write one of {rows}"
        )


def require_batch(n: int, batch_size: int, what: str) -> None:
    """Raise InputError for fewer than one or fewer than batch_size samples; ``what`` names the samples."""
    if n < 1:
        raise InputError(f"got {n} {what}; expected 1 or more")
    if batch_size > n:
        raise InputError(
            f"got batch_size={batch_size} for {n} {what}; expected a batch no larger than the data: "
            f"write batch_size={n} or less"
        )


def require_unlabelled(problem: Problem, purpose: str) -> None:
    """Raise InputError for a labelled model, whose network needs a label, which ``purpose`` does not have."""
    if isinstance(problem.model, Conditional):
        raise InputError(
            f"got a labelled model for {purpose}, which knows no labels; expected a method that only draws "
            "its samples: write erfm_resample for a flow, uot_tilted or latent_transport for a flow map"
        )


def drop_labels(label: Tensor, null: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Return labels [n] of which each is replaced by the null condition, [1], with probability ``share``."""
    dropped = torch.rand(len(label), generator=generator).to(label.device) < share
    return torch.where(dropped, null, label)


def check_share(share: float, name: str) -> None:
    """Raise InputError for a share outside [0, 1); ``name`` is that of the hyper-parameter."""
    if not 0 <= share < 1:
        raise InputError(f"got {name}={share}; expected a number from 0 to below 1")


def trainable_copy(module: Module) -> Module:
    """Return a copy in training mode whose parameters take gradients, except those that the owner has fixed.

    A module in which no parameter takes a gradient was frozen for evaluation as a whole, and is trained.
    """
    copied = copy.deepcopy(module).train()
    return copied if fixed_names(copied) else copied.requires_grad_(True)


def fixed_names(module: nn.Module) -> frozenset[str]:
    """Return the names of the parameters without a gradient, in a module where others take one."""
    fixed = {name for name, weight in module.named_parameters() if not weight.requires_grad}
    return frozenset(fixed) if len(fixed) < sum(1 for _ in module.parameters()) else frozenset()


def as_method(value: object) -> Method:
    """Return the method that an entry point of the group unflow.methods names.

    Args:
        value: a method, or a class or function that returns one when called without arguments.

    Raises:
        TypeError: for any other object, and for a method with a hyper-parameter without default.
    """
    method = value() if callable(value) else value
    if not isinstance(method, Method):
        raise TypeError(f"it is a {type(method).__name__}, not a Method")
    type(method)()  # a finished result is compared with the defaults of its method
    return method


def settings(method: Method) -> dict[str, object]:
    """Return a method's hyper-parameters as plain data."""
    return dataclasses.asdict(method)


__all__ = [
    "Descend",
    "Method",
    "Part",
    "Parts",
    "Problem",
    "Tensors",
    "Trained",
    "Training",
    "Untrained",
    "as_method",
    "check_share",
    "draw_rows",
    "draw_weighted",
    "drop_labels",
    "fixed_names",
    "model_of",
    "require_batch",
    "require_gradient",
    "require_unlabelled",
    "select_prefix",
    "settings",
    "start_of",
    "target_of",
    "trainable_copy",
]


__getattr__ = renamed(__name__, {"under": "select_prefix"})
