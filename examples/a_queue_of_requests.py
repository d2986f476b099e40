"""Five requests to forget arrive one after the other; each is applied to the result of the one before.

    python examples/a_queue_of_requests.py --out runs/queue

The third-party model is that of a_black_box_scorer.py: a decoder that draws digits in one step. Four requests
name a digit; the fourth in the queue is five images without a label. Every result is a folder. Its lineage
names its parent by the hash of the parent's weights, so the lineages lead from the last result back to the
original, and show which request was applied when.

The queue is served twice. A request for its own digit alone may bring an earlier digit back, because nothing
in it says that the earlier digit is unwanted. The second time, each request therefore includes all earlier
ones. Finally, all five requests are applied to the original at once.

The command may be killed at any time, within a request or between two. When it is started again, it loads the
finished folders and continues an unfinished one from its last checkpoint. The result has the same bits.
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
"""Request -> the digit that it means; a request by images does not state it."""


@dataclass(frozen=True)
class RequestQueue:
    """Serves requests.

    Attributes:
        guide: a classifier of scikit-learn, for requests that name a digit.
        images: [5, 1, 8, 8], for the request by images.
        method: unlearning method.
        out: folder of all results.
    """

    guide: MLPClassifier
    images: torch.Tensor
    method: uf.methods.Method
    out: Path

    def energy(self, request: str, model: uf.GenerativeModel) -> uf.energies.Energy:
        """Return the energy of a request; that of images is fitted on similar samples of the model."""
        if request.startswith("digit"):
            return uf.energies.EstimatorLogOdds(self.guide, forget=QUEUE[request], margin=4.0)
        samples = model.sample(4000, uf.stream(1))
        return uf.anchoring.grow_request(nn.Flatten(), self.images, samples, uf.stream(2))

    def forget(
        self, energies: list[uf.energies.Energy], model: uf.GenerativeModel, name: str
    ) -> uf.GenerativeModel:
        """Return a model that forgets what any of the energies scores; load it if it is finished."""
        return uf.unlearn(uf.Target(model, reduce(or_, energies)), self.method, out=self.out / name).model

    def serve(
        self, model: uf.GenerativeModel, name: str, again: bool
    ) -> Iterator[tuple[str, uf.GenerativeModel]]:
        """Yield each request with its result; with ``again``, each request includes all earlier ones."""
        energies: list[uf.energies.Energy] = []
        for number, request in enumerate(QUEUE, 1):
            energies = [*(energies if again else []), self.energy(request, model)]
            model = self.forget(energies, model, f"{name}-{number}")
            yield request, model

    def forget_at_once(self, model: uf.GenerativeModel) -> uf.GenerativeModel:
        """Return the model after all requests at once."""
        return self.forget([self.energy(request, model) for request in QUEUE], model, "at-once")


def make_original(images: torch.Tensor, steps: int, folder: Path) -> uf.GenerativeModel:
    """Return the decoder; train it once, and keep its bundle as the first parent."""
    if not (folder / "config.json").exists():
        net = train_decoder(images, steps)
        net.config = {"builder": "a_black_box_scorer:Decoder", "options": {}}
        model = uf.Generator(uf.nets.WritesAs(net, (0, 1), (1, 8, 8)), prior_shape=(8,))
        uf.save(model, folder, {"parent": None, "request": None})
    return uf.load(folder, trust_code=True)


def trace_back(model: uf.GenerativeModel, folder: Path) -> list[dict[str, Any]]:
    """Return the lineages of a model and of its ancestors, found by the hashes of their weights."""
    bundles = [file.parent for file in folder.glob("*/config.json")]
    lineages = {sha256_module(uf.load(each, trust_code=True)): read_lineage(each) for each in bundles}
    way = [lineages[sha256_module(model)]]
    while way[-1]["parent"] is not None:
        way.append(lineages[way[-1]["parent"]])
    return way


# What is printed


@dataclass(frozen=True)
class Judge:
    """An independent judge of samples.

    Attributes:
        svm: a classifier of scikit-learn that is not the guide.
        samples: number of samples that it sees of each model.
    """

    svm: SVC
    samples: int

    def counts(self, model: uf.GenerativeModel) -> np.ndarray:
        """Return how many samples show each of the ten digits."""
        seen = self.svm.predict(to_rows(model.sample(self.samples, uf.stream(3))))
        return np.bincount(seen, minlength=10)

    def print_row(self, name: str, model: uf.GenerativeModel) -> None:
        """Print the share of each requested digit, and of the other digits among themselves, in %."""
        counts = self.counts(model)
        kept = np.delete(counts, list(QUEUE.values()))
        left = 100 * counts[list(QUEUE.values())] / counts.sum()
        cells = "".join(f"{share:6.1f}" for share in left)
        print(f"  {name:22}{cells}   |" + "".join(f"{share:5.0f}" for share in 100 * kept / kept.sum()))


def print_head() -> None:
    """Print the digits above the columns."""
    kept = [digit for digit in range(10) if digit not in QUEUE.values()]
    asked = "".join(f"{digit:6}" for digit in QUEUE.values())
    print(f"  {'left, %':22}{asked}   |" + "".join(f"{digit:5}" for digit in kept))


def print_way(way: list[dict[str, Any]]) -> None:
    """Print one line for each lineage."""
    for each in way:
        asked = each["request"]["words"] if each["request"] else "the original"
        seconds = f"{each['seconds']:5.1f} s" if "seconds" in each else " " * 7
        print(f"  {each['weights_sha256'][:12]} {seconds}  {asked}")


def to_rows(images: torch.Tensor) -> np.ndarray:
    """Return images as rows of 64 numbers, as scikit-learn reads them."""
    return images.flatten(1).numpy()


def main() -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/queue"))
    parser.add_argument("--decoder-steps", type=int, default=6000)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--bank", type=int, default=8192)
    parser.add_argument("--samples", type=int, default=5000)
    options = parser.parse_args()
    torch.set_num_threads(1)

    data = uf.data.load_data("digits")
    half = torch.arange(len(data)) % 2 == 0
    guide = MLPClassifier(128, max_iter=300, random_state=0).fit(to_rows(data.x[half]), data.labels[half])
    judge = Judge(SVC(gamma=0.05, C=10).fit(to_rows(data.x[~half]), data.labels[~half]), options.samples)
    images = data.x[half & (data.labels == QUEUE["five images"])][:5]
    method = uf.methods.LatentTransport(steps=options.steps, bank_size=options.bank)
    queue = RequestQueue(guide, images, method, options.out)
    original = make_original(data.x / 2 + 0.5, options.decoder_steps, options.out / "original")

    print(
        f"Requested digits in {options.samples:,} samples; after the line, the other digits among themselves:"
    )
    print_head()
    judge.print_row("before", original)
    last: dict[str, uf.GenerativeModel] = {}
    for name, again in (("alone", False), ("again", True)):
        print(f"One after the other, each request {'with all earlier ones' if again else 'alone'}:")
        for request, model in queue.serve(original, name, again):
            judge.print_row(f"after {request}", model)
            last[name] = model
    print("All five at once:")
    judge.print_row("after", queue.forget_at_once(original))
    print("The way back from the last result of the first queue, by the hashes of weights:")
    print_way(trace_back(last["alone"], options.out))


if __name__ == "__main__":
    main()
