"""Models, classifiers and scores that unflow has never seen, each named by one line of words.

line         what a line says, and how values are written
models       generators, flows, flow maps, folders of diffusers
classifiers  guides and judges
energies     what to forget: a classifier, an ONNX file, an estimator, a score, images
wanted       what is asked of an energy, beside its line
estimators   scikit-learn's, from a function or a file
images       a few images and what tells them apart
packages     energies that installed packages add
"""

from unflow.foreign.classifiers import check_reads, load_classifier, load_classifier_for
from unflow.foreign.energies import guide_behind, guide_of, load_energy, seen_by
from unflow.foreign.line import Foreign, read_line
from unflow.foreign.models import lineage_of, load_model, load_whole, with_options

__all__ = [
    "Foreign",
    "check_reads",
    "guide_behind",
    "guide_of",
    "lineage_of",
    "load_classifier",
    "load_classifier_for",
    "load_energy",
    "load_model",
    "load_whole",
    "read_line",
    "seen_by",
    "with_options",
]
