"""Third-party models, classifiers and energies, each named by one model specification.

specification  the string that names a model, how it is parsed, and how values are written
models         generators, flows, flow maps, folders of diffusers
classifiers    guides and judges
energies       what to forget: a classifier, an ONNX file, an estimator, a score function, images
estimators     of scikit-learn, from a function or a file
images         a few example images and their feature extractor
plugins        energies that installed packages add
"""

from unflow.foreign.classifiers import check_reads, load_classifier, load_classifier_for
from unflow.foreign.energies import (
    guide_behind,
    guide_of,
    list_class_names,
    list_energy_data,
    load_energy,
    parse_energy,
)
from unflow.foreign.models import (
    add_options,
    family_of,
    lineage_of,
    load_autoencoder,
    load_model,
    load_whole,
    with_options,
)
from unflow.foreign.specification import Specification, parse_specification
from unflow.ground.faces import renamed

__all__ = [
    "Specification",
    "add_options",
    "check_reads",
    "family_of",
    "guide_behind",
    "guide_of",
    "lineage_of",
    "list_class_names",
    "list_energy_data",
    "load_autoencoder",
    "load_classifier",
    "load_classifier_for",
    "load_energy",
    "load_model",
    "load_whole",
    "parse_energy",
    "parse_specification",
    "with_options",
]

__getattr__ = renamed(
    __name__, {"Foreign": "Specification", "read_line": "parse_specification", "seen_by": "list_energy_data"}
)
