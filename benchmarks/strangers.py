"""Third-party generators forget by unflow's defaults, judged by networks that unflow never reads.

    python benchmarks/strangers.py --data MNIST --fashion FASHION --out runs/strangers --seeds 1 2 3
    python benchmarks/strangers.py --out runs/strangers --strangers mlp_gan --methods latent_transport \
        --requests common --seeds 0

The eight generators in ``benchmarks/third_party`` are trained once and kept in ``--cache``. Each of them
forgets a common class, a rare class, two classes, and an attribute without labels. A finished cell (stranger,
request, method, seed) lies in OUT/cells and is not run again. OUT/table.json has all numbers, OUT/table.md
the tables, OUT/pictures the samples at the same latents before and after.

Seconds are CPU seconds of one thread, of the trainings as well, so that other work on the machine does not
change their ratio; the guide's training is part of the unlearning.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from strangers_measures import Judges, Reference, list_failures, make_reference, measure
from strangers_tables import draw_pictures, write_tables
from third_party import scores, training
from third_party.data import load_half, load_part
from third_party.latent_flow import Codec
from torch import Tensor

import unflow as uf
from unflow.energies import BlackBox, Energy, ScoreLogOdds
from unflow.foreign import load_energy, load_model
from unflow.models.autoencoder import Autoencoder
from unflow.unlearning.defaults import default_method
from unflow.unlearning.problems import NO_SAMPLES, make_problem

STRANGERS = ("mlp_gan", "vae", "dcgan", "cgan", "unet_flow", "label_flow", "mean_flow", "latent_flow")
REQUESTS = ("common", "rare", "two", "attribute")
ATTRIBUTES: dict[str, tuple[Callable[[np.ndarray], np.ndarray], str]] = {
    "data": (scores.thick, "thick strokes"),
    "fashion": (scores.bright, "bright garments"),
}
"""Dataset -> the score function of its attribute, and the name of the attribute."""
MARGIN, SETS, SHOWN, RAREST = 4.0, 4, 16, 0.02
"""Margin of the commands; sets of exact target samples; samples of a picture; least share of a rare class."""


@dataclass(frozen=True)
class Stranger:
    """One third-party generator with its judges.

    Attributes:
        name: in ``third_party.training.RECIPES``.
        model: loaded by its specification string.
        judges: of its dataset.
        cache: folder of the weights.
        n: samples of a row and of each set of exact target samples.
    """

    name: str
    model: uf.GenerativeModel
    judges: Judges
    cache: Path
    n: int

    @property
    def dataset(self) -> str:
        """The option that names the folder of its images."""
        return training.RECIPES[self.name].dataset

    @property
    def guide(self) -> str:
        """The name of its guide."""
        return "fashion_guide" if self.dataset == "fashion" else "guide"

    def record(self, name: str = "") -> dict[str, Any]:
        """Return the record of the training of a network: this one, or another in the cache."""
        return json.loads((self.cache / f"{name or self.name}.json").read_text())

    def draw(self, part: int) -> Tensor:
        """Return n samples of the original, kept in the cache; part 0 is at the latents of every row."""
        file = self.cache / "samples" / f"{self.name}-{self.n}-{part}.safetensors"
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            x = self.model.push_batches(self.latents(part))
            save_file({"x": x.half()}, file)
        return load_file(file)["x"].float()

    def latents(self, part: int) -> Tensor:
        """Return the latents of a part of the samples."""
        return self.model.prior(self.n, uf.stream(0, 900, part))


def load_stranger(name: str, folders: dict[str, str], cache: Path, n: int) -> Stranger:
    """Train what is missing, and load the stranger."""
    prefix = "fashion_" if training.RECIPES[name].dataset == "fashion" else ""
    for each in (name, f"{prefix}guide", f"{prefix}judge", f"{prefix}autoencoder"):
        training.train_once(each, folders, cache)
    line = json.loads((cache / f"{name}.json").read_text())["line"]
    decoder = cache / f"{name}_decoder"
    if f"decoder={decoder.resolve()}" in line and not (decoder / "config.json").exists():
        codec: Any = Codec()
        codec.load_state_dict(load_file(cache / f"{name}_codec.safetensors"))
        codec.config = {"builder": "third_party.latent_flow:Codec", "options": {}}
        uf.save(Autoencoder(codec), decoder)
    return Stranger(name, load_model(line, trust_code=True), Judges(cache, prefix), cache, n)


# Requests


@dataclass(frozen=True)
class Request:
    """What a stranger forgets.

    Attributes:
        name: in ``REQUESTS``.
        classes: to forget; empty for an attribute.
        words: for tables.
        energy: as the commands build it.
        is_forgotten: images and their judged classes -> whether each is to be forgotten.
    """

    name: str
    classes: tuple[int, ...]
    words: str
    energy: Energy
    is_forgotten: Callable[[Tensor, Tensor], Tensor]


def make_request(stranger: Stranger, name: str) -> Request:
    """Return a request; the judge counts the original's classes to choose common and rare ones."""
    if name == "attribute":
        score, words = ATTRIBUTES[stranger.dataset]
        black_box = BlackBox(score, batch_size=4096, name=words)

        def has_attribute(x: Tensor, _: Tensor) -> Tensor:
            return torch.from_numpy(score(x.numpy()) > 0.5)

        return Request(name, (), words, ScoreLogOdds(black_box, MARGIN), has_attribute)
    counts = torch.bincount(stranger.judges.classes(stranger.draw(0)), minlength=10)
    order = counts.argsort(descending=True).tolist()
    rare = [each for each in order if counts[each] >= RAREST * counts.sum()][-1]
    classes = {"common": (order[0],), "rare": (rare,), "two": (order[1], order[2])}[name]
    energy = load_energy(stranger.record(stranger.guide)["line"], classes, MARGIN, stranger.model)

    def is_of_class(_: Tensor, judged: Tensor) -> Tensor:
        return torch.isin(judged, torch.tensor(classes))

    return Request(name, classes, " and ".join(map(str, classes)), energy, is_of_class)


