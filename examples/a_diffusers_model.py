"""A flow of digits made with diffusers forgets one digit, and is saved as a folder of diffusers again.

    python examples/a_diffusers_model.py --out runs/diffusers

The first half stands for third-party code that uses diffusers and not unflow: a UNet2DModel is trained by
flow matching and saved by save_pretrained, and a loop over a scheduler's timesteps draws samples. The second
half is the code that you write. The same third-party loop draws the samples at the end, from a folder that
unflow wrote.

All folders stay in --out, so that a second run trains nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as nnf
from diffusers import FlowMatchEulerDiscreteScheduler, UNet2DModel
from sklearn.neural_network import MLPClassifier
from sklearn.svm import SVC

import unflow as uf
from unflow.disk.diffusers import load_diffusers, save_diffusers

# Third-party code


def train_unet(images: torch.Tensor, steps: int, folder: Path) -> None:
    """Train by flow matching, from data (sigma = 0) to noise (sigma = 1); save network and scheduler."""
    torch.manual_seed(0)
    unet: Any = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(32, 32),
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
        add_attention=False,
    )
    optimizer = torch.optim.Adam(unet.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        x, sigma = images[torch.randint(len(images), (128,))], torch.rand(128, 1, 1, 1)
        noise = torch.randn_like(x)
        predicted = unet((1 - sigma) * x + sigma * noise, 1000 * sigma.flatten()).sample
        optimizer.zero_grad()
        nnf.mse_loss(predicted, noise - x).backward()
        optimizer.step()
        schedule.step()
    scheduler: Any = FlowMatchEulerDiscreteScheduler()
    scheduler.save_pretrained(folder)
    unet.save_pretrained(folder)


@torch.no_grad()
def draw(folder: Path, n: int, steps: int = 20) -> torch.Tensor:
    """Draw n images from a folder as diffusers does: x [n, 1, 8, 8], about in [-1, 1]."""
    unet = UNet2DModel.from_pretrained(folder, low_cpu_mem_usage=False).eval()
    scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained(folder)
    scheduler.set_timesteps(steps)
    x = torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    for t in scheduler.timesteps:
        x = scheduler.step(unet(x, t).sample, t, x).prev_sample
    return x


# Code that you write


def forget(folder: Path, energy: uf.energies.Energy, steps: int, bank_size: int, out: Path) -> Path:
    """Train the network's own weights to forget, and return the folder of diffusers that holds the result."""
    row, model = uf.methods.UNLEARNERS["erfm_resample_prior"], load_diffusers(folder)
    assert isinstance(row, uf.methods.ERFM)
    assert isinstance(model, uf.Flow)
    method = dataclasses.replace(row, steps=steps, batch_size=128, learning_rate=1e-3, bank_size=bank_size)
    result = uf.unlearn(uf.Target(model, energy), method, out=out / "bundle")
    if not (out / "forgotten").exists():
        save_diffusers(result.model, out / "forgotten")
    return out / "forgotten"


def to_rows(images: torch.Tensor) -> np.ndarray:
    """Return images as rows of 64 numbers, as scikit-learn reads them."""
    return images.flatten(1).numpy()


def main() -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/diffusers"))
    parser.add_argument("--digit", type=int, default=3)
    parser.add_argument("--flow-steps", type=int, default=1500)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--bank", type=int, default=4096)
    parser.add_argument("--samples", type=int, default=2000)
    options = parser.parse_args()
    torch.set_num_threads(1)

    data = uf.data.load_data("digits")
    half = torch.arange(len(data)) % 2 == 0
    guide = MLPClassifier(128, max_iter=300, random_state=0).fit(to_rows(data.x[half]), data.labels[half])
    judge = SVC(gamma=0.05, C=10).fit(to_rows(data.x[~half]), data.labels[~half])

    original = options.out / "original"
    if not (original / "config.json").exists():
        train_unet(data.x, options.flow_steps, original)
    energy = uf.energies.EstimatorLogOdds(guide, forget=options.digit, margin=4.0)
    forgotten = forget(original, energy, options.steps, options.bank, options.out)

    first, then = (judge.predict(to_rows(draw(each, options.samples))) for each in (original, forgotten))
    kept = first != options.digit
    print(f"Of {options.samples:,} samples by diffusers, an independent judge sees a {options.digit} in:")
    print(f"  before {100 * float((~kept).mean()):.1f} %")
    print(f"  after  {100 * float((then == options.digit).mean()):.1f} %")
    print(f"  and {100 * float((first == then)[kept].mean()):.0f} % of the others keep their class")


if __name__ == "__main__":
    main()
