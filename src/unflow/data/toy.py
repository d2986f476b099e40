"""The four planar datasets of ContinualFlow (arXiv 2506.18747), with their exact geometry."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import ClassVar

import torch
import torch.nn.functional as nnf
from torch import Tensor

from unflow.data.dataset import LabelledData
from unflow.ground.errors import InputError


@dataclass(frozen=True)
class PlanarSet(ABC):
    """A planar dataset of equally likely components, with nearly all mass in [-0.8, 0.8]^2.

    Attributes:
        name: name of the dataset.
        class_names: one per component.
        forget: the classes that the paper's experiment forgets.
    """

    name: ClassVar[str]
    class_names: ClassVar[list[str]]
    forget: ClassVar[tuple[int, ...]]

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            bound = ">= 0" if field.name == "noise" else "> 0"
            if not (math.isfinite(value) and (value > 0 or (value == 0 and bound == ">= 0"))):
                raise InputError(
                    f"got {type(self).__name__}({field.name}={value}); expected a finite number {bound}: "
                    f"write {field.name}={field.default}"
                )

    @property
    def retained(self) -> tuple[int, ...]:
        """The classes that are not forgotten."""
        return tuple(k for k in range(len(self.class_names)) if k not in self.forget)

    @abstractmethod
    def points(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Return one independent point of each given class, shape [n, 2], for labels [n]."""

    @abstractmethod
    def distances(self, x: Tensor) -> Tensor:
        """Return the Euclidean distance of points [n, 2] to each component without noise, [n, classes]."""

    def sample(self, n: int, generator: torch.Generator) -> LabelledData:
        """Return n independent points: x [n, 2] float32, labels [n].

        Raises:
            InputError: for n < 1.
        """
        if n < 1:
            raise InputError(f"got n={n}; expected 1 point or more: write n=1000")
        labels = torch.randint(len(self.class_names), (n,), generator=generator)
        return LabelledData(self.name, self.points(labels, generator), labels, list(self.class_names))

    def classify(self, x: Tensor) -> Tensor:
        """Return the label [n] of the nearest component of each point [n, 2].

        Raises:
            InputError: for another shape, NaN or infinity.
        """
        if x.ndim != 2 or x.shape[1] != 2:
            raise InputError(f"got points of shape {list(x.shape)}; expected [n, 2]: write x.reshape(-1, 2)")
        bad = int((~torch.isfinite(x)).any(1).sum())
        if bad:
            raise InputError(
                f"got {bad} of {len(x)} points with NaN or infinity; expected finite ones: write fewer or "
                "smaller steps in the model that made them"
            )
        return self.distances(x).argmin(1)


def unit_vectors(angle: Tensor) -> Tensor:
    """Return the unit vectors [n, 2] at angles [n], in radians."""
    return torch.stack([angle.cos(), angle.sin()], dim=1)


def add_noise(points: Tensor, noise: float, generator: torch.Generator) -> Tensor:
    """Add Gaussian noise of one standard deviation in both directions."""
    return points + noise * torch.randn(points.shape, generator=generator)


