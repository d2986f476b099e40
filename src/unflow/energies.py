"""What to forget: an energy F(x), one number per sample, larger where forgetting is wanted more.

Energies form an algebra, and the algebra is about requests:

    A | B   forget A or B: the sum (weights exp(-F) multiply)
    A & B   forget only what is both: the minimum
    -A      forget everything but A
    2 * A   the same request, pressed twice as hard

Sums of *raw* log-odds cancel (a sure A is a sure not-B), so the union refuses unbounded energies:
bound them first with ``Softplus`` or the ``margin`` of ``ClassLogOdds``.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Protocol, cast

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from unflow.errors import InputError


class Energy(nn.Module, ABC):
    """F: [batch, *shape] -> [batch], in nats; a module, so that it moves between devices with the rest."""

    @property
    @abstractmethod
    def lower_bound(self) -> float:
        """The largest number known to lie under every F(x); -inf when there is none."""

    @property
    def differentiable(self) -> bool:
        """Whether dF/dx is available (methods that need it say so before training)."""
        return True

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Return F(x), shape [batch]."""

    def describe(self) -> str:
        """Return the request in words, for lineage and reports."""
        return type(self).__name__

    def __or__(self, other: Energy) -> Energy:
        return Sum([self, other])

    def __and__(self, other: Energy) -> Energy:
        return Minimum([self, other])

    def __neg__(self) -> Energy:
        return Negative(self)

    def __mul__(self, factor: float) -> Energy:
        return Scaled(self, factor)

    __rmul__ = __mul__


def frozen(module: nn.Module) -> nn.Module:
    """Return a copy of ``module`` in evaluation mode whose parameters take no gradient."""
    return copy.deepcopy(module).eval().requires_grad_(False)


class ClassLogOdds(Energy):
    r"""Log-odds that a classifier gives to the classes to forget; with a margin, bounded below by 0.

        L(x) = log p(forget | x) - log p(rest | x),    F = softplus(L + margin) >= 0

    so that exp(-F) = sigmoid(-(L + margin)); ``margin=None`` gives the raw L. For a calibrated
    classifier, margin 0 and strength 1 the KL target is exactly the law of the retained classes
    (arXiv 2506.18747, Proposition B.1). A margin also drops samples *between* classes, of which the
    classifier is wrongly sure.

    Args:
        classifier: maps [batch, *shape] to logits [batch, num_classes].
        forget: class index or indices, at least one, not all.
        margin: >= 0, in nats; None for the unbounded log-odds.

    Raises:
        InputError: for an empty or repeated request, and (on the first call) for unknown classes, a
            request that names every class, or logits of the wrong shape.
    """

    def __init__(
        self, classifier: nn.Module, forget: int | Sequence[int], margin: float | None = 0.0
    ) -> None:
        super().__init__()
        forget = [forget] if isinstance(forget, int) else list(forget)
        if not forget or len(set(forget)) != len(forget):
            raise InputError(f"got forget={forget}; expected at least one class and none twice, like [3]")
        if margin is not None:
            check_margin(margin)
        self.classifier = frozen(classifier)
        self.forget = tuple(int(k) for k in forget)
        self.margin = margin

    @property
    def lower_bound(self) -> float:
        """0 with a margin, -inf for raw log-odds."""
        return -math.inf if self.margin is None else 0.0

    def forward(self, x: Tensor) -> Tensor:
        """Return the log-odds, bounded below if there is a margin; shape [batch]."""
        logits = self.classifier(x)
        if logits.ndim != 2 or len(logits) != len(x):
            raise InputError(
                f"the classifier returned shape {list(logits.shape)} for {len(x)} samples; "
                f"expected [{len(x)}, num_classes] logits"
            )
        check_classes(self.forget, logits.shape[1])
        inside = torch.zeros(logits.shape[1], dtype=torch.bool, device=logits.device)
        inside[list(self.forget)] = True
        log_odds = logits[:, inside].logsumexp(1) - logits[:, ~inside].logsumexp(1)
        return log_odds if self.margin is None else nnf.softplus(log_odds + self.margin)

    def describe(self) -> str:
        """Return which classes are forgotten."""
        bound = "raw log-odds" if self.margin is None else f"margin {self.margin:g}"
        return f"class {' or '.join(map(str, self.forget))} ({bound})"


