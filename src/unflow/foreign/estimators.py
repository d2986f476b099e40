"""Energies of fitted scikit-learn estimators."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from unflow.energies import ClassLogOdds, Energy, EstimatorLogOdds, LinearClassifier, check_classes
from unflow.foreign.specification import FUNCTION, Readers, Specification, read_range, read_shape
from unflow.ground.errors import InputError, explain
from unflow.nets import ReadsAs

FILES = (".joblib", ".pkl", ".pickle")
"""Suffixes of files that hold an estimator; such a file can run any code when it is read."""

KNOWN: Readers = {"range": read_range, "shape": read_shape, "output": str}
"""Options that unflow reads."""


def build_estimator_energy(
    spec: Specification, forget: tuple[int, ...], margin: float, trust_code: bool
) -> Energy:
    """Return the log-odds of a fitted classifier; with a gradient for a multinomial logistic regression.

    Args:
        spec: ``estimator:my_pkg.guides:fitted@FILE``, a function that returns the estimator and is given
            FILE, if there is one, and the options that unflow does not know; or ``estimator:guide.joblib``.
            Options are the ``range`` and ``shape`` of its input, and ``output=decision_function``.
        forget: classes, counted from 0 in the order of ``classes_``.
        margin: >= 0, in nats.
        trust_code: whether to run the code in a file.

    Raises:
        InputError: for a file without consent, no fitted classifier, and unknown classes.
    """
    ours, theirs = spec.take(KNOWN)
    estimator = _load_estimator(spec, theirs, trust_code)
    reads = ReadsAs(nn.Flatten(), ours.get("range"), ours.get("shape"))
    labels = list(getattr(estimator, "classes_", ()))  # none if not fitted: ``EstimatorLogOdds`` raises then
    if labels:
        check_classes(forget, len(labels))
    linear = None if "output" in ours else _as_linear(estimator)
    if linear is not None:
        reads.net = linear
        return ClassLogOdds(reads, forget, margin)
    named = [labels[k] for k in forget if labels]
    return EstimatorLogOdds(estimator, named, margin, ours.get("output", "predict_proba"), reads)


def list_labels(spec: Specification, trust_code: bool) -> list[str]:
    """Return the labels of an estimator in the order of ``classes_``; none for one that is not fitted.

    Raises:
        InputError: as ``build_estimator_energy``.
    """
    estimator = _load_estimator(spec, spec.take(KNOWN)[1], trust_code)
    return [str(label) for label in getattr(estimator, "classes_", ())]


def _as_linear(estimator: Any) -> LinearClassifier | None:
    """Return the estimator as a network with a gradient, if it is a linear classifier; None if not."""
    try:
        return LinearClassifier(estimator)
    except InputError:
        return None


def _load_estimator(spec: Specification, options: dict[str, Any], trust_code: bool) -> Any:
    if FUNCTION.fullmatch(spec.source):
        arguments = [] if spec.weights is None else [str(spec.weights)]
        return spec.call_function(arguments, options, KNOWN)
    path = Path(spec.source)
    if path.suffix not in FILES:
        raise InputError(
            f"got estimator:{spec.source}; expected estimator:PACKAGE.MODULE:FUNCTION, or a file that ends "
            f"in {', '.join(FILES)}"
        )
    if options or spec.weights is not None:
        name = next(iter(options), f"@{spec.weights}")
        raise InputError(f"got {name} for the file {path}; expected only range, shape or output")
    return _read_file(path, trust_code)


def _read_file(path: Path, trust_code: bool) -> Any:
    if not path.is_file():
        raise InputError(f"got no file {path}; expected a fitted estimator, written by joblib.dump")
    if not trust_code:
        raise InputError(
            f"{path} can run any code when it is read; expected your consent: write --trust_code "
            "true, or estimator:PACKAGE.MODULE:FUNCTION, which returns the estimator"
        )
    import joblib

    try:
        return joblib.load(path)
    except Exception as error:  # a damaged or third-party file may raise any exception
        raise InputError(
            f"{path} cannot be read ({explain(error)}); expected a fitted estimator that joblib.dump wrote "
            "with the same packages"
        ) from error
