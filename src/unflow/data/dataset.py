"""Labelled samples in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unflow.ground.files import sha256_tensors


@dataclass(frozen=True)
class LabelledData:
    """Samples with class labels.

    Attributes:
        name: name of the dataset.
        x: samples, [n, *shape]; images in [-1, 1].
        labels: class indices, [n].
        class_names: one per class.
    """

    name: str
    x: Tensor
    labels: Tensor
    class_names: list[str]

    def __len__(self) -> int:
        return len(self.x)

    def rows(self, index: Tensor) -> LabelledData:
        """Return the rows with these numbers."""
        return LabelledData(self.name, self.x[index], self.labels[index], self.class_names)

    def of_classes(self, classes: Sequence[int]) -> LabelledData:
        """Return the rows of some classes."""
        return self.rows(torch.isin(self.labels, torch.tensor(list(classes))))

    def without_classes(self, classes: Sequence[int]) -> LabelledData:
        """Return the rows of all other classes."""
        return self.rows(~torch.isin(self.labels, torch.tensor(list(classes))))

    @property
    def fingerprint(self) -> str:
        """A hash of samples and labels, in order."""
        return sha256_tensors(self.x, self.labels)
