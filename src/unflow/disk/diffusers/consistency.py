"""A consistency model of diffusers, in one step, as the network of a ``Generator``."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

from unflow.disk.diffusers.package import Config
from unflow.disk.diffusers.unet import LabelledUNet
from unflow.nets.adapters import Wrapper

CONSISTENCY_SCHEDULER = "CMStochasticIterativeScheduler"


class ConsistencyUNet(Wrapper):
    r"""f(y) = c_skip y + c_out u(c_in y, 250 log s) at y = s z (arXiv 2303.01469, Appendix C).

        c_skip = d^2 / ((s - e)^2 + d^2),   c_out = (s - e) d / sqrt(s^2 + d^2),   c_in = 1 / sqrt(s^2 + d^2)

    with s = sigma_max, d = sigma_data and e = sigma_min: the one-step sample of ``ConsistencyModelPipeline``,
    clipped to [-1, 1] if the scheduler has ``clip_denoised``. Clipped values have gradient zero.

    Args:
        unet: the options of UNet2DModel.
        scheduler: the configuration of CMStochasticIterativeScheduler.
        label: the class to draw; None for a network without classes.
        pipeline: the pipeline's model_index.json; None for a folder of one network.

    Raises:
        InputError: as ``unet.LabelledUNet``.
    """

    def __init__(
        self, unet: Config, scheduler: Config, label: int | None = None, pipeline: Config | None = None
    ) -> None:
        super().__init__()
        self.net = LabelledUNet(unet, label)
        self.sigma, d, e = (float(scheduler[f"sigma_{name}"]) for name in ("max", "data", "min"))
        self.c_in = 1 / math.hypot(self.sigma, d)
        self.c_skip = d**2 / ((self.sigma - e) ** 2 + d**2)
        self.c_out = (self.sigma - e) * d * self.c_in
        self.clip = bool(scheduler["clip_denoised"])
        options = {"unet": unet, "scheduler": scheduler, "label": label, "pipeline": pipeline}
        self.config: dict[str, Any] = {"builder": "unflow.hub:ConsistencyUNet", "options": options}

    @property
    def wrapped(self) -> nn.Module:
        """The UNet2DModel."""
        unet: nn.Module = self.net.unet
        return unet

    def forward(self, z: Tensor) -> Tensor:
        """Return samples [batch, channels, h, w] of latents z of that shape from N(0, 1)."""
        y = self.sigma * z
        time = z.new_full((len(z),), 250 * math.log(self.sigma))
        x: Tensor = self.c_skip * y + self.c_out * self.net(self.c_in * y, time)
        return x.clamp(-1, 1) if self.clip else x
