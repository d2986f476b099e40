"""Velocities of other conventions, as ours: (x, t) -> dx/dt with t=0 noise and t=1 data."""

from __future__ import annotations

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
    r"""v(x, t) for ``Flow``, from a network that somebody else trained with another convention.

        noise_at=0:       v(x, t) = net(x, t)
        noise_at=1:       v(x, t) = -net(x, 1 - t)                         its time runs against ours
        predicts="data":  v(x, t) = (D(x, t) - x) / (1 - t)                on the linear path
        guidance=w:       v = v_null + w (v_label - v_null)                arXiv 2207.12598, Eq. 6

    Methods train v as it is sampled, with its guidance. A network that predicts the noise has no velocity at
    t=0, where sampling starts, and is not taken.

    Args:
        net: a velocity per unit of its time before ``time_scale``; it returns [batch, *shape], or an object
            whose ``sample`` is that. Bundles ask it for a description (``nets.net_config``).
        shape: of one sample.
        arguments: how it is called, x, t and, where there is a label, label: "x, t", "t, x, label",
            "sample=x, timestep=t, class_labels=label".
        noise_at: which of its times, 0 or 1, is the noise; the data are at the other.
        time_scale: its times run from 0 to this (1000 in many codes).
        time_shape: "batch" for times [batch], "column" for [batch, 1], "scalar" for one time [] for all
            rows; where rows differ in time, as in training, that network is called row by row.
        predicts: "velocity", or the "data" at the end of a linear path.
        label: class index that every sample gets; None for a network without labels.
        null_label: class index that means no class.
        guidance: w; 1 is the label alone, 0 the null label alone. Other than at 1, both are computed in one
            call of twice the rows.

    Raises:
        InputError: for settings that cannot be, or a network that does not run on a few samples as they say;
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
        )
        if predicts not in ("velocity", "data"):
            raise InputError(f"got predicts={predicts!r}; expected 'velocity' or 'data'")
        _check_guidance(guidance, label, null_label)
        self.predicts, self.null_label, self.guidance = predicts, null_label, guidance
        self.check_runs()

    @property
    def options(self) -> dict[str, Any]:
        """What it was made with, but for the network."""
        own = {"predicts": self.predicts, "null_label": self.null_label, "guidance": self.guidance}
        return super().options | own

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Return dx/dt [batch, *shape] for x [batch, *shape] and t [batch]."""
        labels = self.labels(x)
        if labels is None or self.null_label is None or self.guidance == 1:
            return self._velocity(x, t, labels)
        null = torch.full_like(labels, self.null_label)
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
    r"""U(x; s, e) for ``FlowMap``, from a MeanFlow network that somebody else trained (arXiv 2505.13447).

        noise_at=0:  U(x; s, e) = u(x, s, e)
        noise_at=1:  U(x; s, e) = -u(x, 1 - s, 1 - e),    z_r = z_t - (t - r) u(z_t, r, t)

    In published codes, mostly with the noise at 1, x is at their time t = 1 - s (start), is carried to
    r = 1 - e (end), and some take the difference h = t - r (span) in place of one of both. There is no
    guidance: the average of a guided velocity is not what guidance makes of averages.

    Args:
        net: an average velocity per unit of its time before ``time_scale``; its output as for
            ``AdaptedVelocity``.
        shape: of one sample.
        arguments: how it is called, x, two of start, end and span, and, where there is a label, label:
            "x, start, end", "x, end, start" for u(z, r, t), "x, start, span" for u(z, t, t - r).
        noise_at: which of its times, 0 or 1, is the noise.
        time_scale: its times run from 0 to this; the span is scaled as well.
        time_shape: as for ``AdaptedVelocity``.
        label: class index that every sample gets; None for a network without labels.

    Raises:
        InputError: for settings that cannot be, or a network that does not run on a few samples as they say.
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
        )
        self.check_runs()

    def forward(self, x: Tensor, start: Tensor, end: Tensor) -> Tensor:
        """Return U [batch, *shape] for x [batch, *shape] at start [batch], to be carried to end [batch]."""
        span = self.time_scale * (end - start)
        times = {"start": self.own_time(start), "end": self.own_time(end), "span": span}
        return self.sign * self.call(x, times, self.labels(x))


def plain_velocity(config: dict[str, Any]) -> dict[str, Any]:
    """Return the description of the same network as a plain velocity of ours, for fresh weights.

    Guidance, prediction and convention are of weights that have been trained so.
    """
    if config.get("net") != AdaptedVelocity.name:
        return config
    return config | {"guidance": 1.0, "predicts": "velocity", "noise_at": 0}


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
