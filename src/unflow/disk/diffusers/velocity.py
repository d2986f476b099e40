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

    diffusers counts the other way: x = sigma noise + (1 - sigma) data, u(x, T sigma) predicts noise - data,
    and T is the scheduler's ``num_train_timesteps``. Its ``shift`` is not a part of the velocity: it says at
    which sigma a sampler stops on the way, and a ``Flow`` takes equal steps. Fresh, u is 0, so that a flow
    that is appended to a model starts as the identity.

    Args:
        unet: the options of UNet2DModel.
        scheduler: the configuration of the flow-matching scheduler.
        label: the class that is drawn; None for a network without classes.
        pipeline: the model_index.json that all came from; None for a folder of the network alone.

    Raises:
        InputError: as ``unet.LabelledUNet``, and for a scheduler that counts sigma from data to noise.
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
        return self.net.unet

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Return v for x [batch, channels, h, w] at times t [batch] in [0, 1]."""
        return -self.net(x, self.times * (1 - t))
