"""Comparison of energies: margin, noise, calibration, balance, ensemble, generated samples.

    unflow reproduce continualflow-mnist --out tune --seed 0 --seeds 1 --dataset mnist --data DIR
    python benchmarks/energies.py tune continualflow-mnist mnist --data DIR

It uses seed 0, on which settings are chosen; results are reported on other seeds. Each variant changes one
setting of the default energy. `target` is its exact target, `erfm_resample` the default method on it.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from unflow.data import LabelledData
from unflow.energies import ClassLogOdds, Energy
from unflow.energies.calibration import balance_classes, calibrate
from unflow.evidence import metrics
from unflow.evidence.reproduce import EXPERIMENTS
from unflow.evidence.reproduce.images import ImageExperiment
from unflow.evidence.reproduce.request import MARGIN, NUM_BALANCE
from unflow.evidence.reproduce.study import Study
from unflow.ground.streams import stream
from unflow.models.classifier import Classifier
from unflow.target import Target
from unflow.training.loop import fit
from unflow.training.method import Problem
from unflow.training.originals.base_models import new_model
from unflow.unlearning.unlearn import unlearn


class Ensemble(nn.Module):
    """The mean of several classifiers' log-probabilities."""

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([member(x).log_softmax(1) for member in self.members]).mean(0)


class Bench:
    def __init__(self, study: Study, forget: tuple[int, ...]) -> None:
        self.study, self.forget = study, forget
        self.bank = study.flow.sample(NUM_BALANCE, stream(study.seed, 41))

    def guide(
        self, seed: int = 0, noise: float | None = None, data: LabelledData | None = None
    ) -> Classifier:
        study, data = self.study, data or self.study.guide_rows[0]
        recipe = study.recipe.guide
        method = recipe if noise is None else dataclasses.replace(recipe, noise=noise)
        fresh = new_model("classifier", study.recipe.guide_net, data, seed)
        trained = fit(method, Problem(model=fresh, data=data.x, labels=data.labels), seed=seed).model
        assert isinstance(trained, Classifier)
        return trained

    def with_generated(self) -> Classifier:
        """Train on real samples and as many generated ones, labelled by the first guide."""
        real = self.study.guide_rows[0]
        x = self.study.flow.sample(len(real), stream(self.study.seed, 42))
        labels = self.study.guide.probabilities(x).argmax(1)
        both = dataclasses.replace(real, x=torch.cat([real.x, x]), labels=torch.cat([real.labels, labels]))
        return self.guide(data=both)

    def tempered(self, guide: nn.Module) -> nn.Module:
        unseen = self.study.guide_rows[1]
        return calibrate(guide, unseen.x, unseen.labels)

    def energy(
        self, guide: nn.Module, margin: float = MARGIN, calibrate: bool = True, balance: bool = True
    ) -> Energy:
        guide = self.tempered(guide) if calibrate else guide
        plain = ClassLogOdds(guide, self.forget, margin)
        return balance_classes(plain, guide, self.forget, self.bank) if balance else plain

    def variants(self) -> dict[str, Callable[[], Energy]]:
        guide = self.study.guide
        return {
            "default: calibrated, margin 5, balanced": lambda: self.energy(guide),
            "margin 0 (the paper's weight), balanced": lambda: self.energy(guide, 0.0),
            "margin 3": lambda: self.energy(guide, 3.0),
            "margin 7": lambda: self.energy(guide, 7.0),
            "not calibrated": lambda: self.energy(guide, calibrate=False),
            "not balanced": lambda: self.energy(guide, balance=False),
            "margin 0, not balanced (the paper's)": lambda: self.energy(guide, 0.0, False, False),
            "guide with noise 0.1": lambda: self.energy(self.guide(noise=0.1)),
            "guide of real and generated rows": lambda: self.energy(self.with_generated()),
            "ensemble of three guides": lambda: self.energy(
                Ensemble([self.guide(seed=k) for k in (11, 12, 13)])
            ),
        }

    def row(self, name: str, energy: Energy) -> str:
        study, forget = self.study, self.forget
        target = Target(study.flow, energy)
        n, z = study.recipe.n, study.flow.prior(study.recipe.n, stream(study.seed, 99))
        bank = target.bank(n, stream(study.seed, 63))
        exact = target.sample(n, stream(study.seed, 100)).x
        result = unlearn(target, study.recipe.find_method("erfm_resample"), seed=study.seed)
        cells = [name, f"{target.effective_sample_size(bank.energy):.2f}"]
        for x in (exact, result.model.push_batches(z)):
            images = x if study.autoencoder is None else study.autoencoder.decode_batches(x)
            probabilities = study.judge.probabilities(images)
            real = study.parts["held_out"].without_classes(forget)
            fid = metrics.frechet_distance(
                generated=study.judge.features(images), reference=study.judge.features(real.x)
            )
            own, wanted = (
                metrics.class_counts(p.argmax(1), study.judge.num_classes)
                for p in (probabilities, study.judge.probabilities(real.x))
            )
            tv = metrics.retained_share_tv(own, wanted, forget)
            cells += [f"{metrics.forget_rate(probabilities, forget):.2%}", f"{fid:.2f}", f"{tv:.3f}"]
        return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("experiment")
    parser.add_argument("dataset")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--only", default="", help="run the variants whose names contain this")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    experiment = EXPERIMENTS[arguments.experiment](out=arguments.out, seeds=[0], data=arguments.data)
    assert isinstance(experiment, ImageExperiment)
    bench = Bench(experiment.make_study(0), experiment.find_forgotten(arguments.dataset))
    print(
        "| energy | ESS | target: left | FD retain | share TV | erfm_resample: left | FD retain | share TV |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name, make in bench.variants().items():
        if arguments.only in name:
            print(bench.row(name, make()), flush=True)


if __name__ == "__main__":
    main()
