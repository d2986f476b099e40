"""Names of families and methods, and how the page writes numbers and lists."""

from __future__ import annotations

import math
from collections.abc import Sequence

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
    "recoverable": "the original is still inside: suppression, not removal",
}


def format_number(value: float | None, decimals: int = 2) -> str:
    """Return a number with fixed decimals, or – if not measured; only 0 is written as 0."""
    if value is None:
        return MISSING
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "∞" if value > 0 else "−∞"
    text = f"{value:,.{decimals}f}"
    if value != 0 and float(text.replace(",", "")) == 0:
        text = f"{value:.0e}"
    return text.replace("-", "−", 1) if text.startswith("-") else text


def method_name(method: str) -> str:
    """Return the name of a method in tables; an unknown method's key."""
    return METHODS.get(method, method)


def family_name(family: str) -> str:
    """Return the name of a family in headings; an unknown family's key."""
    return FAMILIES.get(family, family)


def join(parts: Sequence[str], word: str = "and") -> str:
    """Return a list as a phrase: "a, b and c"."""
    return f" {word} ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
