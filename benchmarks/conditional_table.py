"""Class-conditional digits forget 3, and an independent judge asks for every label.

    python benchmarks/conditional_table.py --out runs/conditional
    python benchmarks/conditional_table.py --out runs/conditional --seeds 1 --models flow --rows erfm_resample
    python benchmarks/conditional_page.py runs/conditional

Two models: the flow of the recipe `digits-flow` with `--conditional true`, and its student, one step at
guidance 2 (`digits-flow-map`, `--settings.guidance 2`). Every row is asked for each label, for the null
label, and for 3 at guidance 1, 2 and 4, with 5,000 samples each. Exact samples of the target answer the same
questions. The judge has another network than the guide and images of its own.

A finished cell (model, row, seed) lies in OUT/cells and is not run again; trained networks lie in OUT/models.
OUT/table.json has all cells. A row that needs a setting of ``conditional_tuning.py`` reads it from --tuned.

Seconds are CPU seconds of one thread, so that other work on the machine does not change their ratio. The
training of the student contains that of its teacher. The guide's training is part of the unlearning.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import torch
from conditional_bases import NET, train_base
from conditional_digits import FORGET, K
from conditional_measures import Question, Reference, ask, list_questions, make_reference, measure
from safetensors.torch import save_file
from torch import Tensor

import unflow as uf
from unflow.data import LabelledData, load_data, split_data
from unflow.disk.bundle import load_any
from unflow.energies import ClassLogOdds
from unflow.ground.files import read_json, write_json
from unflow.methods import UNLEARNERS, Classification, Retrain
from unflow.models import Conditional
from unflow.models.classifier import Classifier
from unflow.nets import new_net
from unflow.training.loop import fit
from unflow.training.method import Method, Problem, settings
from unflow.unlearning.problems import select_real_samples

MARGIN, SHOWN = 4.0, 8
"""Margin of the commands; samples of each label that are kept for the pictures."""
BASES = {"flow": "flow", "one-step": "distill, guidance 2"}
"""Model -> its row in ``conditional_bases.BASES``."""
RETRAINED = {"retrained": "retrained", "retrained_mixture": "retrained_mixture"}
ROWS = {
    "flow": (
        *RETRAINED,
        "energy_guidance",
        "erfm_resample",
        "erfm_resample_prior",
        "esd",
        "esd, tuned",
        "concept_ablation",
    ),
    "one-step": (
        *RETRAINED,
        "latent_transport",
        "uot_tilted",
        "residual_matching",
        "concept_ablation",
        "concept_ablation, tuned",
        "sfd, tuned",
    ),
}
CLASSIFIERS: dict[str, tuple[str, dict[str, Any], Classification]] = {
    "guide": ("train", {"net": "mlp", "width": 256, "depth": 2, "num_times": 0}, Classification(steps=200)),
    "judge": ("judge", {"net": "convnet", "width": 16}, Classification(steps=600, smoothing=0.05)),
}
"""Name -> part of the split, network and training, those of the recipes digits-guide and digits-judge."""


def train_once(folder: Path, make: Callable[[], Any]) -> tuple[Any, float]:
    """Return what ``make`` returns with its CPU seconds; the second time, both are read from the folder."""
    file = Path(f"{folder}.json")
    if not file.exists():
        start = time.process_time()
        found = make()
        seconds = time.process_time() - start
        uf.save(found, folder)
        write_json(file, {"cpu_seconds": seconds})
    return load_any(folder), read_json(file)["cpu_seconds"]


@dataclass(frozen=True)
class Workshop:
    """The data, the networks and the models of one seed.

    Attributes:
        seed: of the split and of every training.
        out: folder of the results.
    """

    seed: int
    out: Path

    def part(self, name: str) -> LabelledData:
        """Return a part of the digits: train, judge or held_out."""
        data = load_data("digits")
        return split_data(data, seed=self.seed).of(data, name)

    def folder(self, name: str) -> Path:
        """Return the folder of a network."""
        return self.out / "models" / f"{name.replace(', ', '-').replace(' ', '-')}.{self.seed}"

    def classifier(self, name: str) -> tuple[Classifier, float]:
        """Return the guide or the judge."""
        part, net, training = CLASSIFIERS[name]
        seed = self.seed + 1 + list(CLASSIFIERS).index(name)

        def make() -> Any:
            data = self.part(part)
            model = Classifier(new_net({"shape": [1, 8, 8], "outputs": K, **net}, seed), data.class_names)
            return fit(
                training, Problem(model=model, data=data.x, labels=data.labels), seed=seed
            ).model.eval()

        return train_once(self.folder(name), make)

    @cached_property
    def guide(self) -> tuple[Classifier, float]:
        """The guide, and its CPU seconds."""
        return self.classifier("guide")

    def base(self, model: str) -> tuple[Conditional, float]:
        """Return the flow or its student; the student's seconds contain those of the flow."""
        flow, seconds = train_once(
            self.folder("flow"), lambda: train_base("flow", self.part("train"), self.seed, None)
        )
        if model == "flow":
            return flow, seconds
        student, own = train_once(
            self.folder(model), lambda: train_base(BASES[model], self.part("train"), self.seed, flow)
        )
        return student, seconds + own

    def target(self, model: str, replacement: str = "retained") -> uf.Target:
        """Return the request: forget 3, by the guide."""
        energy = ClassLogOdds(self.guide[0], [FORGET], MARGIN)
        return uf.Target(self.base(model)[0], energy, replace=replacement)

    def retrained(self, model: str, row: str) -> tuple[Conditional, float]:
        """Return a model that was trained without 3; a student is distilled from such a flow."""
        method = UNLEARNERS[row]

        def make_flow() -> Any:
            target = self.target("flow")
            samples = select_real_samples(method, target, (FORGET,), self.part("train"))
            return uf.unlearn(target, method, seed=self.seed, data=samples, self_measure=0).model

        def make_student() -> Any:
            copy = Retrain(steps=3000, learning_rate=1e-3, guidance=2.0)
            return uf.unlearn(self.target(model), copy, seed=self.seed, teacher=flow, self_measure=0).model

        flow, seconds = train_once(self.folder(f"flow-{row}"), make_flow)
        if model == "flow":
            return flow, seconds
        student, own = train_once(self.folder(f"{model}-{row}"), make_student)
        return student, seconds + own

    def unlearned(
        self, model: str, row: str, method: Method, replacement: str = "retained"
    ) -> tuple[Conditional, float]:
        """Return a model that a method has changed; the seconds contain those of the guide."""
        target = self.target(model, replacement)
        teacher = self.base("flow")[0] if "teacher" in method.needs else None

        def make() -> Any:
            return uf.unlearn(target, method, seed=self.seed, teacher=teacher, self_measure=0).model

        found, seconds = train_once(self.folder(f"{model}-{row}"), make)
        return found, seconds + self.guide[1]

    def refer(
        self, model: str, judge: Classifier, n: int
    ) -> tuple[Reference, list[Question], dict[str, Any]]:
        """Return the exact target of a model in the features of a judge, and its record."""
        questions = list_questions(self.base(model)[0], FORGET)
        held_out = self.part("held_out")
        real = {k: held_out.x[held_out.labels == k] for k in range(K)}
        reference, facts = make_reference(self.target(model), judge, FORGET, questions, n, self.seed, real)
        return reference, questions, facts


