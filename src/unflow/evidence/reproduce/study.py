"""A study: the models of one dataset and one seed that all requests share."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from unflow.data import LabelledData
from unflow.data.toy import GeometryJudge, PlanarSet
from unflow.disk import bundle
from unflow.energies.calibration import Tempered, calibrate
from unflow.evidence.auditing import JUDGE_SEED_OFFSET, Judge
from unflow.evidence.auditing.judge_training import IMAGES, SECOND
from unflow.evidence.extractors import EXTRACTORS, Extractor
from unflow.evidence.reproduce.published import find_published_method
from unflow.ground.errors import choose
from unflow.ground.streams import Stream, stream
from unflow.methods import UNLEARNERS
from unflow.methods.baselines.fine_tune import FineTune
from unflow.methods.baselines.neg_grad_plus import NegGradPlus
from unflow.methods.baselines.retrain import Retrain
from unflow.models import MODELS, Conditional, GenerativeModel, Latent
from unflow.models.autoencoder import Autoencoder
from unflow.models.classifier import CachedJudge, Classifier
from unflow.models.components import SavedModel
from unflow.training.method import Method
from unflow.training.originals.autoencoding import Autoencoding
from unflow.training.originals.base_models import train_model
from unflow.training.originals.classification import Classification
from unflow.training.originals.distill import Distill
from unflow.training.originals.flow_matching import FlowMatching
from unflow.training.originals.gan import GAN
from unflow.training.snapshots import Snapshots

Model = TypeVar("Model", bound=SavedModel)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How the models of one dataset are trained.

    Attributes:
        flow_net: network of the flow, without its shape; None for no flow.
        flow: training of the original; a retrained flow is trained in the same way.
        flow_map_net, distill: one-step model and its distillation from the flow; None for no such model.
        generator_net, gan: one-step model of the images themselves and its training, without a flow; None for
            no such model.
        guide_net, guide: the classifier in the energies; its input is the flow's output (points or latents).
        judge_net, judge: the classifier that judges samples; for two-dimensional data the exact geometry is
            the judge, and this classifier only provides the paper's metrics.
        autoencoder_net, autoencoder: for flows of latents; None for flows of the data themselves.
        critic_net, critic: the classifier whose features define the autoencoder's perceptual loss, or None.
        n: samples per row.
        n_asked: samples of each label of a conditional model.
        methods: row name -> method that replaces the default one (small settings in tests).
    """

    flow_net: dict[str, Any] | None = None
    flow: FlowMatching | None = None
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
    generator_net: dict[str, Any] | None = None
    gan: GAN | None = None
    n: int = 5000
    n_asked: int = 1000
    methods: dict[str, Method] = field(default_factory=dict)

    def find_method(self, name: str) -> Method:
        """Return a row's method as in the published tables, with the training settings of the original.

        A recipe without a flow has the default methods.
        """
        if name in self.methods:
            return self.methods[name]
        if self.flow_net is None or self.flow is None:
            return UNLEARNERS[name]
        method = find_published_method(name, self.flow_net)
        if isinstance(method, Retrain):
            names = ("steps", "batch_size", "learning_rate", "average", "coupling")
            return dataclasses.replace(method, **{key: getattr(self.flow, key) for key in names})
        if isinstance(method, FineTune | NegGradPlus):
            return dataclasses.replace(method, coupling=self.flow.coupling)
        return method


