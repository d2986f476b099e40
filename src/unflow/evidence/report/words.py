"""The page's vocabulary: what each number means, and how it is written."""

from __future__ import annotations

import math
from dataclasses import dataclass

MISSING = "–"

FAMILIES = {
    "flow": "Flow (many steps)",
    "flow_map": "Flow map (one step)",
    "generator": "Generator (one step)",
}

METHODS = {
    "original": "original",
    "retrained": "retrained",
    "target": "exact target",
    "erfm": "ERFM",
    "erfm_resample": "ERFM (resampled)",
    "uot": "UOT",
    "uot_tilted": "UOT (tilted pool)",
    "latent_transport": "latent transport",
    "latent_transport_chain": "latent transport (chain)",
    "gradient_ascent": "gradient ascent",
    "fine_tune": "fine-tuning",
}

ABOUT = {
    "original": "the trained model before the request",
    "retrained": "trained from scratch on the retained data only",
    "target": "samples of the original kept by rejection: exact draws from q*",
    "floor": "two independent exact-target sets of the same size: no method is expected below it",
    "erfm": "energy-reweighted flow matching: the loss is weighted by exp(-energy)",
    "erfm_resample": "energy-reweighted flow matching on samples drawn in proportion to the weight",
    "uot": "semi-dual unbalanced optimal transport, pool of the model's own samples",
    "uot_tilted": "semi-dual unbalanced optimal transport, pool of exact-target samples",
    "latent_transport": "latents are moved to the target, and the model is regressed on their outputs",
    "latent_transport_chain": "latents are moved to the target by a flow before the original",
    "gradient_ascent": "baseline: climb the loss on what is to be forgotten",
    "fine_tune": "baseline: train on with the retained data",
}


TAGS = {
    "over-forgets": "fewer forgotten samples than the retrained model, by two standard errors",
    "recoverable": "the original still sits inside: suppression, not removal",
}


@dataclass(frozen=True)
class Metric:
    """A column: where its number stands in a row of the audit, and how it is written."""

    key: str
    heading: str
    definition: str
    decimals: int = 2
    scale: float = 1.0

    def text(self, value: float | None) -> str:
        """Return the number as it stands in a cell."""
        return number(None if value is None else value * self.scale, self.decimals)


METRICS = (
    Metric(
        "forget_rate",
        "forget rate, %",
        "Share of samples that the judge assigns to a forgotten "
        "class, ± half a 68 % interval for sampling alone. Near the retrained model is right; "
        "less is over-forgetting.",
        2,
        100,
    ),
    Metric(
        "pul",
        "PUL, %",
        "Percentage unlearned: by how much the count of forgotten samples fell "
        "against the original. The judge's errors cap it.",
        1,
    ),
    Metric(
        "leakage", "leakage, %", "Mean probability that the judge gives to the forgotten classes.", 2, 100
    ),
    Metric(
        "fid_target",
        "FD to target",
        "Fréchet distance, in the features that the caption names, to exact samples of "
        "q*. Lower is closer; compare with the floor.",
    ),
    Metric("fid_retain", "FD to retain", "Fréchet distance to real, held-out retain data."),
    Metric(
        "fid_retrained",
        "FD to retrained",
        "Fréchet distance to samples of the retrained "
        "model, a reference that does not depend on the energy or its margin.",
    ),
    Metric(
        "mmd_target",
        "MMD² to target",
        "Unbiased squared maximum mean discrepancy to exact "
        "target samples, Gaussian kernel; may be slightly negative.",
        4,
    ),
    Metric(
        "c2st_target",
        "C2ST to target",
        "Cross-fitted AUC of a classifier that tells the "
        "samples from exact target samples: 0.5 means it cannot.",
        3,
    ),
    Metric(
        "precision",
        "precision",
        "Share of samples that lie in the real retain data's neighbourhoods (k = 5).",
        3,
    ),
    Metric(
        "recall", "recall", "Share of real retain data that lies in the samples' neighbourhoods (k = 5).", 3
    ),
    Metric(
        "coverage",
        "coverage",
        "Share of real retain data that has a sample in its own "
        "neighbourhood (k = 5): falls when modes are lost.",
        3,
    ),
    Metric(
        "off_data",
        "off data, %",
        "Share of samples farther from every training point than 99 % of held-out points are.",
        2,
        100,
    ),
    Metric(
        "retained_share_tv",
        "share drift",
        "Total variation between the class shares among "
        "retained classes and the target's: 0 means forgetting moved nothing else.",
        3,
    ),
    Metric(
        "cost.unlearn_seconds",
        "unlearn, s",
        "Seconds from the request to the unlearned model: guide, bank, rejection and distillation included.",
        1,
    ),
    Metric("cost.nfe", "NFE", "Network evaluations per sample.", 0),
)

COSTS = (
    Metric("cost.train_seconds", "train, s", "Seconds to train the row's model from scratch.", 1),
    Metric("cost.unlearn_seconds", "unlearn, s", METRICS[-2].definition, 1),
    Metric("cost.steps", "steps", "Optimiser steps.", 0),
    Metric("cost.nfe", "NFE", "Network evaluations per sample.", 0),
    Metric("cost.inference_ms", "ms per sample", "Milliseconds to draw one sample.", 3),
    Metric("cost.peak_rss_mb", "peak memory, MB", "Largest resident memory of the process.", 0),
)


def number(value: float | None, decimals: int = 2) -> str:
    """Return a number with fixed decimals, – if not measured; what is not 0 never reads as 0."""
    if value is None:
        return MISSING
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "∞" if value > 0 else "−∞"
    text = f"{value:,.{decimals}f}"
    if value != 0 and float(text.replace(",", "")) == 0:
        text = f"{value:.0e}"
    return text.replace("-", "−", 1) if text.startswith("-") else text


def method_name(method: str) -> str:
    """Return a method's name in words."""
    return METHODS.get(method, method)


def family_name(family: str) -> str:
    """Return a family's name in words."""
    return FAMILIES.get(family, family)


def join(parts: list[str], word: str = "and") -> str:
    """Return a list as a phrase: a, b and c."""
    return f" {word} ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
