"""Five requests to forget come one after the other; each is carried out on what the one before left.

    python examples/a_queue_of_requests.py --out runs/queue

The somebody else is the one of a_black_box_scorer.py: a decoder that draws digits in one step. What you
write is here. Four requests name a digit; the fourth in the queue is no name but five images, without a
label. Every result is a folder, whose lineage names the model that it was made from by the hash of its
weights: the way back from the last to the original can be walked, and shows what was done in which order.

The queue is served twice. A request that asks for its own digit alone may bring an earlier one back, because
nothing in it says that the earlier one is unwanted; so the second time each request asks for all earlier
ones again. Last, all five are asked of the original at once.

The command may be killed at any time, within a request or between two: start it again, and finished folders
are found, an unfinished one goes on from its last checkpoint, and the end is the same in every bit.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Any

import numpy as np
import torch
from a_black_box_scorer import train_decoder
from sklearn.neural_network import MLPClassifier
from sklearn.svm import SVC
from torch import nn

import unflow as uf
from unflow.disk.bundle import read_lineage
from unflow.ground.files import sha256_module

QUEUE = {"digit 3": 3, "digit 8": 8, "digit 1": 1, "five images": 6, "digit 4": 4}
"""Request -> the digit that it means; who sends images does not say."""


@dataclass(frozen=True)
class Desk:
    """Where requests are served.

    Attributes:
        guide: a classifier of scikit-learn, for requests that name a digit.
        images: for the one that sends them, [5, 1, 8, 8].
        method: how.
        out: folder of all results.
    """

    guide: MLPClassifier
    images: torch.Tensor
    method: uf.methods.Method
    out: Path

    def energy(self, request: str, model: uf.GenerativeModel) -> uf.energies.Energy:
        """Return what a request asks of a model; images lead to more of the model's own samples."""
        if request.startswith("digit"):
            return uf.energies.EstimatorLogOdds(self.guide, forget=QUEUE[request], margin=4.0)
        samples = model.sample(4000, uf.stream(1))
        return uf.anchoring.grow_request(nn.Flatten(), self.images, samples, uf.stream(2))

    def forget(
        self, energies: list[uf.energies.Energy], model: uf.GenerativeModel, name: str
    ) -> uf.GenerativeModel:
        """Return a model without what any of the energies names; a finished one is found in its folder."""
        return uf.unlearn(uf.Target(model, reduce(or_, energies)), self.method, out=self.out / name).model

    def serve(
        self, model: uf.GenerativeModel, name: str, again: bool
    ) -> Iterator[tuple[str, uf.GenerativeModel]]:
        """Yield each request with the model that it leaves; ``again``: it asks for all earlier ones, too."""
        energies: list[uf.energies.Energy] = []
        for number, request in enumerate(QUEUE, 1):
            energies = [*(energies if again else []), self.energy(request, model)]
            model = self.forget(energies, model, f"{name}-{number}")
            yield request, model

    def at_once(self, model: uf.GenerativeModel) -> uf.GenerativeModel:
        """Return the model without what all requests name, asked together."""
        return self.forget([self.energy(request, model) for request in QUEUE], model, "at-once")


def original_model(images: torch.Tensor, steps: int, folder: Path) -> uf.GenerativeModel:
    """Return their decoder; trained once, and kept as the bundle that the first request names."""
    if not (folder / "config.json").exists():
        net = train_decoder(images, steps)
        net.config = {"builder": "a_black_box_scorer:Decoder", "options": {}}
        model = uf.Generator(uf.nets.WritesAs(net, (0, 1), (1, 8, 8)), prior_shape=(8,))
        uf.save(model, folder, {"parent": None, "request": None})
    return uf.load(folder, trust_code=True)


def way_back(model: uf.GenerativeModel, folder: Path) -> list[dict[str, Any]]:
    """Return the lineages of a model and all before it; the hashes are of the weights that are there now."""
    bundles = [file.parent for file in folder.glob("*/config.json")]
    lineages = {sha256_module(uf.load(each, trust_code=True)): read_lineage(each) for each in bundles}
    way = [lineages[sha256_module(model)]]
    while way[-1]["parent"] is not None:
        way.append(lineages[way[-1]["parent"]])
    return way


# What is printed


@dataclass(frozen=True)
class Judge:
    """Somebody who was not the guide.

    Attributes:
        svm: of scikit-learn.
        samples: that are drawn of each model.
    """

    svm: SVC
    samples: int

    def counts(self, model: uf.GenerativeModel) -> np.ndarray:
        """Return how many samples show each of the ten digits."""
        seen = self.svm.predict(flat(model.sample(self.samples, uf.stream(3))))
        return np.bincount(seen, minlength=10)

    def print_row(self, name: str, model: uf.GenerativeModel) -> None:
        """Print the share of each requested digit, and the shares of the kept ones among themselves, in %."""
        counts = self.counts(model)
        kept = np.delete(counts, list(QUEUE.values()))
        left = 100 * counts[list(QUEUE.values())] / counts.sum()
        cells = "".join(f"{share:6.1f}" for share in left)
        print(f"  {name:22}{cells}   |" + "".join(f"{share:5.0f}" for share in 100 * kept / kept.sum()))


def print_head() -> None:
    """Print the digits over the columns."""
    kept = [digit for digit in range(10) if digit not in QUEUE.values()]
    asked = "".join(f"{digit:6}" for digit in QUEUE.values())
    print(f"  {'left, %':22}{asked}   |" + "".join(f"{digit:5}" for digit in kept))


def print_way(way: list[dict[str, Any]]) -> None:
    """Print one line for each lineage."""
    for each in way:
        asked = each["request"]["words"] if each["request"] else "the original"
        seconds = f"{each['seconds']:5.1f} s" if "seconds" in each else " " * 7
        print(f"  {each['weights_sha256'][:12]} {seconds}  {asked}")


def flat(images: torch.Tensor) -> np.ndarray:
    """Return images as rows of 64 numbers, as scikit-learn reads them."""
    return images.flatten(1).numpy()


def main() -> None:
    """Run the story."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/queue"))
    parser.add_argument("--decoder-steps", type=int, default=6000)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--bank", type=int, default=8192)
    parser.add_argument("--samples", type=int, default=5000)
    asked = parser.parse_args()
    torch.set_num_threads(1)

    data = uf.data.load_data("digits")
    half = torch.arange(len(data)) % 2 == 0
    guide = MLPClassifier(128, max_iter=300, random_state=0).fit(flat(data.x[half]), data.labels[half])
    judge = Judge(SVC(gamma=0.05, C=10).fit(flat(data.x[~half]), data.labels[~half]), asked.samples)
    images = data.x[half & (data.labels == QUEUE["five images"])][:5]
    method = uf.methods.LatentTransport(steps=asked.steps, bank_size=asked.bank)
    desk = Desk(guide, images, method, asked.out)
    original = original_model(data.x / 2 + 0.5, asked.decoder_steps, asked.out / "original")

    print(f"Requested digits in {asked.samples:,} samples; behind the line, the others among themselves:")
    print_head()
    judge.print_row("before", original)
    last: dict[str, uf.GenerativeModel] = {}
    for name, again in (("alone", False), ("again", True)):
        print(f"In turn, each request {'with all earlier ones' if again else 'for itself'}:")
        for request, model in desk.serve(original, name, again):
            judge.print_row(f"after {request}", model)
            last[name] = model
    print("All five at once:")
    judge.print_row("after", desk.at_once(original))
    print("The way back from the end of the first queue, by the hashes of weights:")
    print_way(way_back(last["alone"], asked.out))


if __name__ == "__main__":
    main()
