"""Named random streams: every random number is a function of a seed and of its purpose."""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import torch

from unflow.ground.errors import InputError


class Stream(IntEnum):
    """The purposes of random numbers. Every stored result depends on the values, so they never change."""

    PREPARE = 0
    """Banks, pairs and initial draws of a training."""
    STEP = 1
    """The batch of step k: ``stream(seed, Stream.STEP, k)``."""
    EARLIER = 2
    """The seed of a training stage that precedes another one."""
    ADAPTERS = 3
    """Initial low-rank adapters."""
    DROPOUT = 4
    """Numbers that a third-party network draws by itself in step k: ``stream(seed, Stream.DROPOUT, k)``."""
    BANDWIDTH = 7
    """Pairs of samples; their median distance is the bandwidth of the MMD."""
    MMD = 8
    """Subsets of the repeated MMD."""
    GUIDE_ROWS = 40
    """Training rows that are held out for the calibration of the guide."""
    BALANCE = 41
    """Samples on which the retained classes are balanced."""
    IMAGE_ORDER = 45
    """The order of the k-th part of an image dataset: ``IMAGE_ORDER + k``."""
    POINTS = 50
    """The k-th part of a planar dataset: ``POINTS + k``."""
    TRAJECTORIES = 60
    """Starting points of drawn trajectories."""
    TRANSPORT = 61
    """Latents of a transport figure."""
    INVERSION = 62
    """The bank of an inverted request."""
    LAW = 63
    """Samples that are counted on a grid to estimate a law."""
    GRID_TARGET = 65
    """Banks that are counted on a grid to estimate a target: ``stream(seed, Stream.GRID_TARGET, k)``."""
    TARGET_FIGURE = 66
    """Exact target samples of a figure or an ablation."""
    LINE_LAW = 67
    """Samples of the model on the line."""
    LINE_TARGET = 68
    """Samples of the exact law of that model on the grid."""
    FEW_IMAGES = 70
    """The few images that define a request."""
    IMAGE_ENERGY = 71
    """Samples of the model, to which the energy of a few images is fitted."""
    WALK = 72
    """The random walk from a few images over the model's samples."""
    IMAGE_TARGET = 73
    """The bank on which the energy of a few images is measured."""
    AGREEMENT = 97
    """Samples on which the judge and the guide are compared."""
    PLAN = 97
    """Samples that a plan evaluates."""
    PILOT = 98
    """Samples from which an audit first estimates the forget rate."""
    FIGURE = 98
    """Latents of a figure."""
    LATENTS = 99
    """Latents that all models of an audit but the retrained ones share."""
    RETRAINED = 190
    """Latents of the k-th retrained model of an audit: ``stream(seed, Stream.RETRAINED, k)``."""
    TARGET = 100
    """Exact samples of the target: the k-th set has ``TARGET + k``, k = 0 or 1."""
    BOOTSTRAP = 110
    """Bootstrap resamples for the interval of the k-th distance: ``stream(seed, Stream.BOOTSTRAP, k)``."""
    ATTACK_RATE = 120
    """Samples of a model under attack."""
    LATENT_SEARCH = 121
    """Starting points of the latent search."""
    ATTACK_IMAGES = 122
    """The images that an attacker has."""
    RELEARNING = 123
    """Batches of the relearning attack."""
    CONDITION_SEARCH = 124
    """Latents of the search over the condition."""
    GUIDANCE_SEARCH = 125
    """Latents of the search over guidance."""
    MIXTURE_SEARCH = 126
    """Latents of the search over mixtures of two labels."""
    ATTACK_ASKED = 127
    """Latents with which a model under attack is asked for the forgotten labels."""
    PROBE = 130
    """Latents and directions of the probe that precedes each training and audit."""
    SIGHT = 140
    """Samples, and labelled rows, on which a guide or judge is inspected before a command."""
    KAPPA = 150
    """The bank from which the multiplier of a request is computed; its seed is always 0."""
    SELF_MEASURE = 160
    """Latents, and rejection, of the self-measure that follows each unlearning."""

    REPLACEMENT = 178
    """Samples of the condition that replaces a forgotten one, of which a request must accept a good share."""
    FLOOR = 184
    """Exact target samples whose distances are the floor, k-th set: ``stream(seed, Stream.FLOOR, k)``."""
    NOISE_SLOPE = 182
    """Noise at which a velocity is compared with that of independent noise."""
    MEMBERSHIP = 210
    """Images, samples and noise of membership inference."""
    LINEAR_PROBE = 211
    """Images or latents, noise and halves of the linear probe."""
    ORIGINAL_INSIDE = 212
    """Latents at which a model inside another is compared with the original, if both have no weights."""

    ASKED = 174
    """Latents with which an audit asks a conditional model, and exact samples for the answers:
    ``stream(seed, Stream.ASKED, k)``, k = 1 or 2."""


def stream(seed: int, *path: int) -> torch.Generator:
    """Return the CPU generator of one purpose; it depends on the seed and the path alone.

    Args:
        seed: >= 0.
        path: a member of ``Stream`` and further indices; an empty path is free for your own use.
    """
    return torch.Generator().manual_seed(derive_seed(seed, *path))


def derive_seed(seed: int, *path: int) -> int:
    """Return the seed of one purpose, >= 0; it depends on the seed and the path alone."""
    words = np.random.SeedSequence(seed, spawn_key=path).generate_state(2, np.uint32)
    return (int(words[0]) << 31) ^ int(words[1])


def check_seed(seed: int) -> None:
    """Raise InputError for a negative seed, or one beyond 63 bits."""
    if not 0 <= seed < 2**63:
        raise InputError(f"got seed={seed}; expected an integer >= 0 and below 2^63")
