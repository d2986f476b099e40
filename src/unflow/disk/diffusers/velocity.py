"""A UNet2DModel that was trained by flow matching, as the velocity of a ``Flow``."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from unflow.disk.diffusers.package import Config
from unflow.disk.diffusers.unet import LabelledUNet
from unflow.ground.errors import InputError
from unflow.nets.adapters import Wrapper

FLOW_SCHEDULERS = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")


class FlowUNet(Wrapper):
    """v(x, t) = -u(x, T (1 - t)): from noise at t=0 to data at t=1 (rectified flow, arXiv 2209.03003).

    diffusers uses the opposite direction: x = sigma noise + (1 - sigma) data, u(x, T sigma) predicts
    noise - data, and T is the scheduler's ``num_train_timesteps``. The scheduler's ``shift`` is ignored: it
    only places the steps of a sampler, and a ``Flow`` takes equal steps. A fresh u is 0, so that a flow
    appended to a model starts as the identity.

    Args:
        unet: the options of UNet2DModel.
        scheduler: the configuration of the flow-matching scheduler.
        label: the class to draw; None for a network without classes.
        pipeline: the pipeline's model_index.json; None for a folder of one network.

    Raises:
        InputError: as ``unet.LabelledUNet``, and for a scheduler with ``invert_sigmas``.
    """

    def __init__(
        self, unet: Config, scheduler: Config, label: int | None = None, pipeline: Config | None = None
    ) -> None:
        super().__init__()
        if scheduler.get("invert_sigmas"):
            raise InputError("got a scheduler with invert_sigmas=true; expected sigma=1 to be noise")
        self.net = LabelledUNet(unet, label)
        for parameter in self.net.unet.conv_out.parameters():
            nn.init.zeros_(parameter)
        self.times = float(scheduler["num_train_timesteps"])
        options = {"unet": unet, "scheduler": scheduler, "label": label, "pipeline": pipeline}
        self.config: dict[str, Any] = {"builder": "unflow.hub:FlowUNet", "options": options}

    @property
    def wrapped(self) -> nn.Module:
        """The UNet2DModel."""
        unet: nn.Module = self.net.unet
        return unet

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Return v for x [batch, channels, h, w] at times t [batch] in [0, 1]."""
        u: Tensor = self.net(x, self.times * (1 - t))
        return -u
