"""Conditional: a model of labels or prompts, whose latents include the condition."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unflow.ground.errors import InputError, suggest
from unflow.models.base import Askable, GenerativeModel
from unflow.models.chain import Chain
from unflow.models.flow import Flow
from unflow.models.flow_map import FlowMap
from unflow.models.generator import Generator
from unflow.nets.adapted import Adapted
from unflow.nets.conditioned import AdaptedGenerator
from unflow.nets.velocity import AdaptedVelocity

T = TypeVar("T")

NULL_ENTRY = 1e4
"""The last entry of a latent that asks for the null condition; a normal number never reaches it."""
EDGE = 1e-3
"""Smallest distance of a quantile within a condition from its ends, because of rounding."""
NULL = "null"
"""The name of the null condition, where a label is expected."""
RESERVED = (NULL, "random")
"""What no condition may be called: the words for the null condition, and for conditions at random."""


class Conditional(Askable):
    r"""x = G(noise; c): a condition c for each sample, the same over its whole trajectory.

        z = (noise, u),    c = k where Phi^-1(p_0 + ... + p_(k-1)) < u <= Phi^-1(p_0 + ... + p_k)

    Conditions are class indices, or rows of the network's table (text embeddings; ``Adapted``). They may have
    names, such as classes or prompts. u is one more normal entry of a latent, so c is a function of z alone,
    exactly independent of the noise: everything that needs only latents of one shape takes this model as it
    is, and its law is the mixture of all conditions. The gradient along u is zero. An entry u from
    ``NULL_ENTRY`` on asks for the null condition.

    With the null condition, a flow samples at a guidance scale g:

        v(x, t; c) = v_null(x, t) + g (v_c(x, t) - v_null(x, t))           arXiv 2207.12598, Eq. 6

    Args:
        inner: a flow of an ``AdaptedVelocity``, a flow map of an ``AdaptedAverageVelocity`` or a generator of
            an ``AdaptedGenerator``, called with a label; or a chain that begins with one. Not changed;
            c replaces its label.
        probabilities: p_k of condition k, each >= 0; they sum to 1.
        null: class index, or row of the table, of the null condition; None: that of the network.
        guidance: g, finite; None: that of the network. 1 is the condition alone, 0 the null condition alone.
        names: of all conditions, distinct; () for none. "null" names the null condition.

    Raises:
        InputError: for another model, for numbers that are no probabilities, for conditions that the network
            does not know, for names that do not fit, and for guidance without a null condition or in a
            one-step model.
    """

    thresholds: Tensor

    def __init__(
        self,
        inner: GenerativeModel,
        probabilities: Sequence[float],
        null: int | None = None,
        guidance: float | None = None,
        names: Sequence[str] = (),
    ) -> None:
        net = conditional_net(inner)
        p = torch.as_tensor(probabilities, dtype=torch.float64)
        _check_probabilities(p)
        net.check_label(len(p) - 1)
        super().__init__((math.prod(inner.prior_shape) + 1,), inner.sample_shape)
        self.inner, self.family, self.probabilities = inner, inner.family, p.tolist()
        self.names = check_names(names, len(p))
        self.null = getattr(net, "null_label", None) if null is None else null
        if self.null is not None:
            _check_null(net, self.null)
        self.guidance = self._check_guidance(getattr(net, "guidance", 1.0) if guidance is None else guidance)
        shares = p.cumsum(0) / p.cumsum(0)[-1]  # 1 where all later labels have probability 0
        self.register_buffer("thresholds", torch.special.ndtri(shares[:-1]).to(inner.device, inner.dtype))

    @property
    def conditional(self) -> Conditional:
        """Itself."""
        return self

    @property
    def num_conditions(self) -> int:
        """Conditions that have a probability."""
        return len(self.probabilities)

    @property
    def drawn(self) -> list[int]:
        """Conditions whose probability is not 0, ascending."""
        return [k for k, p in enumerate(self.probabilities) if p > 0]

    @property
    def num_classes(self) -> int:
        """Classes of a network (``num_classes`` of an ``MLP``) that tells all conditions and null apart."""
        return max(self.num_conditions, self.null or 0)

    # Latents and conditions

    def conditions(self, z: Float[Tensor, " batch prior"]) -> Int[Tensor, " batch"]:
        """Return the condition that each latent asks for: 0 <= k < num_conditions, or ``null``."""
        u = z[:, -1].contiguous()
        found = torch.bucketize(u, self.thresholds.to(z.dtype))
        return found if self.null is None else torch.where(u >= NULL_ENTRY, self.null, found)

    labels = conditions  # its former name

    def noise(self, z: Float[Tensor, " batch prior"]) -> Float[Tensor, " batch *inner"]:
        """Return the latents of the inner model: the noise, uniform in [-1, 1] for a uniform prior."""
        noise = z[:, :-1].reshape(-1, *self.inner.prior_shape)
        if isinstance(self.inner, Generator) and self.inner.prior_name == "uniform":
            return torch.erf(noise / math.sqrt(2))
        return noise

    def ask(
        self, z: Float[Tensor, " batch prior"], label: int | str | Int[Tensor, " batch"]
    ) -> Float[Tensor, " batch prior"]:
        """Return latents with the same noise that ask for another condition.

        Latents of the prior become latents of the prior given the condition: u keeps its quantile, within
        those of the condition.

        Args:
            z: latents.
            label: one condition, its name, "null", or a condition for each latent, [batch].

        Raises:
            InputError: for a condition that the model does not have.
        """
        if isinstance(label, str):
            label = self.find(label)
        labels = torch.as_tensor(label, device=z.device).expand(len(z))
        self._check_conditions(labels)
        p = torch.tensor(self.probabilities, dtype=torch.float64, device=z.device)
        k = labels.clamp(0, len(p) - 1)
        place = torch.special.ndtr(z[:, -1].double()).clamp(EDGE, 1 - EDGE)
        u = torch.special.ndtri(((p.cumsum(0) - p)[k] + p[k] * place) / p.sum()).to(z.dtype)
        if self.null is not None:
            u = torch.where(labels == self.null, NULL_ENTRY, u)
        return torch.cat([z[:, :-1], u[:, None]], 1)

    def find(self, name: str) -> int:
        """Return the number of the condition with a name; "null" names the null condition.

        Raises:
            InputError: for a name that no condition has.
        """
        if name == NULL and self.null is not None:
            return self.null
        if name in self.names:
            return self.names.index(name)
        if self.names and name != NULL:
            raise InputError(f"got label={name!r}, which names no condition; {suggest(name, self.names)}")
        has = "no null condition" if self.null is None else "a null condition"
        unnamed = "" if self.names else " and no names"
        raise InputError(
            f"got label={name!r} for a model with {has}{unnamed}; expected a number from 0 to "
            f"{self.num_conditions - 1}{'' if self.null is None else ', or null'}"
        )

    def _check_conditions(self, labels: Tensor) -> None:
        known = self.drawn + ([] if self.null is None else [self.null])
        wrong = labels[~torch.isin(labels, torch.tensor(known, device=labels.device))]
        if len(wrong):
            also = "" if self.null is None else ", or null"
            raise InputError(
                f"got label={int(wrong[0])}; expected a condition that the model draws: a number from 0 "
                f"to {self.num_conditions - 1} whose probability is not 0{also}"
            )

    # Samples

    def push(self, z: Float[Tensor, " batch *prior"]) -> Float[Tensor, " batch *shape"]:
        """Push the noise of each latent with its condition, at the model's guidance."""
        return self.push_given(self.noise(z), self.conditions(z))

    def push_given(
        self, noise: Float[Tensor, " batch *inner"], conditions: Tensor, guidance: float | None = None
    ) -> Float[Tensor, " batch *shape"]:
        """Return G(noise; c).

        Args:
            noise: latents of the inner model.
            conditions: class indices or ``null`` [batch], or free rows like those of the table, [batch, ...].
            guidance: g; None: the model's.

        Raises:
            InputError: for guidance that the model cannot have.
        """
        g = self.guidance if guidance is None else self._check_guidance(guidance)
        return at_conditions(self.inner, conditions, self.null, g).push(noise)

    def with_guidance(self, guidance: float) -> Conditional:
        """Return the same model, with shared weights, at another guidance.

        Raises:
            InputError: for guidance that the model cannot have.
        """
        other = copy.copy(self)
        other.guidance = self._check_guidance(guidance)
        return other

    def around(self, inner: GenerativeModel) -> Conditional:
        """Return another model of the same conditions, names, null condition and guidance."""
        return Conditional(inner, self.probabilities, self.null, self.guidance, self.names)

    def _check_guidance(self, guidance: float) -> float:
        if not math.isfinite(guidance):
            raise InputError(f"got guidance={guidance}; expected a finite number")
        if guidance == 1:
            return 1.0
        if self.inner.family != "flow":
            raise InputError(
                f"got guidance={guidance:g} for a {self.inner.family}, which draws in one step; expected it "
                "for a flow: guidance applied to the outputs of one step is no guidance of the flow behind it"
            )
        if self.null is None:
            raise InputError(
                f"got guidance={guidance:g} for a model without a null condition; expected its label: write "
                "null=10"
            )
        return float(guidance)

    @property
    def num_evaluations(self) -> int:
        """That of the inner model; guidance doubles the rows of an evaluation, not their number."""
        return self.inner.num_evaluations

    @property
    def original_recoverable(self) -> bool:
        """That of the inner model."""
        return self.inner.original_recoverable

    def config(self) -> dict[str, Any]:
        """Return the inner architecture, the probabilities, the null condition, the guidance and the names.

        A model without names has no entry for them.
        """
        return {
            "model": "conditional",
            "inner": self.inner.config(),
            "probabilities": self.probabilities,
            "null": self.null,
            "guidance": self.guidance,
            **({"names": list(self.names)} if self.names else {}),
        }


