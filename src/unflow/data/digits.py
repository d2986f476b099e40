"""The 1,797 handwritten digits, 8x8, that scikit-learn contains."""

from __future__ import annotations

import torch

from unflow.data.dataset import LabelledData


def digits() -> LabelledData:
    """Return the digits as images [1797, 1, 8, 8] in [-1, 1] with labels 0-9 (17 grey levels)."""
    from sklearn.datasets import load_digits  # its import takes a second

    bunch = load_digits()
    x = torch.tensor(bunch.images, dtype=torch.float32).unsqueeze(1) / 8 - 1
    return LabelledData("digits", x, torch.tensor(bunch.target), [str(k) for k in range(10)])
