"""Which ratios of the self-measure tell ghosts, blur and noise from exact samples: a table.

    python benchmarks/sharpness.py digits
    python benchmarks/sharpness.py ring
    python benchmarks/sharpness.py mnist:DIR

The dataset stands for the exact target. A share of the samples is "moved"; the others stay.
Each number is the mean over eight draws, with the standard deviation over the draws.
"""

from __future__ import annotations

import argparse
import math

import torch
import torch.nn.functional as nnf
from torch import Tensor

from unflow.data import load_data
from unflow.ground.streams import stream
from unflow.unlearning.self_measure import measure_ratios

ROWS, REPEATS, FORGOTTEN = 2000, 8, 3
COLUMNS = ("sharpness", "sharpness_moved", "distance", "distance_moved", "reach", "gap_moved")


def main() -> None:
    """Print the table of a dataset."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data", help="digits, ring, mnist:DIR or idx:DIR")
    parser.add_argument("--moved", type=float, default=0.1, help="share of samples that are moved")
    chosen = parser.parse_args()
    x = load_samples(chosen.data)
    found: dict[str, list[dict[str, float]]] = {}
    for repeat in range(REPEATS):
        for name, ratios in measure_cases(x, chosen.moved, stream(repeat)).items():
            found.setdefault(name, []).append(ratios)
    print(f"| {chosen.data}, {chosen.moved:g} moved | " + " | ".join(COLUMNS) + " |")
    print("|---" * (len(COLUMNS) + 1) + "|")
    for name, records in found.items():
        cells = [describe([record[column] for record in records]) for column in COLUMNS]
        print(f"| {name} | " + " | ".join(cells) + " |")


def load_samples(name: str) -> Tensor:
    """Return samples of all classes but one; the ring has eight components of two widths."""
    if name != "ring":
        return load_data(name).without_classes([FORGOTTEN]).x
    generator = stream(99)
    k = torch.randint(8, (60_000,), generator=generator)
    angle = k * (2 * math.pi / 8)
    spread = 0.03 + 0.02 * (k % 4)
    return torch.stack([angle.cos(), angle.sin()], 1) + spread[:, None] * torch.randn(
        60_000, 2, generator=generator
    )


def measure_cases(x: Tensor, share: float, generator: torch.Generator) -> dict[str, dict[str, float]]:
    """Return the ratios of every case: the reference, the kept samples and fresh ones are disjoint."""
    n = min(ROWS, len(x) // 4)
    order = torch.randperm(len(x), generator=generator)
    exact, base, fresh, second = (x[order[k * n : (k + 1) * n]] for k in range(4))
    kept = n - round(share * n)
    moved, others = fresh[: n - kept], second[: n - kept]

    def noise(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator)

    parts = {
        "exact": moved,
        "ghosts at moved": (moved + others) / 2,
        "blurred at moved": blur(moved),
        "noise 0.1 at moved": moved + 0.1 * noise(moved),
        "one sample at moved": moved[:1].expand_as(moved),
        "mean at moved": x.mean(0).expand_as(moved),
    }
    wholes = {
        "exact, other latents": fresh,
        "all blurred": blur(fresh),
        "all with noise 0.05": fresh + 0.05 * noise(fresh),
        "all noise": noise(fresh).tanh(),
    }
    cases = {name: (torch.cat([base[:kept], part]), part) for name, part in parts.items()}
    cases |= {name: (whole, whole[kept:]) for name, whole in wholes.items()}
    return {
        name: {key: math.nan if ratio is None else ratio.value for key, ratio in found.items()}
        for name, (whole, part) in cases.items()
        for found in [measure_ratios(whole, part, exact[:kept], base[:kept])]
    }


def blur(x: Tensor) -> Tensor:
    """Return images under a Gaussian of half a pixel; points, a tenth nearer to 0."""
    if x.ndim < 4:
        return 0.9 * x
    weights = torch.exp(-(torch.arange(-2.0, 3.0) ** 2) / (2 * 0.5**2))
    weights = (weights / weights.sum()).expand(x.shape[1], 1, 5)
    padded = nnf.pad(x, (2, 2, 2, 2), mode="replicate")
    down = nnf.conv2d(padded, weights[..., None], groups=x.shape[1])
    return nnf.conv2d(down, weights[:, :, None], groups=x.shape[1])


def describe(values: list[float]) -> str:
    """Return "mean ± sd"."""
    numbers = torch.tensor(values, dtype=torch.float64)
    return f"{float(numbers.mean()):.3f} ± {float(numbers.std()):.3f}"


if __name__ == "__main__":
    main()
