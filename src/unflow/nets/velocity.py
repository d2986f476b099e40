"""Velocities of other conventions, converted to (x, t) -> dx/dt with t=0 the noise and t=1 the data."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from unflow.ground.errors import InputError
from unflow.mathematics.paths import expand
from unflow.nets.adapted import Adapted

TimeShape = Literal["batch", "column", "scalar"]


class AdaptedVelocity(Adapted):
    r"""v(x, t) for ``Flow``, from a third-party network with another convention.

        noise_at=0:       v(x, t) = net(x, t)
        noise_at=1:       v(x, t) = -net(x, 1 - t)                         its time runs from data to noise
        predicts="data":  v(x, t) = (D(x, t) - x) / (1 - t)                on the linear path
        guidance=w:       v = v_null + w (v_label - v_null)                arXiv 2207.12598, Eq. 6

    Methods train v with its guidance, as it is used for sampling. Networks that predict the noise are not
    supported, because they have no velocity at t=0, where sampling starts.

    Args:
        net: a velocity per unit of its time before ``time_scale``; it returns [batch, *shape], or an object
            whose ``sample`` is that. A bundle needs its description (``nets.net_config``).
        shape: of one sample.
        arguments: how it is called, with x, t and, if there is a label, label: "x, t", "t, x, label",
            "sample=x, timestep=t, class_labels=label".
        noise_at: its time of the noise, 0 or 1; the data are at the other.
        time_scale: its times run from 0 to this number (often 1000).
        time_shape: "batch" for times [batch], "column" for [batch, 1], "scalar" for one time [] for all
            rows; if the times of the rows differ, as in training, that network is called row by row.
        predicts: "velocity", or the "data" at the end of a linear path.
        label: class index for every sample; None for a network without labels.
        null_label: class index that means no class.
        guidance: w; 1 is the label alone, 0 the null label alone. Unless w = 1, one call computes both with
            twice the rows.
        table: what the network takes for each class index, [classes, ...], or its shape; None: the index.

    Raises:
        InputError: for invalid settings, or a network that does not run on a few samples with these settings;
            from ``forward``, at t=1 of a network that predicts data, whose velocity is 0/0 there.
    """

    name: ClassVar[str] = "adapted_velocity"
    trial: ClassVar[tuple[float, ...]] = (0.5,)

    def __init__(
        self,
        net: nn.Module,
        shape: Sequence[int],
        arguments: str = "x, t",
        *,
        noise_at: Literal[0, 1] = 0,
        time_scale: float = 1.0,
        time_shape: TimeShape = "batch",
        predicts: Literal["velocity", "data"] = "velocity",
        label: int | None = None,
        null_label: int | None = None,
        guidance: float = 1.0,
        table: Tensor | Sequence[int] | None = None,
    ) -> None:
        super().__init__(
            net,
            shape,
            arguments,
            [{"x", "t"}],
            noise_at=noise_at,
            time_scale=time_scale,
            time_shape=time_shape,
            label=label,
            table=table,
        )
        if predicts not in ("velocity", "data"):
            raise InputError(f"got predicts={predicts!r}; expected 'velocity' or 'data'")
        _check_guidance(guidance, label, null_label)
        self.predicts, self.null_label, self.guidance = predicts, null_label, guidance
        self.check_runs()

    @property
    def options(self) -> dict[str, Any]:
        """The arguments of its constructor except the network."""
        own = {"predicts": self.predicts, "null_label": self.null_label, "guidance": self.guidance}
        return super().options | own

    def with_guidance(self, null_label: int | None, guidance: float) -> AdaptedVelocity:
        """Return a copy, with shared weights, with another null label and guidance."""
        other = copy.copy(self)
        other.null_label, other.guidance = null_label, guidance
        return other

    def unguided(self, labels: Tensor) -> AdaptedVelocity:
        """Return a copy, with shared weights, at other labels (``with_labels``) and guidance 1."""
        found: AdaptedVelocity = self.with_labels(labels).with_guidance(None, 1.0)
        return found

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Return dx/dt [batch, *shape] for x [batch, *shape] and t [batch]."""
        labels = self.labels(x)
        if labels is None or self.null_label is None or self.guidance == 1:
            return self._velocity(x, t, labels)
        null = _expand_null(self.null_label, self.table, labels)
        both = self._velocity(torch.cat([x, x]), torch.cat([t, t]), torch.cat([null, labels]))
        v_null, v_label = both.chunk(2)
        return v_null + self.guidance * (v_label - v_null)

    def _velocity(self, x: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        output = self.call(x, {"t": self.own_time(t)}, labels)
        if self.predicts == "velocity":
            return self.sign * output
        if bool((t >= 1).any()):
            raise InputError(
                "got t=1 for a network that predicts data, whose velocity is 0/0 there; expected an "
                'integrator that stops before: write integrator="midpoint" or "euler"'
            )
        return (output - x) / expand(1 - t, x)


class AdaptedAverageVelocity(Adapted):
    r"""U(x; s, e) for ``FlowMap``, from a third-party MeanFlow network (arXiv 2505.13447).

        noise_at=0:  U(x; s, e) = u(x, s, e)
        noise_at=1:  U(x; s, e) = -u(x, 1 - s, 1 - e),    z_r = z_t - (t - r) u(z_t, r, t)

    Most published implementations have the noise at 1: x is at their time t = 1 - s (start) and is moved to
    r = 1 - e (end); some take the difference h = t - r (span) in place of t or r. There is no guidance:
    applied to average velocities, it does not give the average of a guided velocity.

    Args:
        net: an average velocity per unit of its time before ``time_scale``; its output as for
            ``AdaptedVelocity``.
        shape: of one sample.
        arguments: how it is called, with x, two of start, end and span, and, if there is a label, label:
            "x, start, end", "x, end, start" for u(z, r, t), "x, start, span" for u(z, t, t - r).
        noise_at: its time of the noise, 0 or 1.
        time_scale: its times run from 0 to this number; the span is scaled as well.
        time_shape: as for ``AdaptedVelocity``.
        label: class index for every sample; None for a network without labels.
        table: as for ``AdaptedVelocity``.

    Raises:
        InputError: for invalid settings, or a network that does not run on a few samples with these settings.
    """

    name: ClassVar[str] = "adapted_average_velocity"
    trial: ClassVar[tuple[float, ...]] = (0.25, 0.75)

    def __init__(
        self,
        net: nn.Module,
        shape: Sequence[int],
        arguments: str = "x, start, end",
        *,
        noise_at: Literal[0, 1] = 0,
        time_scale: float = 1.0,
        time_shape: TimeShape = "batch",
        label: int | None = None,
        table: Tensor | Sequence[int] | None = None,
    ) -> None:
        known = [{"x", "start", "end"}, {"x", "start", "span"}, {"x", "end", "span"}]
        super().__init__(
            net,
            shape,
            arguments,
            known,
            noise_at=noise_at,
            time_scale=time_scale,
            time_shape=time_shape,
            label=label,
            table=table,
        )
        self.check_runs()

    def forward(self, x: Tensor, start: Tensor, end: Tensor) -> Tensor:
        """Return U [batch, *shape] for x [batch, *shape] at start [batch], for the step to end [batch]."""
        span = self.time_scale * (end - start)
        times = {"start": self.own_time(start), "end": self.own_time(end), "span": span}
        return self.sign * self.call(x, times, self.labels(x))


def plain_velocity(config: dict[str, Any]) -> dict[str, Any]:
    """Return the description of the same network as a velocity of unflow's convention, for new weights.

    Guidance, prediction and convention belong to the trained weights, which are not used.
    """
    if config.get("net") != AdaptedVelocity.name:
        return config
    return config | {"guidance": 1.0, "predicts": "velocity", "noise_at": 0}


def _expand_null(null_label: int, table: Tensor | None, labels: Tensor) -> Tensor:
    """Return the null label for each row of labels: an index [batch], or its row of the table."""
    if table is None or not labels.is_floating_point():
        return torch.full_like(labels, null_label)
    return table[null_label].to(labels).expand_as(labels)


def _check_guidance(guidance: float, label: int | None, null_label: int | None) -> None:
    if not math.isfinite(guidance):
        raise InputError(f"got guidance={guidance}; expected a finite number")
    if null_label is not None and label is None:
        raise InputError(f"got null_label={null_label} without a label; expected both: write label=...")
    if guidance != 1 and null_label is None:
        raise InputError(
            f"got guidance={guidance:g} without a null label; expected the class index that means no class: "
            "write null_label=..."
        )
