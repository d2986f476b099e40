"""A fitted logistic regression as a network: the same log-odds, with their gradient."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unflow.ground.errors import InputError


class LinearClassifier(nn.Module):
    """Logits of a scikit-learn ``LogisticRegression``: flatten(x) W^T + b, in the order of ``classes_``.

    ``ClassLogOdds(LinearClassifier(estimator), forget)`` is ``EstimatorLogOdds`` without its floor, and
    differentiable; there ``forget`` counts the classes from 0.

    Args:
        estimator: fitted on samples that are flattened, or on features that an earlier module computes.

    Raises:
        InputError: for another estimator, or one whose probabilities are not the softmax of its scores.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, estimator: Any) -> None:
        super().__init__()
        coefficients, intercept = (np.asarray(getattr(estimator, n, 0.0)) for n in ("coef_", "intercept_"))
        if coefficients.ndim != 2 or intercept.ndim != 1 or not hasattr(estimator, "predict_proba"):
            raise InputError(
                f"got a {type(estimator).__name__}; expected a fitted LogisticRegression: give other "
                "estimators to EstimatorLogOdds"
            )
        if len(coefficients) == 1:  # of two classes only the second has a score
            coefficients = np.concatenate([0 * coefficients, coefficients])
            intercept = np.concatenate([0 * intercept, intercept])
        self.register_buffer("weight", torch.as_tensor(coefficients, dtype=torch.float32))
        self.register_buffer("bias", torch.as_tensor(intercept, dtype=torch.float32))
        self._check(estimator)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits, [batch, num_classes]."""
        rows = x.flatten(1)
        if rows.shape[1] != self.weight.shape[1]:
            raise InputError(
                f"got {rows.shape[1]} numbers per sample for a linear classifier of {self.weight.shape[1]}; "
                "expected as many as it was fitted on"
            )
        return rows @ self.weight.to(x).T + self.bias.to(x)

    def _check(self, estimator: Any) -> None:
        """Compare with the estimator's own probabilities: one against the rest is no softmax."""
        rows = torch.randn(16, self.weight.shape[1], generator=torch.Generator().manual_seed(0))
        own = torch.as_tensor(estimator.predict_proba(rows.numpy()), dtype=torch.float32)
        if not torch.allclose(self(rows).softmax(1), own, atol=1e-3):
            raise InputError(
                f"got a {type(estimator).__name__} whose probabilities are not the softmax of its scores; "
                "expected a multinomial LogisticRegression, or EstimatorLogOdds"
            )
