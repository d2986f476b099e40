"""Attributes without labels: functions of images that return the probability of the attribute."""

from __future__ import annotations

import numpy as np

THICK = 3.0
"""Stroke width in pixels beyond which a digit counts as thick."""
BRIGHT = 0.46
"""Mean brightness beyond which a garment counts as bright."""


def stroke_width(images: np.ndarray) -> np.ndarray:
    """Return the mean stroke width [n], in pixels, of images [n, 1, 28, 28] in [-1, 1].

    A stroke of width w and length l has the area w l and the total variation 2 l.
    """
    ink = np.clip((images.reshape(-1, 28, 28) + 1) / 2, 0, 1)
    dy, dx = np.diff(ink, axis=1)[:, :, :-1], np.diff(ink, axis=2)[:, :-1]
    variation = np.sqrt(dx**2 + dy**2).sum((1, 2))
    return 2 * ink.sum((1, 2)) / np.maximum(variation, 1e-3)


def thick(images: np.ndarray) -> np.ndarray:
    """Return the probability [n] that digits are thick, for images [n, 1, 28, 28] in [-1, 1]."""
    return 1 / (1 + np.exp(-(stroke_width(images) - THICK) / 0.1))


def bright(images: np.ndarray) -> np.ndarray:
    """Return the probability [n] that garments are bright, for images [n, 1, 28, 28] in [-1, 1]."""
    mean = (images.reshape(len(images), -1).mean(1) + 1) / 2
    return 1 / (1 + np.exp(-(mean - BRIGHT) / 0.01))
