"""The target law of a request, and what a conditional model draws in place of a forgotten sample."""

from unflow.target.bank import NO_ORIGIN, Bank, Drawn, Replaced
from unflow.target.replacement import (
    RETAINED,
    Nearest,
    Noise,
    Null,
    OfLabel,
    Replacement,
    Retained,
    parse_replacement,
)
from unflow.target.request import KAPPA_SAMPLES, Target, check_strength

__all__ = [
    "KAPPA_SAMPLES",
    "NO_ORIGIN",
    "RETAINED",
    "Bank",
    "Drawn",
    "Nearest",
    "Noise",
    "Null",
    "OfLabel",
    "Replaced",
    "Replacement",
    "Retained",
    "Target",
    "check_strength",
    "parse_replacement",
]