def refer(stranger: Stranger, request: Request) -> Reference:
    """Return the exact target's samples, by rejection from the original, and what is measured on them."""
    target = uf.Target(stranger.model, request.energy)
    accepted: list[Tensor] = []
    part = 1
    while sum(map(len, accepted)) < SETS * stranger.n:
        x = stranger.draw(part)
        with torch.no_grad():
            energy = torch.cat([request.energy(rows) for rows in x.split(2000)])
        rows = uf.stream(0, 901, part)
        accepted.append(x[torch.rand(len(x), generator=rows) < target.acceptance(energy)])
        part += 1
    exact = torch.cat(accepted)[: SETS * stranger.n].split(stranger.n)
    guide = load_energy(stranger.record(stranger.guide)["line"], (0,), MARGIN, stranger.model)
    (classifier,) = [each for each in guide.modules() if isinstance(each, uf.Classifier)]
    return make_reference(
        stranger.judges,
        lambda x: classifier.probabilities(x).argmax(1),
        request.is_forgotten,
        exact,
        stranger.draw(0),
        stranger.latents(0),
    )


# Cells


def choose_method(stranger: Stranger, row: str, tuned: dict[str, Any]) -> Any:
    """Return the method of a row: its defaults, or the settings chosen for this stranger."""
    chosen = tuned.get(stranger.name, {}).get(row)
    return row if chosen is None else type(uf.methods.UNLEARNERS[row])(**chosen)


def select_samples(stranger: Stranger, request: Request, method: Any, folders: dict[str, str]) -> Any:
    """Return the real samples that a method reads."""
    target = uf.Target(stranger.model, request.energy)
    reads = method.reads(make_problem(target, NO_SAMPLES, None))
    if not {"retain", "forget"} & set(reads):
        return {}
    images, labels = load_half(folders[stranger.dataset], 0)
    held_images, held_labels = load_part(folders[stranger.dataset], "t10k")
    x, held = (2 * each.unsqueeze(1) - 1 for each in (images, held_images))
    gone, held_gone = request.is_forgotten(x, labels), request.is_forgotten(held, held_labels)
    samples = {"retain": x[~gone], "forget": x[gone]}
    found = {name: each for name, each in samples.items() if name in reads}
    if method.watches_held_out and "retain" in reads:
        found["held_out"] = held[~held_gone]
    return found


def run_cell(
    stranger: Stranger, request: Request, reference: Reference, row: str, seed: int, asked: Any
) -> tuple[dict[str, Any], Tensor]:
    """Unlearn once; return the measures and the samples at the latents of every row."""
    method = choose_method(stranger, row, asked.tuned)
    plain = uf.methods.UNLEARNERS[row] if isinstance(method, str) else method
    target = uf.Target(stranger.model, request.energy)
    data = select_samples(stranger, request, plain, asked.folders)
    wall, cpu = time.perf_counter(), time.process_time()
    result = uf.unlearn(target, method, seed=seed, **data)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    model = result.model
    same = model.prior_shape == stranger.model.prior_shape
    z = reference.z if same else model.prior(stranger.n, uf.stream(0, 900, 0))
    x = model.push_batches(z)
    guide = 0.0 if request.name == "attribute" else stranger.record(stranger.guide)["train_cpu_seconds"]
    trained = stranger.record()["train_cpu_seconds"]
    lineage = {key: value for key, value in result.lineage.items() if key not in ("versions", "data")}
    is_flow = training.RECIPES[stranger.name].kind == "flow"
    found = measure(reference, stranger.judges, x, same) | {
        "wall_seconds": wall,
        "cpu_seconds": cpu,
        "share_of_training": (cpu + guide) / trained,
        "original_recoverable": model.original_recoverable,
        "lineage": lineage,
    }
    return found | {"fails": list_failures(found, reference.facts, is_flow)}, x


