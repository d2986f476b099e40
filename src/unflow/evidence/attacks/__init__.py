"""What could bring it back: attacks on a model that is said to have forgotten.

latent_search    look for latents that still give the forgotten
relearning       train on a few images, and watch how fast it comes back
inside           take off what was put around the original
"""

from unflow.evidence.attacks.inside import models_inside
from unflow.evidence.attacks.latent_search import Found, LatentSearch
from unflow.evidence.attacks.relearning import Relearning

__all__ = ["Found", "LatentSearch", "Relearning", "models_inside"]
