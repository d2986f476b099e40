"""Energies that installed packages add, and the request that every energy is built for."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from unflow.energies import Energy
from unflow.foreign.specification import Specification
from unflow.ground.errors import InputError
from unflow.models import GenerativeModel


@dataclass(frozen=True)
class EnergyRequest:
    """What an energy is built for, beside its specification.

    Attributes:
        classes: to forget; None where none were given.
        margin: >= 0, in nats.
        model: whose samples the energy must accept.
        trust_code: as ``bundle.load``, and for files of estimators.
    """

    classes: tuple[int, ...] | None
    margin: float
    model: GenerativeModel
    trust_code: bool = False

    def require_classes(self, named: object) -> tuple[int, ...]:
        """Return the classes to forget; ``named`` is the specification that needs some.

        Raises:
            InputError: where none were given.
        """
        if self.classes is None:
            raise InputError(
                f"got no classes to forget for {named}, which distinguishes classes; expected some: write "
                "--forget 3, or --forget 3,5"
            )
        return self.classes


EnergyBuilder = Callable[[Specification, EnergyRequest], Energy]
"""A function that builds the energy of a specification."""


def make_builder(function: Callable[..., Energy]) -> EnergyBuilder:
    """Return the builder for a package's ``function(source, *, forget, margin, **options)``.

    ``KIND:SOURCE@WEIGHTS,name=value`` gives it ``source``, the classes to ``forget`` (``()`` where none were
    given) and the ``margin`` of the command, ``weights`` (a path) where there are some, and the options as
    YAML reads their values.

    Raises:
        TypeError: for an object that cannot be called.
    """
    signature = inspect.signature(function)

    def build(spec: Specification, request: EnergyRequest) -> Energy:
        given = {"forget": request.classes or (), "margin": request.margin}
        energy = function(spec.source, **_read_options(spec, signature, given))
        if not isinstance(energy, Energy):
            raise InputError(
                f"{spec.kind}:{spec.source} returned a {type(energy).__name__}; expected an energies.Energy: "
                "mend the package that adds this kind"
            )
        return energy

    return build


def _read_options(
    spec: Specification, signature: inspect.Signature, given: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the keyword arguments of a function.

    Raises:
        InputError: for an option that it does not take, or a missing one.
    """
    weights = {} if spec.weights is None else {"weights": spec.weights}
    options = {**spec.take({})[1], **weights, **given}
    try:
        signature.bind(spec.source, **options)
    except TypeError as error:
        names = [name for name in list(signature.parameters)[1:] if name not in given]
        raise InputError(
            f"got {spec.kind}:{spec.source} with options that it does not take ({error}); expected "
            f"name=value for {', '.join(names) or 'nothing'}"
        ) from error
    return options