@dataclass(frozen=True)
class Circles(PlanarSet):
    """Two rings around the origin; the outer one is forgotten.

    Attributes:
        outer: radius of the outer ring.
        inner: radius of the inner ring.
        noise: standard deviation in each direction.
    """

    outer: float = 0.7
    inner: float = 0.35
    noise: float = 0.03

    name: ClassVar[str] = "circles"
    class_names: ClassVar[list[str]] = ["outer", "inner"]
    forget: ClassVar[tuple[int, ...]] = (0,)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.inner >= self.outer:
            raise InputError(
                f"got Circles(outer={self.outer}, inner={self.inner}); expected inner < outer: "
                "write outer=0.7, inner=0.35"
            )

    def points(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Return points on the rings, uniform in angle, plus noise."""
        angle = 2 * math.pi * torch.rand(len(labels), generator=generator)
        radius = torch.tensor([self.outer, self.inner])[labels]
        return add_noise(radius[:, None] * unit_vectors(angle), self.noise, generator)

    def distances(self, x: Tensor) -> Tensor:
        """Return | ||x|| - radius |: the boundary is at the midpoint of the radii."""
        norm: Tensor = x.norm(dim=1, keepdim=True)
        return (norm - x.new_tensor([self.outer, self.inner])).abs()


@dataclass(frozen=True)
class Moons(PlanarSet):
    """Two interleaved half circles, scikit-learn's moons scaled and centred; the upper one is forgotten.

    The upper arc is centred at -(radius/2, radius/4), the lower one at the opposite point; an end of each
    is radius/2 away from the other arc, and nothing is nearer.

    Attributes:
        radius: radius of both arcs.
        noise: standard deviation in each direction.
    """

    radius: float = 0.48
    noise: float = 0.025

    name: ClassVar[str] = "moons"
    class_names: ClassVar[list[str]] = ["upper", "lower"]
    forget: ClassVar[tuple[int, ...]] = (0,)

    def points(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Return points on the arcs, uniform in angle, plus noise."""
        side = 1 - 2 * labels.float()[:, None]
        arc = unit_vectors(math.pi * torch.rand(len(labels), generator=generator)) - torch.tensor([0.5, 0.25])
        return add_noise(self.radius * side * arc, self.noise, generator)

    def distances(self, x: Tensor) -> Tensor:
        """Return the distance to each arc: to its circle on the arc's side, to the nearer end elsewhere."""
        return torch.stack([self._distance_to_upper(x), self._distance_to_upper(-x)], dim=1)

    def _distance_to_upper(self, x: Tensor) -> Tensor:
        from_centre = x + self.radius * x.new_tensor([0.5, 0.25])
        across, up = from_centre.unbind(1)
        to_circle = (from_centre.norm(dim=1) - self.radius).abs()
        return torch.where(up >= 0, to_circle, torch.hypot(across.abs() - self.radius, up))


@dataclass(frozen=True)
class Gaussians(PlanarSet):
    """Six Gaussians on a circle, numbered 1 to 6 anticlockwise from the right; the even ones are forgotten.

    Attributes:
        radius: radius of the circle of means, which is also the distance between neighbours.
        noise: standard deviation in each direction.
    """

    radius: float = 0.6
    noise: float = 0.06

    name: ClassVar[str] = "gaussians"
    class_names: ClassVar[list[str]] = [str(k) for k in range(1, 7)]
    forget: ClassVar[tuple[int, ...]] = (1, 3, 5)

    @property
    def means(self) -> Tensor:
        """The means, [6, 2]."""
        return self.radius * unit_vectors(torch.arange(6) * (math.pi / 3))

    def points(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Return the means plus noise."""
        return add_noise(self.means[labels], self.noise, generator)

    def distances(self, x: Tensor) -> Tensor:
        """Return the distance to each mean."""
        distance: Tensor = (x[:, None] - self.means.to(x)).norm(dim=2)
        return distance


DARK_CELLS = [(row, column) for row in range(1, 5) for column in range(1, 5) if (row + column) % 2]
"""Row (1 at the top) and column (1 at the left) of each dark cell; the top right corner is dark."""


@dataclass(frozen=True)
class Checkerboard(PlanarSet):
    """The dark cells of a 4x4 board; those of the top row and of the last column are forgotten.

    Top row and last column share a cell, so the union and the intersection of the two requests differ from
    both.

    Attributes:
        half_width: half the width of the board.
        top_row: the classes of the top row.
        last_column: the classes of the last column.
    """

    half_width: float = 0.8

    name: ClassVar[str] = "checkerboard"
    class_names: ClassVar[list[str]] = [f"row {row}, column {column}" for row, column in DARK_CELLS]
    top_row: ClassVar[tuple[int, ...]] = tuple(k for k, (row, _) in enumerate(DARK_CELLS) if row == 1)
    last_column: ClassVar[tuple[int, ...]] = tuple(k for k, cell in enumerate(DARK_CELLS) if cell[1] == 4)
    forget: ClassVar[tuple[int, ...]] = tuple(sorted({*top_row, *last_column}))

    @property
    def cell(self) -> float:
        """The width of a cell."""
        return self.half_width / 2

    @property
    def centres(self) -> Tensor:
        """The centres of the dark cells, [8, 2]."""
        return self.cell * torch.tensor([(column - 2.5, 2.5 - row) for row, column in DARK_CELLS])

    def points(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Return uniform points of the cells."""
        inside = torch.rand(len(labels), 2, generator=generator) - 0.5
        return self.centres[labels] + self.cell * inside

    def distances(self, x: Tensor) -> Tensor:
        """Return the distance to each dark cell, 0 inside."""
        beyond = (x[:, None] - self.centres.to(x)).abs() - self.cell / 2
        distance: Tensor = beyond.clamp(min=0).norm(dim=2)
        return distance


PLANAR_SETS: dict[str, PlanarSet] = {
    "circles": Circles(),
    "moons": Moons(),
    "gaussians": Gaussians(),
    "checkerboard": Checkerboard(),
}


class GeometryJudge:
    """A judge of planar points without training: the nearest component has probability 1.

    Args:
        planar: the dataset whose geometry is used.
    """

    def __init__(self, planar: PlanarSet) -> None:
        self.planar, self.class_names = planar, list(planar.class_names)

    @property
    def num_classes(self) -> int:
        """The number of components."""
        return len(self.class_names)

    def probabilities(self, x: Tensor) -> Tensor:
        """Return 1 for the nearest component and 0 for the others, [n, num_classes], for points [n, 2].

        Raises:
            InputError: for another shape, NaN or infinity.
        """
        return nnf.one_hot(self.planar.classify(x), self.num_classes).float()

    def features(self, x: Tensor) -> Tensor:
        """Return the coordinates, [n, 2]: distances in the plane need no network."""
        return x.flatten(1)

    def accuracy(self, x: Tensor, labels: Tensor) -> float:
        """Return the share of points [n, 2] whose nearest component is the label.

        Raises:
            InputError: for no points.
        """
        if len(x) == 0:
            raise InputError("got no points to measure a judge's accuracy on; expected 1 or more: draw some")
        return float((self.planar.classify(x) == labels).float().mean())