def check_margin(margin: float) -> None:
    """Raise InputError for a margin that is negative or not finite."""
    if not 0 <= margin < math.inf:
        raise InputError(f"got margin={margin}; expected a finite number >= 0")


def check_classes(forget: Sequence[int], num_classes: int) -> None:
    """Raise InputError unless ``forget`` names known classes, and not all of them."""
    unknown = [k for k in forget if not 0 <= k < num_classes]
    if unknown:
        raise InputError(f"got class {unknown[0]} to forget; expected classes from 0 to {num_classes - 1}")
    if len(set(forget)) == num_classes:
        raise InputError(
            f"got a request to forget all {num_classes} classes; "
            "expected at least one class to be retained: name fewer"
        )


class Region(Energy):
    """A constant ``height`` inside a region and 0 outside: F(x) = height * 1[contains(x)].

    Args:
        contains: maps [batch, *shape] to booleans [batch].
        height: > 0 and finite, in nats; exp(-height) of the density is left inside at strength 1.
    """

    def __init__(self, contains: Callable[[Tensor], Tensor], height: float = 20.0) -> None:
        super().__init__()
        if not (height > 0 and math.isfinite(height)):
            raise InputError(f"got height={height} for a region; expected a finite number > 0")
        self.contains, self.height = contains, height

    @property
    def lower_bound(self) -> float:
        """0, the value outside."""
        return 0.0

    @property
    def differentiable(self) -> bool:
        """False: the gradient of an indicator is 0 almost everywhere."""
        return False

    def forward(self, x: Tensor) -> Tensor:
        """Return height or 0, shape [batch]."""
        return self.height * self.contains(x).to(x.dtype)

    def describe(self) -> str:
        """Return the region's height."""
        return f"a region (height {self.height:g})"


class CallableEnergy(Energy):
    """Any function of a batch, with what must be known about it stated by its owner.

    Args:
        function: maps [batch, *shape] to [batch]; a module is copied and frozen.
        lower_bound: a number under every value; -inf if there is none.
        differentiable: False for a black box; its output is then taken without gradient.
    """

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        lower_bound: float = -math.inf,
        differentiable: bool = True,
    ) -> None:
        super().__init__()
        self.function = frozen(function) if isinstance(function, nn.Module) else function
        self._lower_bound, self._differentiable = lower_bound, differentiable

    @property
    def lower_bound(self) -> float:
        """As stated by the owner."""
        return self._lower_bound

    @property
    def differentiable(self) -> bool:
        """As stated by the owner."""
        return self._differentiable

    def forward(self, x: Tensor) -> Tensor:
        """Return function(x), shape [batch]."""
        if self._differentiable:
            return self.function(x)
        with torch.no_grad():
            return self.function(x)

    def describe(self) -> str:
        """Return the name of the function."""
        return f"callable {getattr(self.function, '__name__', type(self.function).__name__)}"


class Softplus(Energy):
    """The bounded version of an energy: softplus(F + margin) >= 0."""

    def __init__(self, energy: Energy, margin: float = 0.0) -> None:
        super().__init__()
        check_margin(margin)
        self.energy, self.margin = energy, margin

    @property
    def lower_bound(self) -> float:
        """softplus(lower bound + margin)."""
        bound = self.energy.lower_bound + self.margin
        return float(nnf.softplus(torch.tensor(bound, dtype=torch.float64)))

    @property
    def differentiable(self) -> bool:
        """As the inner energy."""
        return self.energy.differentiable

    def forward(self, x: Tensor) -> Tensor:
        """Return softplus(F(x) + margin)."""
        return nnf.softplus(self.energy(x) + self.margin)

    def describe(self) -> str:
        """Return the inner request and the margin."""
        return f"{self.energy.describe()} (softplus, margin {self.margin:g})"


class Decoder(Protocol):
    """What turns latents into samples, as ``Autoencoder`` does."""

    def decode(self, latents: Tensor) -> Tensor:
        """Return samples [batch, *shape] of latents [batch, *latent_shape]."""
        ...