def run_stranger(name: str, asked: Any) -> None:
    """Run the missing cells of one stranger."""
    stranger = None
    for request_name in asked.requests:
        missing = [
            (row, seed)
            for row in list_methods(name, asked.methods)
            for seed in asked.seeds
            if not cell_file(asked.out, name, request_name, row, seed).exists()
        ]
        if not missing:
            continue
        stranger = stranger or load_stranger(name, asked.folders, asked.cache, asked.n)
        say(f"{name}, {request_name}: the exact target and its floor")
        request = make_request(stranger, request_name)
        reference = refer(stranger, request)
        write_reference(asked.out, stranger, request, reference)
        for number, (row, seed) in enumerate(missing):
            say(f"{name}, forget {request.words}: {row}, seed {seed} ({number + 1} of {len(missing)})")
            run_and_write(stranger, request, reference, row, seed, asked)
            finish(asked.out)


def run_and_write(
    stranger: Stranger, request: Request, reference: Reference, row: str, seed: int, asked: Any
) -> None:
    """Run a cell and write it; a refusal and a failed training are results too."""
    file = cell_file(asked.out, stranger.name, request.name, row, seed)
    about = {"stranger": stranger.name, "request": request.name, "method": row, "seed": seed}
    try:
        found, x = run_cell(stranger, request, reference, row, seed, asked)
    except (uf.InputError, RuntimeError) as error:
        found = {"refused": str(error), "error": type(error).__name__}
        say(f"  {found['error']}: {error}")
    else:
        rows = pick_shown(reference)
        save_file({"x": x[rows].contiguous()}, file.with_suffix(".safetensors"))
        misses = ", ".join(found["fails"]) or "nothing"
        say(
            f"  left {100 * found['left']['share']:.2f} %, FD {found['distance']['judge']:.2f}, sharpness "
            f"{found['sharpness']:.3f}, {found['cpu_seconds']:.0f} s; misses {misses}"
        )
    file.write_text(json.dumps(about | found, indent=1, default=str))


def pick_shown(reference: Reference) -> Tensor:
    """Return rows of a picture: half of them forgotten in the original, half kept."""
    gone = reference.is_forgotten(reference.original, reference.original_classes)
    return torch.cat([gone.nonzero()[: SHOWN // 2, 0], (~gone).nonzero()[: SHOWN // 2, 0]])


def write_reference(out: Path, stranger: Stranger, request: Request, reference: Reference) -> None:
    """Write what the table says of the original and the exact target, and the original's picture."""
    file = out / "cells" / f"{stranger.name}.{request.name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    about = {"stranger": stranger.name, "request": request.name, "words": request.words}
    seconds = {"train_cpu_seconds": stranger.record()["train_cpu_seconds"]}
    file.write_text(json.dumps(about | reference.facts | seconds, indent=1))
    x = reference.original[pick_shown(reference)].contiguous()
    save_file({"x": x}, file.with_suffix(".safetensors"))


def cell_file(out: Path, stranger: str, request: str, row: str, seed: int) -> Path:
    return out / "cells" / f"{stranger}.{request}.{row}.{seed}.json"


def list_methods(stranger: str, asked: Sequence[str]) -> list[str]:
    """Return the rows of a stranger; "default" is the method that ``unlearn`` chooses for it."""
    default = default_method("flow" if training.RECIPES[stranger].kind == "flow" else "generator")
    return list(dict.fromkeys(default if each == "default" else each for each in asked))


def finish(out: Path) -> None:
    """Write the tables and pictures of all finished cells."""
    write_tables(out)
    draw_pictures(out)


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def add_places(parser: argparse.ArgumentParser, out: Path) -> None:
    """Add the options that name the data, the strangers and the folders."""
    parser.add_argument("--data", help="folder with MNIST's IDX files")
    parser.add_argument("--fashion", help="folder with Fashion-MNIST's IDX files")
    parser.add_argument("--cache", type=Path, default=Path("runs/strangers-cache"))
    parser.add_argument("--out", type=Path, default=out)
    parser.add_argument("--strangers", nargs="+", choices=STRANGERS, default=list(STRANGERS))


def parse_places(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Return the parsed options, with ``folders``: the folder of each dataset."""
    asked = parser.parse_args()
    asked.folders = {"data": asked.data, "fashion": asked.fashion}
    return asked


def read_options() -> argparse.Namespace:
    every = [row for row in uf.methods.UNLEARNERS if row not in ("retrained", "reject")]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_places(parser, Path("runs/strangers"))
    parser.add_argument("--requests", nargs="+", choices=REQUESTS, default=list(REQUESTS))
    parser.add_argument("--methods", nargs="+", choices=["default", *every], default=["default"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--n", type=int, default=4000, help="samples of a row")
    parser.add_argument("--tuned", type=Path, help="JSON: stranger -> row -> settings of its method")
    asked = parse_places(parser)
    asked.tuned = json.loads(asked.tuned.read_text()) if asked.tuned else {}
    return asked


def main() -> None:
    asked = read_options()
    torch.set_num_threads(1)
    for name in asked.strangers:
        run_stranger(name, asked)
    finish(asked.out)
    print((asked.out / "table.md").read_text())


if __name__ == "__main__":
    main()
