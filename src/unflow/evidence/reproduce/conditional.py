"""Experiments with conditional models: every row is asked for each label, as a user asks.

ContinualFlow's Appendix D.3 has conditional flows of latents (arXiv 2506.18747). The one-step models are
distilled from such flows. A retrained model still has the label of the forgotten class; its two rows differ
in what that label learns (``methods.Retrain``).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch

from unflow.energies import ConditionEnergy
from unflow.evidence.auditing.asked import GUIDANCE, ask_models, plan_questions
from unflow.evidence.report.terminal import Columns
from unflow.evidence.reproduce.continualflow_cifar10 import ContinualFlowCIFAR10
from unflow.evidence.reproduce.continualflow_mnist import ContinualFlowMNIST
from unflow.evidence.reproduce.experiment import Experiment
from unflow.evidence.reproduce.figures import draw_image_rows
from unflow.evidence.reproduce.images import ImageExperiment, make_images
from unflow.evidence.reproduce.one_step import OneStepRequest
from unflow.evidence.reproduce.recipes import ONE_STEP_MNIST
from unflow.evidence.reproduce.request import RETRAINED, Request
from unflow.evidence.reproduce.results import RATIOS, Row, average_rows, format_means
from unflow.evidence.reproduce.study import Recipe
from unflow.evidence.reproduce.uot_cifar10 import UOTCIFAR10
from unflow.evidence.reproduce.uot_mnist import UOTMNIST
from unflow.ground.errors import InputError
from unflow.ground.files import stage
from unflow.methods import ESD, SFD, ConceptAblation
from unflow.target import Target
from unflow.training.method import Method

FLOW_ROWS = (
    *RETRAINED,
    "energy_guidance",
    "erfm",
    "erfm_resample",
    "erfm_resample_prior",
    "esd",
    "concept_ablation",
)
ONE_STEP_ROWS = (
    *RETRAINED,
    "uot",
    "uot_tilted",
    "latent_transport",
    "latent_transport_chain",
    "concept_ablation",
    "sfd_short",
)

MARGIN = 3.0
"""Margin of the energies, in nats: at 5 the guide of MNIST's latents rejects a third of the fives."""

BY_LABEL = (ESD, ConceptAblation, SFD)
"""Methods that forget a label, whatever it draws."""

ASKED: Columns = {
    "asked.forgotten": ("asked for it: forgotten %", 100, 2),
    **{f"asked.guidance.{g:g}": (f"guidance {g:g}", 100, 2) for g in GUIDANCE},
    "asked.null": ("null label: forgotten %", 100, 2),
    "asked.own": ("other labels: own class %", 100, 2),
    "asked.least_own": ("the worst label", 100, 2),
    "asked.fd_forgotten": ("FD of it to its target", 1, 2),
    "asked.fd_target": ("FD per other label to its target", 1, 2),
    "asked.fd_real": ("to its real images", 1, 2),
    "seconds": ("seconds", 1, 1),
    **RATIOS,
}
"""Columns of the asked-with-label tables. The last two distances are means over the retained labels."""


class Asks(Request):
    """A request whose original and rows are asked for each label, for none, and at each guidance.

    Baselines that forget a label are given the label, as by their authors; the others the guide's energy.
    It is not balanced: the law of each label has mass 1 (``docs/theory.md``), and offsets would only lower
    the acceptance of the labels that have the smaller ones.
    """

    is_balanced: ClassVar[bool] = False
    default_margin: ClassVar[float] = MARGIN

    def find_target(self, method: Method) -> Target:
        """Return the target of the labels for ``BY_LABEL``, else that of the guide."""
        if not isinstance(method, BY_LABEL):
            return self.target
        return dataclasses.replace(self.target, energy=ConditionEnergy(self.forget))

    def audit(self) -> dict[str, Any]:
        """Return the content of audit.json, with what each row draws when it is asked."""
        found = super().audit()
        asked = stage(self.out / "asked.json", self._ask)
        rows = [row | {"asked": asked["rows"][row["method"]]} for row in found["rows"]]
        return found | {"questions": asked["questions"], "rows": rows}

    def _ask(self) -> dict[str, Any]:
        study, evidence = self.study, self.make_evidence()
        models = {name: self.find_images_model(name) for name in ("original", *self.rows)}
        before, n = models["original"], study.recipe.n_asked
        planned = plan_questions(before, before, evidence, n, n=n)
        assert planned is not None
        questions, rows = ask_models(
            planned, models, self.target, evidence, study.seed, self.out / "samples", study.decode
        )
        if questions.obstacle is not None:
            raise InputError(f"the original of {self.out} cannot be asked ({questions.obstacle})")
        return {"questions": questions.as_dict(), "rows": rows}