# Cells


def choose_method(row: str, model: str, tuned: dict[str, Any]) -> Method:
    """Return the method of a row: its defaults, or the settings that were chosen at seed 0."""
    name, _, is_tuned = row.partition(", ")
    if not is_tuned:
        return UNLEARNERS[name]
    return type(UNLEARNERS[name])(**tuned[model][name])


def cell_file(out: Path, model: str, row: str, seed: int) -> Path:
    return out / "cells" / f"{model}.{row.replace(', ', '-')}.{seed}.json"


def run_model(model: str, seed: int, asked: argparse.Namespace) -> None:
    """Run the missing cells of one model and one seed."""
    rows = ["original", "target", *(row for row in ROWS[model] if row in asked.rows)]
    missing = [row for row in rows if not cell_file(asked.out, model, row, seed).exists()]
    if not missing:
        return
    shop = Workshop(seed, asked.out)
    judge, _ = shop.classifier("judge")
    say(f"{model}, seed {seed}: the exact target and its floor")
    reference, questions, facts = shop.refer(model, judge, asked.n)
    about = {"model": model, "seed": seed, "n": asked.n}
    for row in missing:
        if row == "target":
            found = describe_target(shop, judge, reference, facts)
        else:
            found = run_row(shop, model, row, reference, questions, asked)
        write_json(cell_file(asked.out, model, row, seed), about | {"method": row} | found)
        say(f"{model}, seed {seed}, {row}: {summarise(found)}")
        write_table(asked.out)


