"""A request made of a one-step model: every method that can change one, and the rows to hold them to."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from unflow.disk import bundle
from unflow.energies import Energy
from unflow.evidence.auditing import AuditRow, Entry, Evidence, draw_samples
from unflow.evidence.auditing.costs import trained_cost
from unflow.evidence.reproduce.request import Request
from unflow.evidence.reproduce.study import Study
from unflow.models import GenerativeModel
from unflow.unlearning.unlearn import GUIDE_DATA

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
ONE_STEP_ROWS = ("retrained", *OURS, *BASELINES)
"""What is made for every request; original and target need no training."""


class OneStepRequest(Request):
    """One request to forget, made of a study's flow map by every method for one-step models.

    Args:
        study: what is there.
        forget: classes to forget.
        name: folder of the request.
        energy: F; None: as for ``Request``.
        energy_data: what went into F, for the record.
        strength: lam.
        margin: of the default energy; None: as for ``Request``.
        rows: methods; "retrained" costs a flow and its distillation.
    """

    def __init__(
        self,
        study: Study,
        forget: Sequence[int],
        name: str,
        *,
        energy: Energy | None = None,
        energy_data: tuple[str, ...] = GUIDE_DATA,
        strength: float = 1.0,
        margin: float | None = None,
        rows: Sequence[str] = ONE_STEP_ROWS,
    ) -> None:
        super().__init__(
            study,
            forget,
            name,
            energy=energy,
            energy_data=energy_data,
            strength=strength,
            margin=margin,
            model=study.flow_map,
            rows=rows,
        )

    def original_cost(self) -> dict[str, Any]:
        """Return what training the flow and distilling it has cost."""
        return self._distilled_cost("flow", "flow_map", self.model)

    def entry(self, name: str) -> Entry:
        """Return one row to be; the retrained one is trained as the original was."""
        return self._retrained() if name == "retrained" else super().entry(name)

    def retrained(self) -> GenerativeModel:
        """Return the one-step model that is distilled from a flow which never saw the forgotten classes."""
        flows = Request(self.study, self.forget, self.name, energy=self.energy)
        method = self.study.recipe.method("retrained")
        flow = flows.carried_out("retrained", method, "retrained-flow")
        return self.study.distilled(flow.model, f"{self.name}/retrained")

    def model_of(self, name: str) -> GenerativeModel:
        """Return the model of a row, or the original."""
        return self.retrained() if name == "retrained" else super().model_of(name)

    def _retrained(self) -> Entry:
        model = self.retrained()
        cost = self._distilled_cost(f"{self.name}/retrained-flow", f"{self.name}/retrained", model)
        samples = draw_samples(self.study.whole(model), self.z())
        return Entry("retrained", samples, self.study.seed, data_used=["retain_images"], cost=cost)

    def _distilled_cost(self, flow: str, flow_map: str, model: GenerativeModel) -> dict[str, Any]:
        first, second = (bundle.read_lineage(self.study.out / name) for name in (flow, flow_map))
        return trained_cost(second, model) | {"train_seconds": first["seconds"] + second["seconds"]}

    # What a glance at a model compares it with

    @cached_property
    def judged_original(self) -> Tensor:
        """Labels that the judge gives to the original's samples."""
        return self.study.judge.probabilities(self.study.whole(self.model).push_batches(self.z())).argmax(1)

    @cached_property
    def judged_target(self) -> Tensor:
        """Labels that the judge gives to exact samples of q*."""
        return self.study.judge.probabilities(self._exact).argmax(1)

    @cached_property
    def target_features(self) -> Tensor:
        """Features of exact samples of q*."""
        return self.study.judge.features(self._exact)

    @cached_property
    def retain_features(self) -> Tensor:
        """Features of all real held-out samples of the retained classes."""
        return self.study.judge.features(self._retain.x)

    @cached_property
    def _exact(self) -> Tensor:
        return torch.as_tensor(self.target_samples(0).x)

    def further(self, evidence: Evidence, entry: Entry, row: AuditRow) -> dict[str, Any]:
        """Return nothing beyond an audit's row."""
        return {}
