"""UOT-Unlearn on MNIST: a one-step model in 16 latents forgets each digit (arXiv 2603.16489)."""

from __future__ import annotations

from typing import ClassVar

from unflow.data import LabelledData
from unflow.data.idx import mnist
from unflow.reproduce.one_step_images import OneStepImages
from unflow.reproduce.recipes import ONE_STEP_MNIST
from unflow.reproduce.study import Recipe


class UOTMNIST(OneStepImages):
    """Ten requests, one digit each; 1, 3 and 8 with every seed and a retrained model."""

    name: ClassVar[str] = "uot-mnist"
    title: ClassVar[str] = "UOT-Unlearn on MNIST"
    datasets: ClassVar[tuple[str, ...]] = tuple(f"mnist-{k}" for k in range(10))
    retrained_classes: ClassVar[tuple[int, ...]] = (1, 3, 8)

    def load(self) -> LabelledData:
        """Return the 70,000 digits."""
        assert self.data is not None
        return mnist(self.data)

    def default_recipe(self) -> Recipe:
        """Return the recipe in 16 latents."""
        return ONE_STEP_MNIST
