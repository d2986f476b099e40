"""Methods: one paper, one file, one frozen dataclass of hyper-parameters."""

from __future__ import annotations

from unflow.ground.plugins import Registry, describe_package
from unflow.methods.baselines.concept_ablation import ConceptAblation
from unflow.methods.baselines.esd import ESD
from unflow.methods.baselines.fine_tune import FineTune
from unflow.methods.baselines.gradient_ascent import GradientAscent
from unflow.methods.baselines.neg_grad_plus import NegGradPlus
from unflow.methods.baselines.reject import Reject
from unflow.methods.baselines.relabel import Relabel
from unflow.methods.baselines.retrain import Retrain
from unflow.methods.baselines.saliency import Saliency
from unflow.methods.baselines.selective_amnesia import SelectiveAmnesia
from unflow.methods.baselines.sfd import SFD
from unflow.methods.baselines.weight_extrapolation import WeightExtrapolation
from unflow.methods.energy_guidance import EnergyGuidance
from unflow.methods.erfm import ERFM
from unflow.methods.latent_flow import LatentFlow
from unflow.methods.latent_transport import LatentTransport
from unflow.methods.ot_fm import OTFM
from unflow.methods.residual_matching import ResidualMatching
from unflow.methods.uot import UOT
from unflow.training.low_rank import LowRank
from unflow.training.method import KNOWN, Method, Problem, Trained, Training, Untrained, as_method, settings
from unflow.training.originals import TRAINERS, Autoencoding, Classification, Distill, FlowMatching, MeanFlow

__all__ = [
    "ERFM",
    "ESD",
    "INSTALLED",
    "OTFM",
    "SFD",
    "TRAINERS",
    "UNLEARNERS",
    "UOT",
    "Autoencoding",
    "Classification",
    "ConceptAblation",
    "Distill",
    "EnergyGuidance",
    "FineTune",
    "FlowMatching",
    "GradientAscent",
    "LatentFlow",
    "LatentTransport",
    "LowRank",
    "MeanFlow",
    "Method",
    "NegGradPlus",
    "Problem",
    "Reject",
    "Relabel",
    "ResidualMatching",
    "Retrain",
    "Saliency",
    "SelectiveAmnesia",
    "Trained",
    "Training",
    "Untrained",
    "WeightExtrapolation",
    "method_label",
    "method_summary",
    "settings",
]

UNLEARNERS: dict[str, Method] = {
    "erfm": ERFM(),
    "erfm_prior": ERFM(place="prior"),
    "erfm_resample": ERFM(weighting="resample", coupling="exact_ot", thin=True),
    "erfm_resample_prior": ERFM(place="prior", weighting="resample", coupling="exact_ot"),
    "erfm_control": ERFM(place="prior", control=True, steps=600, batch_size=64, bank_size=4096),
    "energy_guidance": EnergyGuidance(),
    "ot_fm": OTFM(),
    "uot": UOT(),
    "uot_tilted": UOT(pool="tilted", share=0.3, steps=1400),
    "latent_transport": LatentTransport(),
    "latent_transport_chain": LatentFlow(),
    "latent_transport_uot": UOT(start="latent_transport", pool="tilted", share=0.3, tau=10.0, steps=300),
    "residual_matching": ResidualMatching(),
    "gradient_ascent": GradientAscent(),
    "neg_grad_plus": NegGradPlus(),
    "fine_tune": FineTune(),
    "relabel": Relabel(),
    "saliency": Saliency(),
    "selective_amnesia": SelectiveAmnesia(),
    "weight_extrapolation": WeightExtrapolation(),
    "esd": ESD(),
    "concept_ablation": ConceptAblation(),
    "sfd": SFD(),
    "reject": Reject(),
    "retrained": Retrain(),
    "retrained_mixture": Retrain(mixture=True),
}
"""Row name -> method, in the default configuration of that row."""

KNOWN.update(UNLEARNERS)

INSTALLED = Registry("unflow.methods", UNLEARNERS, as_method)
"""``UNLEARNERS`` and the methods of installed packages: all names that commands accept."""


def method_label(row: str) -> str:
    """Return the label of a row of ``UNLEARNERS``; every other name is its own label."""
    return UNLEARNERS[row].label if row in UNLEARNERS else row


def method_summary(row: str) -> str:
    """Return one line on a row of ``UNLEARNERS`` or a method of an installed package; "" for other names.

    No package is imported.
    """
    if row in UNLEARNERS:
        return UNLEARNERS[row].summary
    packages = [describe_package(entry) for entry in INSTALLED.list_plugins() if entry.name == row]
    return f"a method of the package {packages[0]}" if packages else ""
