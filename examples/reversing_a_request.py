"""A request is withdrawn: how to undo each result, and what to delete so that nothing can be undone.

    python examples/reversing_a_request.py --out runs/reversing

The first half stands for third-party code: a flow of digits in plain PyTorch. The second half is the code
that you write:

1. A small flow after the original makes it forget a digit. Without that flow, the model is the original, bit
   by bit. Run backwards, the flow turns samples that were already drawn into those of the original.
2. The original's own weights are changed. To undo this, load the parent; the lineage has its hash.
3. Two requests are applied one after the other, and the first is withdrawn: the second alone is applied to
   the original.

A result that can be undone is not a deletion. The last lines name every folder from which the original can
still be recovered; for a permanent request, delete those and keep one exported network.
"""

from __future__ import annotations

import argparse
import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as nnf
from sklearn.neural_network import MLPClassifier
from sklearn.svm import SVC
from torch import nn

import unflow as uf
from unflow.ground.files import sha256_module

# Third-party code


class Velocity(nn.Module):
    """(x [batch, 1, 8, 8], t [batch] in [0, 1]) -> velocity from noise to digits; 0 before training."""

    config: dict[str, Any]

    def __init__(self, width: int = 256, depth: int = 3) -> None:
        super().__init__()
        self.first = nn.Linear(64 + 8, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.SiLU(), nn.Linear(width, width)) for _ in range(depth)
        )
        self.last = nn.Linear(width, 64)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Return the velocity."""
        angles = t[:, None] * torch.tensor([1.0, 2.0, 4.0, 8.0])
        h = self.first(torch.cat([x.flatten(1), angles.sin(), angles.cos()], 1))
        for block in self.blocks:
            h = h + block(h)
        return self.last(h).view_as(x)


def train_velocity(images: torch.Tensor, steps: int) -> Velocity:
    """Train by flow matching on straight lines from noise (t = 0) to data (t = 1)."""
    torch.manual_seed(0)
    net = Velocity()
    optimizer = torch.optim.Adam(net.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        x, t = images[torch.randint(len(images), (256,))], torch.rand(256)
        noise, s = torch.randn_like(x), t[:, None, None, None]
        loss = nnf.mse_loss(net((1 - s) * noise + s * x, t), x - noise)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return net.eval()


# Code that you write


def make_original(images: torch.Tensor, steps: int, folder: Path) -> uf.Flow:
    """Return the flow; it is trained once and kept as a bundle, the parent of other results."""
    if not (folder / "config.json").exists():
        net = train_velocity(images, steps)
        net.config = {"builder": "reversing_a_request:Velocity", "options": {}}
        uf.save(uf.Flow(net, (1, 8, 8)), folder)
    model = uf.load(folder, trust_code=True)
    assert isinstance(model, uf.Flow)
    return model


def reverse_flow(flow: uf.Flow) -> uf.Flow:
    """Return the same flow with its time reversed: it maps outputs to inputs."""
    net = uf.nets.AdaptedVelocity(flow.net, flow.sample_shape, "x, t", noise_at=1)
    return uf.Flow(net, flow.sample_shape, flow.integrator, 4 * flow.steps)


def find_weights(digest: str, folder: Path) -> dict[Path, str]:
    """Return bundles that hold weights of this hash -> name of the module in them; "" is the whole model."""
    bundles = sorted(file.parent for file in folder.glob("*/config.json"))
    return {
        bundle: name
        for bundle in bundles
        for name, part in uf.load(bundle, trust_code=True).named_modules()
        if sha256_module(part) == digest
    }


def to_rows(images: torch.Tensor) -> np.ndarray:
    """Return images as rows of 64 numbers, as scikit-learn reads them."""
    return images.flatten(1).numpy()


@dataclass(frozen=True)
class Judge:
    """An independent judge of both digits.

    Attributes:
        svm: a classifier of scikit-learn that is not the guide.
        z: the same latents for every model, [n, 1, 8, 8].
        digits: the two digits to forget.
    """

    svm: SVC
    z: torch.Tensor
    digits: tuple[int, int]

    def print_shares(self, name: str, x: torch.Tensor) -> None:
        """Print the share of both digits in images [n, 1, 8, 8]."""
        seen = self.svm.predict(to_rows(x))
        shares = ", ".join(f"{digit}: {100 * float((seen == digit).mean()):4.1f} %" for digit in self.digits)
        print(f"  {name:44} {shares}")


@dataclass(frozen=True)
class Requests:
    """Serves and withdraws requests.

    Attributes:
        options: settings of all methods.
        judge: prints the shares of both digits.
        out: folder of all results.
    """

    options: dict[str, int]
    judge: Judge
    out: Path

    def forget(
        self, model: uf.GenerativeModel, energy: uf.energies.Energy, method: str, name: str
    ) -> uf.Unlearned:
        """Return a model that forgets what the energy scores; a finished one is loaded from its folder."""
        chosen = dataclasses.replace(uf.methods.UNLEARNERS[method], **self.options)
        return uf.unlearn(uf.Target(model, energy), chosen, out=self.out / name)

    def remove_flow(self, model: uf.GenerativeModel, energy: uf.energies.Energy) -> None:
        """Put a small flow after the original, remove it again, and run it backwards."""
        print("1. A small flow after the original")
        chain, z = self.forget(model, energy, "erfm_resample", "flow-after").model, self.judge.z
        assert isinstance(chain, uf.Chain)
        assert isinstance(chain.after, uf.Flow)
        first, x = (each.push_batches(z) for each in (chain.base, chain))
        self.judge.print_shares("after", x)
        self.judge.print_shares("with the flow removed", first)
        same = sha256_module(chain.base) == sha256_module(model)
        print(f"  in the same bits as the original: {'yes' if same else 'no'}")
        back = reverse_flow(chain.after).push_batches(x)
        self.judge.print_shares("samples after, moved backwards", back)
        moved, missed = (float((one - first).flatten(1).norm(dim=1).mean()) for one in (x, back))
        print(f"  mean distance to the original's samples: {missed:.3f}, and {moved:.3f} before moving back")

    def load_parent(self, result: uf.Unlearned) -> uf.GenerativeModel:
        """Return the parent of a result: the lineage has its hash, and a folder its weights."""
        print("2. The original's own weights")
        self.judge.print_shares("after the first request", result.model.push_batches(self.judge.z))
        bundles = find_weights(result.lineage["parent"], self.out)
        parent = next(bundle for bundle, part in bundles.items() if part == "")
        model = uf.load(parent, trust_code=True)
        self.judge.print_shares(f"withdrawn: the parent is {parent.name}/", model.push_batches(self.judge.z))
        return model

    def apply_second(
        self, model: uf.GenerativeModel, first: uf.GenerativeModel, energy: uf.energies.Energy
    ) -> uf.Unlearned:
        """Apply a second request after the first, and then alone; return the result of both."""
        print("3. Two requests, of which the first is withdrawn")
        both = self.forget(first, energy, "erfm_resample_prior", "first-and-second")
        self.judge.print_shares("after both", both.model.push_batches(self.judge.z))
        second = self.forget(model, energy, "erfm_resample_prior", "second")
        self.judge.print_shares(
            "after the second alone, from the parent", second.model.push_batches(self.judge.z)
        )
        return both

    def print_what_to_delete(self, model: uf.GenerativeModel, kept: nn.Module) -> None:
        """Print the folders from which the original can be recovered, and write the network to keep."""
        print("A result that can be undone is not a deletion. The original can still be recovered from")
        for bundle, part in find_weights(sha256_module(model), self.out).items():
            print(f"  {bundle.name}/" + (f", as the module {part!r} of its model" if part else ""))
        exported = self.out / "first-and-second.safetensors"
        if not exported.exists():
            uf.weights.write_weights(kept, exported)
        print("If both requests are permanent, delete these, first/ and second/, which still draw one digit;")
        print(f"keep one network: {exported.name}")


def main() -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/reversing"))
    parser.add_argument("--flow-steps", type=int, default=4000)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--bank", type=int, default=8192)
    parser.add_argument("--samples", type=int, default=4000)
    options = parser.parse_args()
    torch.set_num_threads(1)

    data = uf.data.load_data("digits")
    half = torch.arange(len(data)) % 2 == 0
    guide = MLPClassifier(128, max_iter=300, random_state=0).fit(to_rows(data.x[half]), data.labels[half])
    svm = SVC(gamma=0.05, C=10).fit(to_rows(data.x[~half]), data.labels[~half])
    judge = Judge(svm, torch.randn(options.samples, 1, 8, 8, generator=uf.stream(0)), (3, 6))
    one, two = (uf.energies.EstimatorLogOdds(guide, forget=d, margin=4.0) for d in judge.digits)

    model = make_original(data.x, options.flow_steps, options.out / "original")
    print("Shares of both digits, by an independent judge")
    judge.print_shares("before", model.push_batches(judge.z))
    requests = Requests({"steps": options.steps, "bank_size": options.bank}, judge, options.out)
    requests.remove_flow(model, one)
    first = requests.forget(model, one, "erfm_resample_prior", "first")
    both = requests.apply_second(requests.load_parent(first), first.model, two)
    requests.print_what_to_delete(model, both.module())


if __name__ == "__main__":
    main()
