"""A study: one data set, one seed; what is trained once for all requests."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unflow.data import LabelledData
from unflow.data.toy import GeometryJudge, PlanarSet
from unflow.disk import bundle
from unflow.energies.calibration import Tempered, calibrate
from unflow.evidence.auditing import JUDGE_SEED_OFFSET, Judge
from unflow.evidence.auditing.judge_training import IMAGES, SECOND
from unflow.ground.streams import Stream, stream
from unflow.methods import UNLEARNERS
from unflow.methods.baselines.fine_tune import FineTune
from unflow.methods.baselines.neg_grad_plus import NegGradPlus
from unflow.methods.baselines.retrain import Retrain
from unflow.models import Flow, FlowMap, GenerativeModel, Latent
from unflow.models.autoencoder import Autoencoder
from unflow.models.classifier import CachedJudge, Classifier
from unflow.models.components import SavedModel
from unflow.training.method import Method
from unflow.training.originals.autoencoding import Autoencoding
from unflow.training.originals.base_models import train_model
from unflow.training.originals.classification import Classification
from unflow.training.originals.distill import Distill
from unflow.training.originals.flow_matching import FlowMatching


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How everything about one data set is trained.

    Attributes:
        flow_net: network of the flow, without its shape.
        flow: training of the original; the retrained model has the same.
        flow_map_net, distill: of the one-step model that is distilled from the flow; None without one.
        guide_net, guide: the classifier behind the energies, on what the flow makes (points, latents).
        judge_net, judge: the classifier that judges samples; in the plane it only stands beside the
            exact geometry.
        autoencoder_net, autoencoder: for flows of latents; None for flows of the data themselves.
        critic_net, critic: the classifier whose eye the autoencoder is trained for; None without one.
        n: samples per row.
        methods: row name -> method, in place of a default one (small settings in tests).
    """

    flow_net: dict[str, Any]
    flow: FlowMatching
    guide_net: dict[str, Any]
    guide: Classification
    judge_net: dict[str, Any]
    judge: Classification
    autoencoder_net: dict[str, Any] | None = None
    autoencoder: Autoencoding | None = None
    critic_net: dict[str, Any] | None = None
    critic: Classification | None = None
    flow_map_net: dict[str, Any] | None = None
    distill: Distill | None = None
    n: int = 5000
    methods: dict[str, Method] = field(default_factory=dict)

    def method(self, name: str) -> Method:
        """Return a row's method: the library's default, with the original's way of pairing and training."""
        if name in self.methods:
            return self.methods[name]
        method = UNLEARNERS[name]
        if isinstance(method, Retrain):
            names = ("steps", "batch_size", "learning_rate", "average", "coupling")
            return Retrain(**{key: getattr(self.flow, key) for key in names})
        if isinstance(method, FineTune | NegGradPlus):
            return dataclasses.replace(method, coupling=self.flow.coupling)
        return method


