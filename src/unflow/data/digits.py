"""The 1,797 handwritten digits, 8x8, that scikit-learn contains."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from unflow.data.dataset import LabelledData


def digits() -> LabelledData:
    """Return the digits as images [1797, 1, 8, 8] in [-1, 1] with labels 0-9 (17 grey levels).

    They are read from scikit-learn's file, because the import of ``sklearn.datasets`` takes two seconds and
    100 MB. A test compares them with ``sklearn.datasets.load_digits``.
    """
    table = torch.from_numpy(np.loadtxt(_find_file(), delimiter=","))
    x = table[:, :-1].to(torch.float32).reshape(-1, 1, 8, 8) / 8 - 1
    return LabelledData("digits", x, table[:, -1].long(), [str(k) for k in range(10)])


def _find_file() -> Path:
    spec = find_spec("sklearn")
    assert spec is not None  # unflow requires it
    assert spec.origin is not None
    return Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz"