class AskedRequest(Asks):
    """A request to a conditional flow."""

    default_rows: ClassVar[Sequence[str]] = FLOW_ROWS


class AskedOneStepRequest(Asks, OneStepRequest):
    """A request to a conditional flow map, distilled from a conditional flow."""

    default_rows: ClassVar[Sequence[str]] = ONE_STEP_ROWS


class AskedImages(ImageExperiment):
    """An experiment on images whose original is asked for a class."""

    is_conditional: ClassVar[bool] = True
    published: ClassVar[str | None] = None

    def make_tables(self, rows: Sequence[Row], published: Sequence[Row]) -> list[tuple[str, str]]:
        """Return the asked-with-label table of each request, and then the tables of labels at random."""
        flat = [row | _flatten(row["asked"], self.find_forgotten(row["dataset"])) for row in rows]
        records = average_rows(flat, ASKED)
        asked = [
            (f"{dataset}, asked for each label", format_means(records, dataset, ASKED))
            for dataset in self.chosen
        ]
        return [*asked, *super().make_tables(rows, published)]

    def make_further_tables(self) -> list[tuple[str, str]]:
        """Return no sweeps."""
        return []

    def list_stages(self) -> list[tuple[str, ...]]:
        """Return none."""
        return []

    def draw(self) -> list[tuple[Path, str]]:
        """Draw samples of every row that is asked for the forgotten label, and for the others."""
        return [self.draw_asked(dataset) for dataset in self.chosen]

    def draw_asked(self, dataset: str, columns: int = 16) -> tuple[Path, str]:
        """Draw one request: the first half of the columns asks for forgotten labels, the rest for others."""
        request = self.make_request(dataset, self.seeds[0])
        inside = request.model.require_conditional()
        others = [k for k in inside.drawn if k not in request.forget]
        half = columns // 2
        labels = [*_repeat(request.forget, half), *_repeat(others, columns - half)]
        z = inside.ask(request.draw_latents()[:columns], torch.tensor(labels))
        strips = []
        for name in ("original", *request.rows):
            strips.append((name, make_images(request.find_images_model(name), z).numpy()))
        path = draw_image_rows(self.out / f"asked-{dataset}.png", strips)
        return path, f"{dataset}: every row from the same noise, asked for labels {labels}."

    def format_command(self) -> str:
        """Return the command that reproduces this run."""
        return f"{super().format_command()} --conditional true"


def _repeat(labels: Sequence[int], n: int) -> list[int]:
    return [labels[i % len(labels)] for i in range(n)]


def _flatten(asked: Mapping[str, Any], forget: Sequence[int]) -> Row:
    """Return the numbers of an answer by the keys of ``ASKED``; None for guidance that was not asked."""
    known = {f"asked.{name}": value for name, value in asked.items()}
    known |= {f"asked.guidance.{g}": share for g, share in asked["guidance"].items()}
    own = [each["fd_target"] for each in asked["conditions"] if each["label"] in forget]
    known["asked.fd_forgotten"] = sum(own) / len(own)
    return {key: known.get(key) for key in ASKED if key.startswith("asked.")}


class AskedContinualFlowMNIST(AskedImages, ContinualFlowMNIST):
    """The requests of ContinualFlow on MNIST, to a conditional flow of latents."""

    title: ClassVar[str] = "ContinualFlow on MNIST, asked for a label"
    request_type: ClassVar[type[Request]] = AskedRequest


class AskedContinualFlowCIFAR10(AskedImages, ContinualFlowCIFAR10):
    """The requests of ContinualFlow on CIFAR-10, to a conditional flow of latents."""

    title: ClassVar[str] = "ContinualFlow on CIFAR-10, asked for a label"
    request_type: ClassVar[type[Request]] = AskedRequest


class AskedUOTMNIST(AskedImages, UOTMNIST):
    """The requests of UOT-Unlearn on MNIST, to a conditional flow map of 16 latents, not of pixels."""

    title: ClassVar[str] = "UOT-Unlearn on MNIST, asked for a label"
    default_recipe: ClassVar[Recipe] = ONE_STEP_MNIST
    request_type: ClassVar[type[OneStepRequest]] = AskedOneStepRequest


class AskedUOTCIFAR10(AskedImages, UOTCIFAR10):
    """The requests of UOT-Unlearn on CIFAR-10, to a conditional one-step model."""

    title: ClassVar[str] = "UOT-Unlearn on CIFAR-10, asked for a label"
    request_type: ClassVar[type[OneStepRequest]] = AskedOneStepRequest


CONDITIONAL: dict[str, type[Experiment]] = {
    each.name: each
    for each in (AskedContinualFlowMNIST, AskedContinualFlowCIFAR10, AskedUOTMNIST, AskedUOTCIFAR10)
}
"""Name on the command line -> experiment, for conditional models."""