class Study:
    """What is trained once for a data set and a seed; each part finds itself on disk or is made.

    Args:
        recipe: how.
        parts: train (generators and the guide), judge, held_out (statistics; never trained on).
        seed: of data, training and judge.
        out: folder.
        device: cpu, cuda or mps.
        planar: the set in the plane whose exact geometry judges; None for images.
    """

    def __init__(
        self,
        recipe: Recipe,
        parts: dict[str, LabelledData],
        seed: int,
        out: Path,
        device: str = "cpu",
        planar: PlanarSet | None = None,
    ) -> None:
        self.recipe, self.parts, self.seed, self.out, self.device = recipe, parts, seed, out, device
        self.planar = planar
        self._latents: dict[str, LabelledData] = {}

    @property
    def class_names(self) -> list[str]:
        """Names of the classes."""
        return self.parts["train"].class_names

    @cached_property
    def autoencoder(self) -> Autoencoder | None:
        """Trained on the images of all classes; None for data in the plane."""
        net, method = self.recipe.autoencoder_net, self.recipe.autoencoder
        if net is None or method is None:
            return None
        model = self._train(
            "autoencoder", net, method, self.parts["train"], "autoencoder", critic=self.critic
        )
        assert isinstance(model, Autoencoder)
        return model

    @cached_property
    def critic(self) -> Classifier | None:
        """The classifier whose eye the autoencoder is trained for; it sees what the generators see."""
        net, method = self.recipe.critic_net, self.recipe.critic
        if net is None or method is None:
            return None
        model = self._train("classifier", net, method, self.parts["train"], "critic")
        assert isinstance(model, Classifier)
        return model

    @cached_property
    def classifier_judge(self) -> Classifier:
        """A classifier of samples, trained on its own part with its own seed."""
        recipe, seed = self.recipe, self.seed + JUDGE_SEED_OFFSET
        model = self._train("classifier", recipe.judge_net, recipe.judge, self.parts["judge"], "judge", seed)
        assert isinstance(model, Classifier)
        return model

    @cached_property
    def second_judge(self) -> Classifier:
        """Another network and seed on the same part: it confirms what an attack makes the judge see."""
        seed = self.seed + 2 * JUDGE_SEED_OFFSET
        net, rows = IMAGES[SECOND], self.parts["judge"]
        model = self._train("classifier", net, self.recipe.judge, rows, "second-judge", seed)
        assert isinstance(model, Classifier)
        return model

    @cached_property
    def judge(self) -> Judge:
        """The exact geometry in the plane, the classifier for images."""
        return CachedJudge(self.classifier_judge) if self.planar is None else GeometryJudge(self.planar)

    @cached_property
    def guide(self) -> Classifier:
        """The classifier behind the energies: it sees what the flow makes, points or latents."""
        model = self._train(
            "classifier", self.recipe.guide_net, self.recipe.guide, self.guide_rows[0], "guide"
        )
        assert isinstance(model, Classifier)
        return model

    @cached_property
    def guide_rows(self) -> tuple[LabelledData, LabelledData]:
        """Training samples for the guide, and a tenth that only its calibration sees."""
        data = self.latents("train")
        order = torch.randperm(len(data), generator=stream(self.seed, Stream.GUIDE_ROWS))
        held = len(data) // 10
        return data.rows(order[held:]), data.rows(order[:held])

    @cached_property
    def calibrated_guide(self) -> Tempered:
        """The guide, no surer than it is right on the tenth that it has not seen."""
        unseen = self.guide_rows[1]
        return calibrate(self.guide, unseen.x, unseen.labels)

    @cached_property
    def flow(self) -> Flow:
        """The original: a flow of points or latents of all classes."""
        model = self._train("flow", self.recipe.flow_net, self.recipe.flow, self.latents("train"), "flow")
        assert isinstance(model, Flow)
        return model

    @cached_property
    def flow_map(self) -> FlowMap:
        """The one-step original: the flow, distilled."""
        return self.distilled(self.flow, "flow_map")

    def distilled(self, teacher: GenerativeModel, name: str) -> FlowMap:
        """Return a flow's one-step model; ``name`` is its folder."""
        net, method = self.recipe.flow_map_net, self.recipe.distill
        assert net is not None
        assert method is not None
        model = self._train("flow_map", net, method, self.latents("train"), name, teacher=teacher)
        assert isinstance(model, FlowMap)
        return model

    def _train(
        self,
        kind: str,
        net: dict[str, Any],
        method: Method,
        data: LabelledData,
        name: str,
        seed: int | None = None,
        teacher: GenerativeModel | None = None,
        critic: Classifier | None = None,
    ) -> SavedModel:
        part = "judge" if name in ("judge", "second-judge") else "train"
        return train_model(
            kind,
            net,
            method,
            data,
            self.out / name,
            seed=self.seed if seed is None else seed,
            part=part,
            device=self.device,
            label=name,
            teacher=teacher,
            critic=critic,
        )

    def latents(self, part: str) -> LabelledData:
        """Return a part as the flow sees it: encoded, if there is an autoencoder."""
        if self.autoencoder is None:
            return self.parts[part]
        if part not in self._latents:
            data = self.parts[part]
            self._latents[part] = dataclasses.replace(data, x=self.autoencoder.encode(data.x))
        return self._latents[part]

    def whole(self, model: GenerativeModel) -> GenerativeModel:
        """Return a flow of latents with the decoder after it; a flow of points as it is."""
        return model if self.autoencoder is None else Latent(model, self.autoencoder)

    def decoded(self, x: Tensor) -> Tensor:
        """Return images of latents; points as they are."""
        return x if self.autoencoder is None else self.autoencoder.decode_batches(x)

    def seconds(self, name: str) -> float:
        """Return how long the training of one part took."""
        return float(bundle.read_lineage(self.out / name)["seconds"])
