"""Attacks that try to recover the forgotten classes from an unlearned model.

latent_search     search for latents whose samples are still of a forgotten class
relearning        train on a few images, and measure how fast the forgotten class returns
condition_search  search for a free condition at which a conditional model draws a forgotten class
guidance_search   search for the guidance scale at which it does
mixture_search    search for the two labels whose mixture does
condition_rows    the rows that its networks read for its conditions, and their replacement
linear_probe      tell the class from others by hidden activations
membership        tell training images of the class from others by distance and loss
search            the common signature of the four searches
reached           the share that a search over the condition reaches, on fresh samples by another judge

``find_original`` takes the original out of a chain or a filter; ``models_inside`` lists all of its parts.
"""

from unflow.evidence.attacks.condition_rows import ImpossibleAttackError
from unflow.evidence.attacks.condition_search import ConditionSearch
from unflow.evidence.attacks.guidance_search import GuidanceSearch
from unflow.evidence.attacks.latent_search import Found, LatentSearch
from unflow.evidence.attacks.linear_probe import LinearProbe
from unflow.evidence.attacks.membership import MembershipInference
from unflow.evidence.attacks.mixture_search import MixtureSearch
from unflow.evidence.attacks.reached import Reached
from unflow.evidence.attacks.relearning import Relearning
from unflow.evidence.attacks.scores import Scores
from unflow.evidence.attacks.search import Search
from unflow.models.inside import find_original, models_inside

__all__ = [
    "ConditionSearch",
    "Found",
    "GuidanceSearch",
    "ImpossibleAttackError",
    "LatentSearch",
    "LinearProbe",
    "MembershipInference",
    "MixtureSearch",
    "Reached",
    "Relearning",
    "Scores",
    "Search",
    "find_original",
    "models_inside",
]
