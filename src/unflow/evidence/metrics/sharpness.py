"""Whether samples are as sharp as others, by the contrast of their edges."""

from __future__ import annotations

from torch import Tensor

from unflow.ground.errors import InputError
from unflow.mathematics.sharpness import edge_contrast, has_edges


def sharpness_ratio(*, generated: Tensor, reference: Tensor) -> float | None:
    r"""Ratio of the mean edge contrast of images to that of other images: 1 for equal laws.

        mean_i c(x_i) / mean_j c(y_j),    c(x) = sum |dx|^2 / sum |dx|

    c is ``mathematics.sharpness.edge_contrast``. A blurred image, the average of two images and small noise
    all lower it; the number of strokes does not change it.

    Args:
        generated: images [n, ...], n >= 1.
        reference: images [m, ...], m >= 1, such as exact samples of the target.

    Returns:
        A number >= 0; None for samples that are no images, and for a reference without edges.

    Raises:
        InputError: for no samples.
    """
    if not len(generated) or not len(reference):
        raise InputError(
            f"got {len(generated)} samples and a reference of {len(reference)}; expected 1 or more of each"
        )
    if not has_edges(generated.shape[1:]):
        return None
    below = float(edge_contrast(reference).mean())
    return float(edge_contrast(generated).mean()) / below if below > 0 else None
