"""A request to forget for a one-step model: every method that can change one, and the reference rows."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from unflow.disk import bundle
from unflow.evidence import metrics
from unflow.evidence.auditing import AuditRow, Entry, Evidence, draw_samples
from unflow.evidence.auditing.costs import trained_cost
from unflow.evidence.metrics.forgetting import is_forgotten
from unflow.evidence.reproduce.request import CLEAN, INNER, RETRAINED, Request
from unflow.models import GenerativeModel
from unflow.target import Target

OURS = ("uot", "uot_tilted", "latent_transport", "latent_transport_uot", "latent_transport_chain")
BASELINES = (
    "fine_tune",
    "gradient_ascent",
    "neg_grad_plus",
    "relabel",
    "saliency",
    "selective_amnesia",
    "weight_extrapolation",
    "reject",
)
ONE_STEP_ROWS = ("retrained", INNER, *OURS, *BASELINES)
"""The rows that are made for every request; original and target need no training."""
NEEDS_FLOW = ("fine_tune", "neg_grad_plus")
"""Baselines that train by the loss of a flow or flow map, which a generator has not."""
GENERATOR_ROWS = (
    "retrained",
    "residual_matching",
    *OURS,
    *(name for name in BASELINES if name not in NEEDS_FLOW),
)
"""The rows of a generator of images."""


class OneStepRequest(Request):
    """One request to forget, carried out on a study's one-step model by every method for such models.

    A retrained row is a retrained flow, distilled.
    """

    default_rows: ClassVar[Sequence[str]] = ONE_STEP_ROWS

    @property
    def original(self) -> GenerativeModel:
        """The study's one-step model."""
        return self.study.one_step

    def read_original_cost(self) -> dict[str, Any]:
        """Return the cost of the autoencoder and critic, of the flow and of its distillation."""
        seconds_before = self.study.encoding_seconds + self.study.read_seconds("flow")
        return _read_cost(self.study.out / "flow_map", self.model, seconds_before)

    def make_entry(self, name: str) -> Entry:
        """Return the samples and the cost of one row; a retrained one is trained like the original."""
        return self._make_retrained_entry(name) if name in RETRAINED else super().make_entry(name)

    def make_retrained(self, name: str = "retrained") -> GenerativeModel:
        """Return the one-step model distilled from a flow that was trained without the forgotten classes."""
        flows = Target(self.study.flow, self.energy)
        flow = self.run_method(name, self.find_method(name), self._find_flow_folder(name), target=flows)
        folder = name if name in CLEAN else f"{self.name}/{name}"
        kept = self.snapshots if name == "retrained" else None
        return self.find_study(name).distill_flow(flow.model, folder, kept)

    def _find_flow_folder(self, name: str) -> str:
        return f"{self.find_folder(name)}-flow"

    def read_seconds_before(self, name: str) -> float:
        """Return the seconds of a retrained row's stages before its distillation."""
        flow = bundle.read_lineage(self.out / self._find_flow_folder(name)) if name in RETRAINED else None
        return super().read_seconds_before(name) + (flow["seconds"] if flow else 0.0)

    def find_model(self, name: str) -> GenerativeModel:
        """Return the model of a row; "original" is the request's original."""
        return self.make_retrained(name) if name in RETRAINED else super().find_model(name)

    def _make_retrained_entry(self, name: str) -> Entry:
        model = self.find_images_model(name)
        cost = _read_cost(self.out / self.find_folder(name), model, self.read_seconds_before(name))
        samples = draw_samples(model, self.draw_latents(name))
        return Entry(name, samples, self.study.seed, data_used=["retain_images"], cost=cost)

    # A row in a second, where an audit takes ten

    def measure(self, model: GenerativeModel) -> dict[str, Any]:
        """Return the main metrics of an audit, for sweeps and ablations.

        Args:
            model: the model after unlearning.

        Returns:
            left, pul and stayed in percent; fid_retain and fid_target (judge features); share_tv in [0, 1].
        """
        judge, forget = self.study.judge, self.forget
        x = self.study.add_decoder(model).push_batches(self.draw_latents())
        before, wanted = self._original_labels, self._target_labels
        labels, features = judge.probabilities(x).argmax(1), judge.features(x)
        counts, counts_wanted = (metrics.class_counts(own, judge.num_classes) for own in (labels, wanted))
        left, left_before = (int(is_forgotten(own, forget).sum()) for own in (labels, before))
        return {
            "left": 100 * left / len(labels),
            "pul": metrics.pul(left_before, left),
            "fid_retain": metrics.frechet_distance(generated=features, reference=self._all_retain_features),
            "fid_target": metrics.frechet_distance(generated=features, reference=self._target_features),
            "share_tv": metrics.retained_share_tv(counts, counts_wanted, forget),
            "stayed": 100 * metrics.stayed_share(before, labels, forget),
        }

    @cached_property
    def _original_labels(self) -> Tensor:
        """The judge's labels of the original's samples."""
        x = self.study.add_decoder(self.model).push_batches(self.draw_latents())
        return self.study.judge.probabilities(x).argmax(1)

    @cached_property
    def _target_labels(self) -> Tensor:
        """The judge's labels of exact samples of q*."""
        return self.study.judge.probabilities(self._exact).argmax(1)

    @cached_property
    def _target_features(self) -> Tensor:
        return self.study.judge.features(self._exact)

    @cached_property
    def _exact(self) -> Tensor:
        """Exact samples of q*."""
        return torch.as_tensor(self.draw_target(0).x)

    def measure_further(self, evidence: Evidence, entry: Entry, row: AuditRow) -> dict[str, Any]:
        """Return no further entries."""
        return {}


class GeneratorRequest(OneStepRequest):
    """A request to a study's generator of images; a retrained row is a generator that is trained again."""

    default_rows: ClassVar[Sequence[str]] = GENERATOR_ROWS

    def read_original_cost(self) -> dict[str, Any]:
        """Return the cost of the generator."""
        return _read_cost(self.study.out / "generator", self.model, 0.0)

    def make_retrained(self, name: str = "retrained") -> GenerativeModel:
        """Return the generator that is trained without the forgotten classes."""
        return self.retained.train_generator(name, self.snapshots)

    def read_seconds_before(self, name: str) -> float:
        """Return 0: a generator is trained in one stage."""
        return 0.0


def _read_cost(folder: Path, model: GenerativeModel, seconds_before: float) -> dict[str, Any]:
    """Return the cost of a one-step model, the stages before its last included."""
    lineage = bundle.read_lineage(folder)
    return trained_cost(lineage, model) | {"train_seconds": seconds_before + lineage["seconds"]}