class Study:
    """The models of one dataset and one seed; each is loaded from disk, or trained on first use.

    Args:
        recipe: how the models are trained.
        parts: train (generators and the guide), judge, held_out (statistics; never trained on).
        seed: of data, training and judge.
        out: folder of the models.
        device: cpu, cuda or mps.
        planar: the two-dimensional dataset whose exact geometry is the judge; None for images.
        conditional: whether the flow and the flow map are asked for a class, or for none.
        extractor: name in ``EXTRACTORS`` of the second extractor; None for none.
    """

    def __init__(
        self,
        recipe: Recipe,
        parts: dict[str, LabelledData],
        seed: int,
        out: Path,
        device: str = "cpu",
        planar: PlanarSet | None = None,
        conditional: bool = False,
        extractor: str | None = None,
    ) -> None:
        self.recipe, self.parts, self.seed, self.out, self.device = recipe, parts, seed, out, device
        self.planar, self.conditional, self._extractor_name = planar, conditional, extractor
        self._latents: dict[str, LabelledData] = {}

    def without_classes(self, classes: Sequence[int], out: Path) -> Study:
        """Return the study of the training data without some classes, in a folder of its own.

        Its autoencoder, critic and generative models are trained by the same recipe and seed, and read no
        sample of these classes; the other classes keep their numbers. It has no judge.
        """
        parts = {name: self.parts[name].without_classes(classes) for name in ("train", "held_out")}
        return Study(self.recipe, parts, self.seed, out, self.device, self.planar, self.conditional)

    @property
    def class_names(self) -> list[str]:
        """Names of the classes."""
        return self.parts["train"].class_names

    @cached_property
    def extractor(self) -> Extractor | None:
        """The second extractor, of features that neither guide nor judge has shaped."""
        return (
            None if self._extractor_name is None else choose(EXTRACTORS, self._extractor_name, "extractor")()
        )

    @cached_property
    def autoencoder(self) -> Autoencoder | None:
        """The autoencoder, trained on the images of all classes in "train"; None without one."""
        net, method = self.recipe.autoencoder_net, self.recipe.autoencoder
        if net is None or method is None:
            return None
        return self._train(
            Autoencoder, "autoencoder", net, method, self.parts["train"], "autoencoder", critic=self.critic
        )

    @cached_property
    def critic(self) -> Classifier | None:
        """The classifier whose features define the autoencoder's perceptual loss; trained on "train"."""
        net, method = self.recipe.critic_net, self.recipe.critic
        if net is None or method is None:
            return None
        return self._train(Classifier, "classifier", net, method, self.parts["train"], "critic")

    @cached_property
    def classifier_judge(self) -> Classifier:
        """A classifier of samples, trained on the part "judge" with its own seed."""
        recipe, seed = self.recipe, self.seed + JUDGE_SEED_OFFSET
        return self._train(
            Classifier, "classifier", recipe.judge_net, recipe.judge, self.parts["judge"], "judge", seed
        )

    @cached_property
    def second_judge(self) -> Classifier:
        """Another network and seed on the same part; it confirms the judge's verdicts in attacks."""
        seed = self.seed + 2 * JUDGE_SEED_OFFSET
        net, rows = IMAGES[SECOND], self.parts["judge"]
        return self._train(Classifier, "classifier", net, self.recipe.judge, rows, "second-judge", seed)

    @cached_property
    def judge(self) -> Judge:
        """The exact geometry for two-dimensional data, the classifier for images."""
        return CachedJudge(self.classifier_judge) if self.planar is None else GeometryJudge(self.planar)

    @cached_property
    def guide(self) -> Classifier:
        """The classifier in the energies; its input is the flow's output, points or latents."""
        return self._train(
            Classifier, "classifier", self.recipe.guide_net, self.recipe.guide, self.guide_rows[0], "guide"
        )

    @cached_property
    def guide_rows(self) -> tuple[LabelledData, LabelledData]:
        """Training samples for the guide, and a tenth that only its calibration uses."""
        data = self.encode_part("train")
        order = torch.randperm(len(data), generator=stream(self.seed, Stream.GUIDE_ROWS))
        held = len(data) // 10
        return data.rows(order[held:]), data.rows(order[:held])

    @cached_property
    def calibrated_guide(self) -> Tempered:
        """The guide, calibrated by temperature on the tenth that it was not trained on."""
        unseen = self.guide_rows[1]
        return calibrate(self.guide, unseen.x, unseen.labels)

    @cached_property
    def flow(self) -> GenerativeModel:
        """The original: a flow of points or latents of all classes."""
        net, method = self.recipe.flow_net, self.recipe.flow
        assert net is not None
        assert method is not None
        return self._train_generative("flow", net, method, "flow")

    @cached_property
    def flow_map(self) -> GenerativeModel:
        """The one-step original: the flow, distilled."""
        return self.distill_flow(self.flow, "flow_map")

    def distill_flow(
        self, teacher: GenerativeModel, name: str, snapshots: Snapshots | None = None
    ) -> GenerativeModel:
        """Return the one-step model distilled from a flow; ``name`` is its folder."""
        net, method = self.recipe.flow_map_net, self.recipe.distill
        assert net is not None
        assert method is not None
        return self._train_generative("flow_map", net, method, name, teacher, snapshots)

    @cached_property
    def generator(self) -> GenerativeModel:
        """The one-step original of a recipe without a flow: a generator of images."""
        return self.train_generator("generator")

    def train_generator(self, name: str, snapshots: Snapshots | None = None) -> GenerativeModel:
        """Return a generator that is trained against a critic; ``name`` is its folder."""
        net, method = self.recipe.generator_net, self.recipe.gan
        assert net is not None
        assert method is not None
        return self._train_generative("generator", net, method, name, snapshots=snapshots)

    @property
    def one_step(self) -> GenerativeModel:
        """The one-step original: the generator, or else the flow map."""
        return self.flow_map if self.recipe.gan is None else self.generator

    def _train_generative(
        self,
        kind: str,
        net: dict[str, Any],
        method: Method,
        name: str,
        teacher: GenerativeModel | None = None,
        snapshots: Snapshots | None = None,
    ) -> GenerativeModel:
        made = Conditional if self.conditional else MODELS[kind]
        data = self.encode_part("train")
        return self._train(
            made,
            kind,
            net,
            method,
            data,
            name,
            teacher=teacher,
            conditional=self.conditional,
            snapshots=snapshots,
        )

    def _train(
        self,
        made: type[Model],
        kind: str,
        net: dict[str, Any],
        method: Method,
        data: LabelledData,
        name: str,
        seed: int | None = None,
        teacher: GenerativeModel | None = None,
        critic: Classifier | None = None,
        conditional: bool = False,
        snapshots: Snapshots | None = None,
    ) -> Model:
        part = "judge" if name in ("judge", "second-judge") else "train"
        model = train_model(
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
            conditional=conditional,
            snapshots=snapshots,
        )
        assert isinstance(model, made)
        return model

    def encode_part(self, part: str) -> LabelledData:
        """Return a part of the data in the flow's space: encoded, if there is an autoencoder."""
        if self.autoencoder is None:
            return self.parts[part]
        if part not in self._latents:
            data = self.parts[part]
            self._latents[part] = dataclasses.replace(data, x=self.autoencoder.encode(data.x))
        return self._latents[part]

    def add_decoder(self, model: GenerativeModel) -> GenerativeModel:
        """Return a model of latents followed by the decoder; a model of points unchanged."""
        return model if self.autoencoder is None else Latent(model, self.autoencoder)

    def decode(self, x: Tensor) -> Tensor:
        """Return the images of latents; points unchanged."""
        return x if self.autoencoder is None else self.autoencoder.decode_batches(x)

    @property
    def encoding_seconds(self) -> float:
        """The training time of the autoencoder and of its critic; 0 without them."""
        if self.autoencoder is None:
            return 0.0
        return sum(self.read_seconds(name) for name in ("critic", "autoencoder") if getattr(self, name))

    def read_seconds(self, name: str) -> float:
        """Return the training time of the model in a folder of the study."""
        return float(bundle.read_lineage(self.out / name)["seconds"])
