"""Every row of methods has a label, a one-line summary, and properties that other packages read."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import pytest
from torch import nn

from unflow.methods import ERFM, UNLEARNERS, UOT, LatentTransport, method_label, method_summary
from unflow.training.method import Problem, Untrained, find_gradient_free, settings


def test_no_two_rows_have_one_label() -> None:
    labels = [method.label for method in UNLEARNERS.values()]
    assert all(labels)
    assert len(set(labels)) == len(labels)


@pytest.mark.parametrize("row", UNLEARNERS)
def test_every_row_has_a_summary_of_one_line(row: str) -> None:
    summary = UNLEARNERS[row].summary
    assert summary == summary.strip() != ""
    assert "\n" not in summary
    assert len(summary) <= 110


@pytest.mark.parametrize(
    ("row", "label", "summary"),
    [
        ("retrained", "retrained", "trained from scratch on the retained data only"),
        ("erfm", "ERFM", "energy-reweighted flow matching: the loss is weighted by exp(-energy)"),
        (
            "erfm_resample",
            "ERFM (resampled)",
            "energy-reweighted flow matching on samples drawn in proportion to the weight",
        ),
        ("uot", "UOT", "semi-dual unbalanced optimal transport, pool of the model's own samples"),
        (
            "uot_tilted",
            "UOT (tilted pool)",
            "semi-dual unbalanced optimal transport, pool of exact-target samples",
        ),
        (
            "latent_transport",
            "latent transport",
            "latents are moved to the target, and the model is regressed on their outputs",
        ),
        (
            "latent_transport_chain",
            "latent transport (chain)",
            "latents are moved to the target by a flow before the original",
        ),
        ("gradient_ascent", "gradient ascent", "baseline: climb the loss on what is to be forgotten"),
        ("fine_tune", "fine-tuning", "baseline: train on with the retained data"),
    ],
)
def test_reports_of_this_and_of_earlier_versions_name_a_row_alike(row: str, label: str, summary: str) -> None:
    assert (method_label(row), method_summary(row)) == (label, summary)


@pytest.mark.parametrize("row", UNLEARNERS)
def test_label_and_summary_are_no_hyper_parameters(row: str) -> None:
    assert not {"label", "summary"} & settings(UNLEARNERS[row]).keys()


def test_label_and_summary_follow_the_hyper_parameters() -> None:
    assert ERFM(weighting="resample").label == UNLEARNERS["erfm_resample"].label
    assert dataclasses.replace(UOT(), pool="tilted").summary == UNLEARNERS["uot_tilted"].summary


def test_a_name_that_is_no_row_is_its_own_label() -> None:
    assert method_label("original") == "original"
    assert method_summary("original") == ""


def test_the_methods_that_follow_no_gradient_are_found() -> None:
    free = {kind: set(rows) for kind, rows in find_gradient_free().items()}
    assert free["one-step models"] > {"latent_transport", "latent_transport_chain", "reject"}
    assert free["flows"] == {
        "erfm",
        "erfm_prior",
        "erfm_resample",
        "erfm_resample_prior",
        "erfm_control",
        "energy_guidance",
        "reject",
    }
    following = {"uot", "uot_tilted", "latent_transport_uot", "gradient_ascent"}
    assert {row for row, method in UNLEARNERS.items() if method.needs_gradient} == following
    assert LatentTransport(coupling="flow_project").needs_gradient


def test_only_the_retrained_model_is_watched_on_held_out_data() -> None:
    assert [row for row, method in UNLEARNERS.items() if method.watches_held_out] == ["retrained"]


@dataclass(frozen=True, kw_only=True)
class Plain(Untrained):
    """Return the model as it is.

    And nothing else.
    """

    def make(self, problem: Problem, generator: object) -> nn.Module:
        return problem.model


def test_a_method_without_label_and_summary_has_its_class_name_and_the_first_line_of_its_docstring() -> None:
    assert (Plain().label, Plain().summary) == ("Plain", "Return the model as it is.")