def describe_target(
    shop: Workshop, judge: Classifier, reference: Reference, facts: dict[str, Any]
) -> dict[str, Any]:
    """Return the record of the exact target, with what is known of guide and judge."""
    held_out, train = shop.part("held_out"), shop.part("train")
    real = {}
    for k, features in reference.real.items():
        own = judge.features(train.x[train.labels == k])
        real[str(k)] = uf.metrics.frechet_distance(generated=own, reference=features)
    return facts | {
        "judge_accuracy": judge.accuracy(held_out.x, held_out.labels),
        "guide_accuracy": shop.guide[0].accuracy(held_out.x, held_out.labels),
        "floors": dict(reference.floors),
        "train_to_held_out": real,
    }


def run_row(
    shop: Workshop,
    model: str,
    row: str,
    reference: Reference,
    questions: list[Question],
    asked: argparse.Namespace,
) -> dict[str, Any]:
    """Make the model of a row, ask it, and return the record."""
    base, training = shop.base(model)
    about: dict[str, Any] = {}
    if row == "original":
        found, seconds = base, training
    elif row in RETRAINED:
        found, seconds = shop.retrained(model, row)
    else:
        method = choose_method(row, model, asked.tuned)
        found, seconds = shop.unlearned(model, row, method)
        about = {"settings": settings(method)}
    samples = ask(found, questions, asked.n, shop.seed)
    keep_shown(samples, cell_file(asked.out, model, row, shop.seed).with_suffix(".safetensors"))
    about |= {
        "cpu_seconds": seconds,
        "share_of_training": seconds / training,
        "original_recoverable": found.original_recoverable,
    }
    return measure(reference, samples) | about


def keep_shown(samples: dict[str, Tensor], file: Path) -> None:
    """Write the first samples of each question."""
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: x[:SHOWN].contiguous() for key, x in samples.items()}, file)


def summarise(found: dict[str, Any]) -> str:
    """Return one line of progress."""
    asked = " / ".join(f"{100 * each['share']:.2f}" for each in found["asked"].values())
    least = min(each["own"]["share"] for each in found["labels"])
    over = max(each["distance"] / each["floor"] for each in found["labels"])
    return (
        f"asked {asked} %, null {100 * found['null']['share']:.2f} %, own {100 * found['ra']:.1f} %, "
        f"at least {100 * least:.1f} %, FD at most {over:.1f} floors, {found.get('cpu_seconds', 0):.0f} s"
    )


def write_table(out: Path) -> None:
    """Write all finished cells to table.json."""
    cells = [json.loads(file.read_text()) for file in sorted((out / "cells").glob("*.json"))]
    write_json(out / "table.json", {"forget": FORGET, "margin": MARGIN, "net": NET, "cells": cells})


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def read_options() -> argparse.Namespace:
    every = sorted({row for rows in ROWS.values() for row in rows})
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/conditional"))
    parser.add_argument("--models", nargs="+", choices=list(BASES), default=list(BASES))
    parser.add_argument("--rows", nargs="+", choices=every, default=every)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--n", type=int, default=5000, help="samples of each label")
    parser.add_argument("--tuned", type=Path, default=Path("docs/results/conditional/tuned.json"))
    asked = parser.parse_args()
    asked.tuned = json.loads(asked.tuned.read_text()) if asked.tuned.exists() else {}
    return asked


def main() -> None:
    asked = read_options()
    torch.set_num_threads(1)
    for seed in asked.seeds:
        for model in asked.models:
            run_model(model, seed, asked)
    write_table(asked.out)


if __name__ == "__main__":
    main()