Labelled = Conditional
"""The former name of ``Conditional``."""


def at_conditions(
    model: GenerativeModel, conditions: Tensor, null: int | None, guidance: float
) -> GenerativeModel:
    """Return a model, with shared weights, at given conditions [batch] and guidance.

    In a chain, guidance belongs to the first model; a later model without conditions stays as it is.
    """
    if isinstance(model, Chain):
        after = model.after
        if find_conditional_net(after) is not None:
            after = at_conditions(after, conditions, None, 1.0)
        return Chain(at_conditions(model.base, conditions, null, guidance), after)
    net = conditional_net(model).with_labels(conditions)
    if isinstance(model, FlowMap):
        return model.with_average_velocity(net)
    if isinstance(model, Generator):
        return model.with_network(net)
    assert isinstance(model, Flow)
    assert isinstance(net, AdaptedVelocity)
    return model.with_velocity(net.with_guidance(null, guidance))


def find_conditional_net(model: GenerativeModel) -> Adapted | AdaptedGenerator | None:
    """Return the network of a model that is called with a label; None if it is called without."""
    if isinstance(model, Chain):
        return find_conditional_net(model.base)
    net = model.net if isinstance(model, Flow | FlowMap | Generator) else None
    return net if isinstance(net, Adapted | AdaptedGenerator) and net.label is not None else None