class Decoded(Energy):
    """An energy of samples as an energy of latents: F(decode(z)).

    Args:
        energy: F of samples.
        autoencoder: a module with ``decode``; it is copied and frozen.
    """

    def __init__(self, energy: Energy, autoencoder: nn.Module) -> None:
        super().__init__()
        self.energy, self.autoencoder = energy, frozen(autoencoder)

    @property
    def lower_bound(self) -> float:
        """As the inner energy."""
        return self.energy.lower_bound

    @property
    def differentiable(self) -> bool:
        """As the inner energy."""
        return self.energy.differentiable

    def forward(self, x: Tensor) -> Tensor:
        """Return F(decode(x)) for latents x."""
        return self.energy(cast(Decoder, self.autoencoder).decode(x))

    def describe(self) -> str:
        """Return the inner request."""
        return f"{self.energy.describe()}, decoded"


class Balanced(Energy):
    r"""An energy with offsets that decide how much of each retained class the target keeps.

        F_b(x) = F(x) - sum_k b_k p(k | x, retained)

    A request takes most from the retained classes that look like the forgotten ones. The offsets for
    which no class loses its share are Lagrange multipliers; ``calibration.balanced`` finds them.

    Args:
        energy: F.
        classifier: maps [batch, *shape] to logits [batch, num_classes].
        forget: classes to forget, over which p(k | x, retained) is conditioned out.
        offsets: b, one per retained class in their order, in nats.

    Raises:
        InputError: for offsets that are not finite, or (on the first call) not one per retained class.
    """

    offsets: Tensor

    def __init__(
        self, energy: Energy, classifier: nn.Module, forget: Sequence[int], offsets: Sequence[float]
    ) -> None:
        super().__init__()
        if not all(map(math.isfinite, offsets)):
            raise InputError(f"got the offsets {list(offsets)}; expected finite numbers")
        self.energy, self.classifier = energy, frozen(classifier)
        self.forget = tuple(int(k) for k in forget)
        self.register_buffer("offsets", torch.tensor(list(offsets), dtype=torch.float32))

    @property
    def lower_bound(self) -> float:
        """The inner bound minus the largest offset."""
        return self.energy.lower_bound - float(self.offsets.max())

    @property
    def differentiable(self) -> bool:
        """As the inner energy."""
        return self.energy.differentiable

    def forward(self, x: Tensor) -> Tensor:
        """Return F(x) - sum_k b_k p(k | x, retained)."""
        probabilities = retained_probabilities(self.classifier(x), self.forget)
        if probabilities.shape[1] != len(self.offsets):
            raise InputError(
                f"got {len(self.offsets)} offsets for {probabilities.shape[1]} retained classes; expected "
                "one each"
            )
        F = self.energy(x) - probabilities @ self.offsets.to(probabilities)
        return F if self.differentiable else F.detach()  # the gradient of the offsets is none of F

    def describe(self) -> str:
        """Return the inner request, and that classes are balanced."""
        return f"{self.energy.describe()}, balanced"


def retained_probabilities(logits: Tensor, forget: Sequence[int]) -> Tensor:
    """Return p(k | x, retained) for the classes that are not forgotten, [batch, retained classes]."""
    kept = [k for k in range(logits.shape[1]) if k not in set(forget)]
    return logits[:, kept].softmax(1)


class Negative(Energy):
    """-F: forget everything but what F names. Bounded only if F is; see ``Softplus``."""

    def __init__(self, energy: Energy) -> None:
        super().__init__()
        self.energy = energy

    @property
    def lower_bound(self) -> float:
        """-inf: no upper bound of F is known."""
        return -math.inf

    @property
    def differentiable(self) -> bool:
        """As the inner energy."""
        return self.energy.differentiable

    def forward(self, x: Tensor) -> Tensor:
        """Return -F(x)."""
        return -self.energy(x)

    def describe(self) -> str:
        """Return the inverted request."""
        return f"not ({self.energy.describe()})"


class Scaled(Energy):
    """factor * F, for a factor >= 0."""

    def __init__(self, energy: Energy, factor: float) -> None:
        super().__init__()
        if not factor >= 0:
            raise InputError(
                f"got the factor {factor} for an energy; expected a number >= 0 "
                "(write -energy to invert a request)"
            )
        self.energy, self.factor = energy, factor

    @property
    def lower_bound(self) -> float:
        """Factor times the inner bound."""
        return self.factor * self.energy.lower_bound if self.factor else 0.0

    @property
    def differentiable(self) -> bool:
        """As the inner energy."""
        return self.energy.differentiable

    def forward(self, x: Tensor) -> Tensor:
        """Return factor * F(x)."""
        return self.factor * self.energy(x)

    def describe(self) -> str:
        """Return the factor and the inner request."""
        return f"{self.factor:g} x {self.energy.describe()}"


