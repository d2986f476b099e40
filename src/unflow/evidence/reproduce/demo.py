"""The demo: train, forget and audit on the embedded digits."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from unflow.data import LabelledData, Split, load_data, split_data, write_split
from unflow.disk import bundle
from unflow.energies import ClassLogOdds, check_margin
from unflow.evidence.auditing import (
    JUDGE_SEED_OFFSET,
    MIN_SAMPLES,
    Audit,
    Entry,
    Evidence,
    Family,
    Samples,
    assemble_audit,
    draw_samples,
    judge_record,
    target_samples,
)
from unflow.evidence.auditing.costs import guided_cost, trained_cost
from unflow.evidence.metrics.forgetting import check_request
from unflow.evidence.reproduce.published import find_published_method
from unflow.ground.errors import InputError
from unflow.ground.streams import Stream, check_seed, stream
from unflow.mathematics.divergences import DIVERGENCES
from unflow.models import GenerativeModel
from unflow.models.classifier import Classifier
from unflow.target import Target, check_strength
from unflow.training.compute import check_device
from unflow.training.method import Method
from unflow.training.originals import TRAINERS
from unflow.training.originals.base_models import train_model
from unflow.training.originals.classification import Classification
from unflow.unlearning.problems import select_real_samples
from unflow.unlearning.unlearn import GUIDE_DATA, unlearn

ROWS: dict[str, tuple[str, ...]] = {
    "flow": ("energy_guidance", "erfm", "erfm_resample", "gradient_ascent", "fine_tune", "retrained"),
    "flow_map": ("residual_matching", "uot", "uot_tilted", "gradient_ascent", "fine_tune"),
}
"""The rows that the demo trains for each family; original and target need no training."""

GUIDE_NET = {"net": "mlp", "width": 256, "depth": 2}
JUDGE_NET = {"net": "convnet", "width": 16}
FLOW_NET = {"net": "mlp", "width": 256, "depth": 4}
GUIDE = Classification(steps=200)
JUDGE = Classification(steps=600, smoothing=0.05)


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """One run of the demo.

    Attributes:
        forget: classes to forget.
        seed: of split, weights, batches and samples.
        margin: of the energy, in nats, >= 0.
        strength: lam >= 0.
        divergence: kl, softplus or chi2.
        flow_map: training of the one-step model: distill or mean_flow.
        n: samples per audited row.
        full: whether the flow map is retrained as well (distilled from the retrained flow).
        device: cpu, cuda or mps.
    """

    forget: tuple[int, ...] = (3,)
    seed: int = 0
    margin: float = 4.0
    strength: float = 1.0
    divergence: str = "kl"
    flow_map: str = "distill"
    n: int = 4000
    full: bool = False
    device: str = "cpu"
    overrides: dict[str, Method] = field(default_factory=dict)
    """Row or trainer name -> method in place of the default one (small settings in tests)."""

    def __post_init__(self) -> None:
        check_seed(self.seed)
        check_device(self.device)
        check_strength(self.strength)
        check_margin(self.margin)
        if self.n < MIN_SAMPLES:
            raise InputError(f"got n={self.n}; expected {MIN_SAMPLES} or more samples per row")


class Demo:
    """The stages of one run; each loads its result from disk or makes it.

    Args:
        config: settings of the run.
        out: the run folder.
    """

    def __init__(self, config: DemoConfig, out: Path) -> None:
        self.config, self.out = config, out
        self.data = load_data("digits")
        check_request(config.forget, len(self.data.class_names))
        self.split: Split = split_data(self.data, config.seed)

    def select_part(self, name: str) -> LabelledData:
        """Return one part of the split."""
        return self.split.of(self.data, name)

    def run(self) -> Audit:
        """Run all stages and return the audit."""
        self.out.mkdir(parents=True, exist_ok=True)
        write_split(self.split, self.data, self.out / "split.json")
        guide = self.train_classifier("guide")
        judge = self.train_classifier("judge")
        flow = self.train_base("flow", None)
        flow_map = self.train_base("flow_map", flow)
        energy = ClassLogOdds(guide, self.config.forget, self.config.margin)
        evidence = Evidence(
            judge,
            self.config.forget,
            self.select_part("held_out"),
            self.select_part("train"),
            energy,
            extractor="judge features (convnet)",
        )
        families = [self.make_family(model, energy) for model in (flow, flow_map)]
        record = judge_record(
            judge,
            guide,
            self.select_part("held_out"),
            name="convnet",
            judge_data=self.select_part("judge").fingerprint,
            guide_data=self.select_part("train").fingerprint,
            forget=self.config.forget,
        )
        return assemble_audit(
            families, evidence, [record], self.describe_request(energy), self.data.class_names, self.out
        )

    def make_family(self, model: GenerativeModel, energy: ClassLogOdds) -> Family:
        """Return the rows of a base model and of every method on it."""
        divergence = DIVERGENCES[self.config.divergence]()
        entries, second = self.make_entries(Target(model, energy, self.config.strength, divergence))
        return Family(model.family, entries, second)

    def describe_request(self, energy: ClassLogOdds) -> dict[str, Any]:
        """Return the request as plain data."""
        config = self.config
        return {
            "forget": list(config.forget),
            "words": energy.describe(),
            "margin": config.margin,
            "strength": config.strength,
            "divergence": config.divergence,
            "seed": config.seed,
        }

    def choose_method(self, name: str, defaults: dict[str, Method]) -> Method:
        """Return the default method of that name, unless the run overrides it."""
        return self.config.overrides.get(name, defaults[name])

    def train_classifier(self, name: str) -> Classifier:
        """Return the guide (trained on the generators' part) or the judge (trained on its own part)."""
        net, part, seed = {
            "guide": (GUIDE_NET, "train", self.config.seed),
            "judge": (JUDGE_NET, "judge", self.config.seed + JUDGE_SEED_OFFSET),
        }[name]
        method = self.choose_method(name, {"guide": GUIDE, "judge": JUDGE})
        model = train_model(
            "classifier",
            net,
            method,
            self.select_part(part),
            self.out / name,
            seed=seed,
            part=part,
            label=name,
            device=self.config.device,
        )
        assert isinstance(model, Classifier)
        return model

    def train_base(
        self, family: str, teacher: GenerativeModel | None, folder: str = "", data: LabelledData | None = None
    ) -> GenerativeModel:
        """Return the base flow, or the base flow map (distilled from the flow, or MeanFlow).

        Args:
            family: flow or flow_map.
            teacher: the flow to distil.
            folder: of the model; by default that of the family.
            data: training samples; None: the part "train".
        """
        name = "flow_matching" if family == "flow" else self.config.flow_map
        model = train_model(
            family,
            FLOW_NET,
            self.choose_method(name, TRAINERS),
            self.select_part("train") if data is None else data,
            self.out / (folder or family),
            seed=self.config.seed,
            teacher=teacher if name == "distill" else None,
            label=f"{family} ({name})",
            device=self.config.device,
        )
        assert isinstance(model, GenerativeModel)
        return model

    def make_entries(self, target: Target) -> tuple[list[Entry], Samples]:
        """Return the entries of a family, and a second set of exact target samples."""
        config, family = self.config, target.model.family
        z = target.model.prior(config.n, stream(config.seed, Stream.LATENTS))
        own = target.model.prior(config.n, stream(config.seed, Stream.RETRAINED, 0))
        lineage = bundle.read_lineage(self.out / family)
        base_cost = trained_cost(lineage, target.model) | {"train_seconds": lineage["seconds"]}
        entries = [
            Entry(
                "original",
                draw_samples(target.model, z),
                config.seed,
                data_used=["train_images"],
                cost=base_cost,
            )
        ]
        for name in ROWS[family]:
            entries.append(self.make_entry(target, name, own if name == "retrained" else z))
        if config.full and family == "flow_map":
            entries.append(self.make_retrained(own))
        first, second = (target_samples(target, config.n, config.seed, k) for k in (0, 1))
        entries.append(Entry("target", first, config.seed, original_recoverable=True, data_used=GUIDE_DATA))
        return entries, second

    def make_entry(self, target: Target, name: str, z: Tensor) -> Entry:
        """Train one row, or load it from disk."""
        config = self.config
        method = self.choose_method(name, {name: find_published_method(name, FLOW_NET)})
        result = unlearn(
            target,
            method,
            self.out / "unlearned" / f"{target.model.family}-{name}",
            seed=config.seed,
            name=name,
            device=config.device,
            guide_data=GUIDE_DATA,
            data=select_real_samples(
                method, target, config.forget, self.select_part("train"), self.select_part("held_out")
            ),
        )
        return Entry(
            name,
            draw_samples(result.model, z),
            config.seed,
            original_recoverable=result.model.original_recoverable,
            data_used=result.lineage["data_used"],
            cost=guided_cost(result.lineage, result.model, self.guide_seconds),
        )

    @property
    def guide_seconds(self) -> float:
        """Training time of the guide."""
        return float(bundle.read_lineage(self.out / "guide")["seconds"])

    def make_retrained(self, z: Tensor) -> Entry:
        """Train the flow map without the classes: by MeanFlow, or distilled from the retrained flow."""
        folder = self.out / "unlearned"
        teacher = bundle.load(folder / "flow-retrained")
        data = self.select_part("train").without_classes(self.config.forget)
        model = self.train_base("flow_map", teacher, "unlearned/flow_map-retrained", data)
        lineage = bundle.read_lineage(folder / "flow_map-retrained")
        seconds = lineage["seconds"]
        if self.config.flow_map == "distill":
            seconds += bundle.read_lineage(folder / "flow-retrained")["seconds"]
        cost = trained_cost(lineage, model) | {"train_seconds": seconds}
        return Entry(
            "retrained", draw_samples(model, z), self.config.seed, data_used=["retain_images"], cost=cost
        )
