"""Models that a training keeps on its way: how good it would have been, had it stopped there."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from torch import nn

from unflow.ground.files import read_tensors, write_tensors

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True)
class Snapshot(Generic[Model]):
    """A model on the way of a training.

    Attributes:
        model: what the training would have returned, had it stopped there.
        step: steps taken.
        seconds: of the training until there, preparation included.
    """

    model: Model
    step: int
    seconds: float


@dataclass(frozen=True)
class Snapshots:
    """The models after 1/count, 2/count, ... of a training's steps, each in a file; the last is the result.

    The learning rate of all of them is that of the whole training, so an early one is a training that was
    stopped, not a short training.

    Attributes:
        folder: of the files.
        count: >= 1.
    """

    folder: Path
    count: int = 10

    def list_steps(self, steps: int) -> list[int]:
        """Return the steps after which a model is kept, ascending; fewer than ``count`` if steps are few."""
        return sorted({math.ceil(k * steps / self.count) for k in range(1, self.count + 1)})

    def keep(self, snapshot: Snapshot[nn.Module]) -> None:
        """Write one model's weights and its seconds."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_tensors(
            self._find_file(snapshot.step), snapshot.model.state_dict(), {"seconds": snapshot.seconds}
        )

    def load(self, model: Model, steps: int) -> Iterator[Snapshot[Model]]:
        """Yield the models of a finished training, in the order of its steps.

        Args:
            model: its result; not changed.
            steps: of the training.

        Raises:
            InputError: for a missing file.
        """
        for step in self.list_steps(steps):
            tensors, metadata = read_tensors(self._find_file(step))
            found = copy.deepcopy(model)
            found.load_state_dict(tensors)
            yield Snapshot(found, step, float(metadata["seconds"]))

    def _find_file(self, step: int) -> Path:
        return self.folder / f"{step}.safetensors"