class _Many(Energy):
    """Several energies of the same samples."""

    def __init__(self, energies: Sequence[Energy]) -> None:
        super().__init__()
        if len(energies) < 2:
            raise InputError(f"got {len(energies)} energies to combine; expected two or more")
        self.energies = nn.ModuleList(energies)

    @property
    def parts(self) -> list[Energy]:
        return [energy for energy in self.energies if isinstance(energy, Energy)]

    @property
    def differentiable(self) -> bool:
        return all(energy.differentiable for energy in self.parts)

    def values(self, x: Tensor) -> Tensor:
        F = torch.stack([energy(x) for energy in self.parts])
        return F if self.differentiable else F.detach()  # the gradient of some parts is none of the whole


class Sum(_Many):
    """Union of requests: F = F_1 + ... + F_k, so that the weights exp(-F_i) multiply.

    Raises:
        InputError: for energies without a lower bound, whose sum would cancel.
    """

    def __init__(self, energies: Sequence[Energy]) -> None:
        super().__init__(energies)
        for energy in self.parts:
            require_bounded(energy, "a union of requests")

    @property
    def lower_bound(self) -> float:
        """The sum of the bounds."""
        return sum(energy.lower_bound for energy in self.parts)

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum, shape [batch]."""
        return self.values(x).sum(0)

    def describe(self) -> str:
        """Return the requests joined by 'or'."""
        return " or ".join(energy.describe() for energy in self.parts)


class Minimum(_Many):
    """Intersection of requests: F = min(F_1, ..., F_k), large only where every part is."""

    @property
    def lower_bound(self) -> float:
        """The least of the bounds."""
        return min(energy.lower_bound for energy in self.parts)

    def forward(self, x: Tensor) -> Tensor:
        """Return the minimum, shape [batch]."""
        return self.values(x).amin(0)

    def describe(self) -> str:
        """Return the requests joined by 'and'."""
        return " and ".join(energy.describe() for energy in self.parts)


def require_bounded(energy: Energy, purpose: str) -> None:
    """Raise InputError if ``energy`` has no lower bound."""
    if energy.lower_bound == -math.inf:
        raise InputError(
            f"got an energy without a lower bound ({energy.describe()}) for {purpose}; expected one "
            "that is bounded below: give ClassLogOdds a margin, or wrap it in energies.Softplus"
        )


def require_finite(F: Tensor) -> None:
    """Raise InputError if an energy of samples [n] is NaN or infinite for any."""
    if not torch.isfinite(F).all():
        raise InputError(
            f"the energy is NaN or infinite for {int((~torch.isfinite(F)).sum())} of {len(F)} "
            "samples; expected finite numbers: check the classifier or callable behind it"
        )


def evaluate(energy: Energy, x: Tensor, batch_size: int = 4096) -> Tensor:
    """Return F at many samples without gradient, and refuse what cannot be an energy.

    Raises:
        InputError: for a wrong shape, NaN or infinite values, a constant (which names nothing), or
            a value under the stated lower bound.
    """
    with torch.no_grad():
        values = [energy(chunk) for chunk in x.split(batch_size)]
    for chunk, value in zip(x.split(batch_size), values, strict=True):
        if value.shape != (len(chunk),):
            raise InputError(
                f"the energy returned shape {list(value.shape)} for {len(chunk)} samples; "
                f"expected [{len(chunk)}], one number per sample"
            )
    F = torch.cat(values)
    require_finite(F)
    if len(F) > 1 and float(F.max() - F.min()) == 0.0:
        raise InputError(
            f"the energy is the same number ({float(F[0]):.4g}) for all {len(F)} samples; expected it "
            "to differ between what to forget and what to keep"
        )
    bound = energy.lower_bound
    if len(F) and float(F.min()) < bound - 1e-4 * (1 + abs(bound)):
        raise InputError(
            f"the energy is {float(F.min()):.4g} for one of {len(F)} samples, under its stated "
            f"lower bound {bound:.4g}; expected a lower_bound that lies under every value"
        )
    return F
