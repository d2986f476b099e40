"""Explicit Runge-Kutta methods with a fixed number of equal steps: from a velocity field to samples."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from unflow.ground.errors import InputError

Velocity = Callable[[Tensor, Tensor], Tensor]
"""(x [batch, *shape], t [batch]) -> dx/dt [batch, *shape]."""


class Integrator(ABC):
    """One step x(t) -> x(t + h) with a global error O(h^order)."""

    @property
    @abstractmethod
    def order(self) -> int:
        """The exponent of the global error."""

    @property
    @abstractmethod
    def evaluations(self) -> int:
        """Calls of the velocity per step."""

    @abstractmethod
    def step(
        self, velocity: Velocity, x: Float[Tensor, " batch *shape"], t: Float[Tensor, " batch"], h: float
    ) -> Float[Tensor, " batch *shape"]:
        """Return x(t + h) for x of shape [batch, *shape] and t of shape [batch]."""

    def solve(
        self,
        velocity: Velocity,
        x: Float[Tensor, " batch *shape"],
        steps: int,
        t0: float = 0.0,
        t1: float = 1.0,
    ) -> Float[Tensor, " batch *shape"]:
        """Return x(t1) for dx/dt = velocity(x, t), x(t0) = x, in ``steps`` equal steps.

        Raises:
            InputError: if ``steps`` is under 1.
        """
        if steps < 1:
            raise InputError(f"got {steps} integration steps; expected 1 or more")
        h = (t1 - t0) / steps
        for i in range(steps):
            x = self.step(velocity, x, x.new_full((len(x),), t0 + i * h), h)
        return x


@dataclass(frozen=True)
class Euler(Integrator):
    """x + h v(x, t)."""

    order = 1
    evaluations = 1

    def step(
        self, velocity: Velocity, x: Float[Tensor, " batch *shape"], t: Float[Tensor, " batch"], h: float
    ) -> Float[Tensor, " batch *shape"]:
        """Take one Euler step."""
        return x + h * velocity(x, t)


@dataclass(frozen=True)
class Midpoint(Integrator):
    """x + h v(x + h/2 v(x, t), t + h/2)."""

    order = 2
    evaluations = 2

    def step(
        self, velocity: Velocity, x: Float[Tensor, " batch *shape"], t: Float[Tensor, " batch"], h: float
    ) -> Float[Tensor, " batch *shape"]:
        """Take one midpoint step."""
        half = x + h / 2 * velocity(x, t)
        return x + h * velocity(half, t + h / 2)


@dataclass(frozen=True)
class Heun(Integrator):
    """x + h/2 (k1 + k2), k1 = v(x, t), k2 = v(x + h k1, t + h)."""

    order = 2
    evaluations = 2

    def step(
        self, velocity: Velocity, x: Float[Tensor, " batch *shape"], t: Float[Tensor, " batch"], h: float
    ) -> Float[Tensor, " batch *shape"]:
        """Take one Heun step."""
        k1 = velocity(x, t)
        k2 = velocity(x + h * k1, t + h)
        return x + h / 2 * (k1 + k2)


@dataclass(frozen=True)
class RK4(Integrator):
    """The classical fourth-order method."""

    order = 4
    evaluations = 4

    def step(
        self, velocity: Velocity, x: Float[Tensor, " batch *shape"], t: Float[Tensor, " batch"], h: float
    ) -> Float[Tensor, " batch *shape"]:
        """Take one RK4 step."""
        k1 = velocity(x, t)
        k2 = velocity(x + h / 2 * k1, t + h / 2)
        k3 = velocity(x + h / 2 * k2, t + h / 2)
        k4 = velocity(x + h * k3, t + h)
        return x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


INTEGRATORS: dict[str, type[Integrator]] = {"euler": Euler, "midpoint": Midpoint, "heun": Heun, "rk4": RK4}
