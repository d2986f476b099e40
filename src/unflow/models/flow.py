"""Flow: integration of a learned velocity in many small steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from unflow.ground.errors import InputError, choose
from unflow.mathematics.integrators import INTEGRATORS
from unflow.models.base import GenerativeModel
from unflow.nets import net_config


class Flow(GenerativeModel):
    """x = x(1) for dx/dt = net(x, t), x(0) = z: a continuous normalising flow.

    Args:
        net: velocity, (x [batch, *shape], t [batch]) -> [batch, *shape].
        shape: shape of one sample and of one latent.
        integrator: a name in ``integrators.INTEGRATORS``.
        steps: integration steps from t=0 to t=1, >= 1.

    Raises:
        InputError: for an unknown integrator.
    """

    family = "flow"

    def __init__(
        self, net: nn.Module, shape: Sequence[int], integrator: str = "midpoint", steps: int = 8
    ) -> None:
        choose(INTEGRATORS, integrator, "integrator")
        if type(steps) is not int or steps < 1:
            raise InputError(f"got {steps!r} integration steps of a flow; expected a whole number >= 1")
        super().__init__(shape, shape)
        self.net, self.integrator, self.steps = net, integrator, steps

    def push(self, z: Float[Tensor, " batch *shape"]) -> Float[Tensor, " batch *shape"]:
        """Integrate the velocity from z."""
        return INTEGRATORS[self.integrator]().solve(self.net, z, self.steps)

    def with_velocity(self, net: nn.Module) -> Flow:
        """Return a flow of the same shape and integrator with another velocity."""
        return Flow(net, self.sample_shape, self.integrator, self.steps)

    @property
    def num_evaluations(self) -> int:
        """Steps times evaluations per step."""
        return self.steps * INTEGRATORS[self.integrator]().evaluations

    def config(self) -> dict[str, Any]:
        """Return the architecture as plain data."""
        return {
            "model": "flow",
            "shape": list(self.sample_shape),
            "integrator": self.integrator,
            "steps": self.steps,
            "net": net_config(self.net),
        }
