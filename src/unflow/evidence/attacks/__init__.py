"""Attacks that try to recover the forgotten classes from an unlearned model.

latent_search    search for latents whose samples are still of a forgotten class
relearning       train on a few images, and measure how fast the forgotten class returns

``models_inside`` takes the original out of a chain or a filter.
"""

from unflow.evidence.attacks.latent_search import Found, LatentSearch
from unflow.evidence.attacks.relearning import Relearning
from unflow.models.inside import models_inside

__all__ = ["Found", "LatentSearch", "Relearning", "models_inside"]
