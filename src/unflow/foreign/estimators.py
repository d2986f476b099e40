"""What to forget, by an estimator of scikit-learn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from unflow.energies import ClassLogOdds, Energy, EstimatorLogOdds, LinearClassifier, check_classes
from unflow.foreign.line import FUNCTION, Foreign, Readers, read_range, read_shape
from unflow.ground.errors import InputError, explain
from unflow.nets import ReadsAs

FILES = (".joblib", ".pkl", ".pickle")
"""Endings of files that hold an estimator, and can hold anything else."""

KNOWN: Readers = {"range": read_range, "shape": read_shape, "output": str}
"""Options of a line."""


def energy_of_estimator(line: Foreign, forget: tuple[int, ...], margin: float, trust_code: bool) -> Energy:
    """Return the log-odds of a fitted classifier; with a gradient for a multinomial logistic regression.

    Args:
        line: ``estimator:my_pkg.guides:fitted@FILE``, a function that returns the estimator and is given
            FILE, if there is one, and the options that unflow does not know; or ``estimator:guide.joblib``.
            ``range`` and ``shape`` of what it reads, ``output=decision_function``.
        forget: classes, counted from 0 in the order of ``classes_``.
        margin: >= 0, in nats.
        trust_code: whether to run what is in a file.

    Raises:
        InputError: for a file without consent, what is no fitted classifier, and unknown classes.
    """
    ours, theirs = line.take(KNOWN)
    estimator = _estimator(line, theirs, trust_code)
    reads = ReadsAs(nn.Flatten(), ours.get("range"), ours.get("shape"))
    labels = list(getattr(estimator, "classes_", ()))  # none: not fitted, as ``EstimatorLogOdds`` will say
    if labels:
        check_classes(forget, len(labels))
    linear = None if "output" in ours else _linear(estimator)
    if linear is not None:
        reads.net = linear
        return ClassLogOdds(reads, forget, margin)
    named = [labels[k] for k in forget if labels]
    return EstimatorLogOdds(estimator, named, margin, ours.get("output", "predict_proba"), reads)


def _linear(estimator: Any) -> LinearClassifier | None:
    """Return an estimator as a network with its gradient, where its probabilities are those of one."""
    try:
        return LinearClassifier(estimator)
    except InputError:
        return None


def _estimator(line: Foreign, options: dict[str, Any], trust_code: bool) -> Any:
    if FUNCTION.fullmatch(line.what):
        given = [] if line.weights is None else [str(line.weights)]
        return line.called(given, options, KNOWN)
    path = Path(line.what)
    if path.suffix not in FILES:
        raise InputError(
            f"got estimator:{line.what}; expected estimator:PACKAGE.MODULE:FUNCTION, or a file that ends in "
            f"{', '.join(FILES)}"
        )
    if options or line.weights is not None:
        name = next(iter(options), f"@{line.weights}")
        raise InputError(f"got {name} for the file {path}; expected range, shape or output alone")
    return _from_file(path, trust_code)


def _from_file(path: Path, trust_code: bool) -> Any:
    if not path.is_file():
        raise InputError(f"got no file {path}; expected a fitted estimator, written by joblib.dump")
    if not trust_code:
        raise InputError(
            f"{path} runs whatever code is in it when it is read; expected your consent: write --trust_code "
            "true, or estimator:PACKAGE.MODULE:FUNCTION, which returns the estimator"
        )
    import joblib

    try:
        return joblib.load(path)
    except Exception as error:  # what a damaged or foreign file raises is anything
        raise InputError(
            f"{path} cannot be read ({explain(error)}); expected a fitted estimator that joblib.dump wrote "
            "with the same packages"
        ) from error