def conditional_net(inner: GenerativeModel) -> Adapted | AdaptedGenerator:
    """Return the network of a model that is called with a label.

    Raises:
        InputError: for a model without one.
    """
    first = inner
    while isinstance(first, Chain):
        first = first.base
    net = first.net if isinstance(first, Flow | FlowMap | Generator) else None
    if not isinstance(net, Adapted | AdaptedGenerator):
        raise InputError(
            f"got a {type(inner).__name__} to label; expected a Flow of an AdaptedVelocity, a FlowMap of an "
            "AdaptedAverageVelocity, or a Generator of an AdaptedGenerator"
        )
    if net.label is None:
        raise InputError(
            "got a network that is called without a label; expected one that takes a label: write "
            'label=0 and arguments="..., label" where it is adapted'
        )
    return net


def without_conditions(model: T) -> T | GenerativeModel:
    """Return the model inside a conditional one, else the model itself."""
    return model.inner if isinstance(model, Conditional) else model


def check_names(names: Sequence[str], n: int) -> tuple[str, ...]:
    """Return the names of n conditions; () for none.

    Raises:
        InputError: for another number of names, an empty or reserved one, and one that two conditions have.
    """
    if isinstance(names, str) or len(names) not in (0, n):
        raise InputError(f"got {len(names)} names of {n} conditions; expected one for each, or none")
    for place, name in enumerate(names):
        if not isinstance(name, str) or not name.strip() or name in RESERVED:
            raise InputError(
                f"got {name!r} as the name of condition {place}; expected a text other than "
                f"{' and '.join(RESERVED)}"
            )
        if name in names[:place]:
            raise InputError(f"got the name {name!r} twice; expected another name for each condition")
    return tuple(names)


def _check_probabilities(p: Tensor) -> None:
    if p.ndim != 1 or len(p) == 0 or not bool((p >= 0).all()) or abs(float(p.sum()) - 1) > 1e-4:
        raise InputError(
            f"got class probabilities of shape {list(p.shape)} that sum to {float(p.sum()):g}; expected a "
            "list of numbers >= 0 that sum to 1"
        )


def _check_null(net: Adapted | AdaptedGenerator, null: int) -> None:
    if isinstance(null, bool) or not isinstance(null, int) or null < 0:
        raise InputError(f"got null={null!r}; expected the class index that means no class, or None")
    try:
        net.check_label(null)
    except InputError as error:
        raise InputError(
            f"got null={null}, which the network does not know ({error}); expected the class index that "
            "means no class"
        ) from error
