"""FlowMap: the average velocity of a flow between two times, which needs one step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from unflow.ground.errors import InputError
from unflow.mathematics.paths import expand
from unflow.models.base import GenerativeModel
from unflow.nets import net_config


class FlowMap(GenerativeModel):
    """x_e = x_s + (e - s) U(x_s; s, e); in one step x = z + U(z; 0, 1) (arXiv 2505.13447).

    The source is at time 0 and the data at time 1 (published code often uses the opposite direction).

    Args:
        net: average velocity U, (x [batch, *shape], s [batch], e [batch]) -> [batch, *shape].
        shape: shape of one sample and of one latent.
        steps: number of equal steps from 0 to 1, >= 1.

    Raises:
        InputError: if ``steps`` is under 1.
    """

    family = "flow_map"

    def __init__(self, net: nn.Module, shape: Sequence[int], steps: int = 1) -> None:
        if steps < 1:
            raise InputError(f"got {steps} steps of a flow map; expected 1 or more")
        super().__init__(shape, shape)
        self.net, self.steps = net, steps

    def jump(
        self, x: Float[Tensor, " batch *shape"], start: Float[Tensor, " batch"], end: Float[Tensor, " batch"]
    ) -> Float[Tensor, " batch *shape"]:
        """Return x at time ``end`` from x at time ``start``, both times in [0, 1]."""
        average: Tensor = self.net(x, start, end)
        return x + expand(end - start, x) * average

    def push(self, z: Float[Tensor, " batch *shape"]) -> Float[Tensor, " batch *shape"]:
        """Jump from time 0 to 1 in ``steps`` equal jumps."""
        x = z
        for i in range(self.steps):
            start, end = i / self.steps, (i + 1) / self.steps
            x = self.jump(x, x.new_full((len(x),), start), x.new_full((len(x),), end))
        return x

    def with_average_velocity(self, net: nn.Module) -> FlowMap:
        """Return a flow map of the same shape and steps with another average velocity."""
        return FlowMap(net, self.sample_shape, self.steps)

    @property
    def num_evaluations(self) -> int:
        """One per step."""
        return self.steps

    def config(self) -> dict[str, Any]:
        """Return the architecture as plain data."""
        return {
            "model": "flow_map",
            "shape": list(self.sample_shape),
            "steps": self.steps,
            "net": net_config(self.net),
        }
