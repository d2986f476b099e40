"""Log-odds of scikit-learn classifiers, and a logistic regression as a network."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from unflow.energies.base import frozen
from unflow.energies.fingerprint import fingerprint
from unflow.energies.opaque import FLOOR, Opaque, check_floor, log_probabilities
from unflow.ground.errors import InputError
from unflow.ground.logits import binary_logits

Output = Literal["predict_proba", "decision_function"]


class EstimatorLogOdds(Opaque):
    r"""``ClassLogOdds`` of a fitted scikit-learn classifier, or an object with its methods; no gradient.

        L(x) = log p(forget | x) - log p(rest | x),    F = softplus(L + margin) >= 0

    Args:
        estimator: fitted, with ``classes_``, ``n_features_in_`` and the method ``output``; it is copied.
        forget: label or labels of ``classes_``: at least one, not all.
        margin: >= 0, in nats; None for the unbounded log-odds.
        output: "predict_proba"; or "decision_function", whose scores are used as logits. They are exact
            for a logistic regression; the scale of others is arbitrary (calibrate these with
            scikit-learn's ``CalibratedClassifierCV``).
        features: maps samples [batch, *shape] to the estimator's input, [batch, n_features_in_] as a tensor
            or an array; a module is copied and frozen. None: samples are flattened.
        floor: in (0, 0.5), of probabilities; trees and nearest neighbours return exactly 0 and 1.

    Raises:
        InputError: for an estimator that is not fitted or lacks the method, unknown labels, and (on the
            first call) features or outputs of another size.
    """

    identity: Tensor

    def __init__(
        self,
        estimator: Any,
        forget: object,
        margin: float | None = 0.0,
        output: Output = "predict_proba",
        features: Callable[[Tensor], Tensor | np.ndarray] | None = None,
        floor: float = FLOOR,
    ) -> None:
        check_floor(floor)
        _check_estimator(estimator, output)
        labels = np.asarray(estimator.classes_).tolist()
        wanted = _to_list(forget)
        super().__init__(_find_positions(wanted, labels), margin)
        self.estimator, self.labels = copy.deepcopy(estimator), labels
        self.forget, self.output, self.floor = tuple(wanted), output, floor
        self.features = frozen(features) if isinstance(features, nn.Module) else features
        function = (
            None if isinstance(features, nn.Module) else features
        )  # a module's weights are in the state anyway
        self.register_buffer("identity", fingerprint(estimator, output, floor, function))

    def logits(self, x: Float[Tensor, " batch *shape"]) -> Float[Tensor, " batch classes"]:
        """Return log-probabilities or scores in the order of ``classes_``, [batch, num_classes]."""
        answer = getattr(self.estimator, self.output)(self._rows(x))
        outputs = torch.as_tensor(np.asarray(answer, dtype=np.float64))
        if outputs.ndim == 1 and self.output == "decision_function":
            outputs = binary_logits(outputs)
        if outputs.shape != (len(x), len(self.labels)):
            raise InputError(
                f"{self.output} returned shape {list(outputs.shape)} for {len(x)} samples; expected "
                f"[{len(x)}, {len(self.labels)}], one column per class"
            )
        is_probability = self.output == "predict_proba"
        return log_probabilities(outputs, self.floor) if is_probability else outputs

    def _rows(self, x: Tensor) -> np.ndarray:
        rows = x if self.features is None else self.features(x)
        rows = rows.detach().cpu().numpy() if isinstance(rows, Tensor) else np.asarray(rows)
        rows, expected = rows.reshape(len(rows), -1), self.estimator.n_features_in_
        if rows.shape != (len(x), expected):
            raise InputError(
                f"got {list(rows.shape)} features of {len(x)} samples for an estimator of {expected}; "
                f"expected [{len(x)}, {expected}]: write features=, which maps samples to its input"
            )
        return rows

    def describe(self) -> str:
        """Return the classes to forget, the kind of estimator and the margin."""
        margin = self.log_odds.margin
        bound = "raw log-odds" if margin is None else f"margin {margin:g}"
        labels = " or ".join(map(str, self.forget))
        return f"class {labels} by a {type(self.estimator).__name__} ({bound})"


class LinearClassifier(nn.Module):
    """Logits of a scikit-learn ``LogisticRegression``: flatten(x) W^T + b, in the order of ``classes_``.

    ``ClassLogOdds(LinearClassifier(estimator), forget)`` is ``EstimatorLogOdds`` without its floor, and
    differentiable; its ``forget`` holds class indices, not labels.

    Args:
        estimator: fitted on flattened samples, or on the features that a preceding module computes.

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
        if len(coefficients) == 1:  # with two classes, only the second has a score
            coefficients = np.concatenate([0 * coefficients, coefficients])
            intercept = np.concatenate([0 * intercept, intercept])
        self.register_buffer("weight", torch.as_tensor(coefficients, dtype=torch.float32))
        self.register_buffer("bias", torch.as_tensor(intercept, dtype=torch.float32))
        self._check(estimator)

    def forward(self, x: Float[Tensor, " batch *shape"]) -> Float[Tensor, " batch classes"]:
        """Return logits, [batch, num_classes]."""
        rows = x.flatten(1)
        if rows.shape[1] != self.weight.shape[1]:
            raise InputError(
                f"got {rows.shape[1]} numbers per sample for a linear classifier of {self.weight.shape[1]}; "
                "expected as many as it was fitted on"
            )
        return rows @ self.weight.to(x).T + self.bias.to(x)

    def _check(self, estimator: Any) -> None:
        """Compare with the estimator's own probabilities: those of one-vs-rest are not a softmax."""
        rows = torch.randn(16, self.weight.shape[1], generator=torch.Generator().manual_seed(0))
        own = torch.as_tensor(estimator.predict_proba(rows.numpy()), dtype=torch.float32)
        if not torch.allclose(self(rows).softmax(1), own, atol=1e-3):
            raise InputError(
                f"got a {type(estimator).__name__} whose probabilities are not the softmax of its scores; "
                "expected a multinomial LogisticRegression, or EstimatorLogOdds"
            )


def _check_estimator(estimator: Any, output: Output) -> None:
    kind = type(estimator).__name__
    if output not in ("predict_proba", "decision_function"):
        raise InputError(f"got output={output!r}; expected predict_proba or decision_function")
    if not hasattr(estimator, "classes_") or not hasattr(estimator, "n_features_in_"):
        raise InputError(
            f"got a {kind} without classes_ and n_features_in_; expected a fitted classifier: call its "
            "fit, or pass another kind of score as a BlackBox"
        )
    if not hasattr(estimator, output):
        other = "decision_function" if output == "predict_proba" else "predict_proba"
        remedy = f"write output={other}, or fit" if hasattr(estimator, other) else "fit"
        raise InputError(
            f"got a {kind} without {output}; expected one that has it: {remedy} a CalibratedClassifierCV "
            "around it"
        )


def _to_list(forget: object) -> list[Any]:
    if isinstance(forget, np.ndarray | np.generic | Tensor):
        forget = forget.tolist()
    return list(forget) if isinstance(forget, Sequence) and not isinstance(forget, str) else [forget]


def _find_positions(wanted: list[Any], labels: list[Any]) -> list[int]:
    unknown = [label for label in wanted if label not in labels]
    if unknown:
        raise InputError(f"got class {unknown[0]!r} to forget; expected some of {labels} (classes_)")
    if set(wanted) == set(labels):
        raise InputError(f"got all classes {labels} to forget; expected one or more to keep: name fewer")
    return [labels.index(label) for label in wanted]
