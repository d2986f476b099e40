"""Third-party classifiers, by a model specification: guides and judges."""

from __future__ import annotations

import torch
from torch import Tensor

from unflow.disk import bundle
from unflow.foreign.specification import (
    Readers,
    Source,
    Specification,
    import_from_working_directory,
    parse_specification,
    read_range,
    read_shape,
)
from unflow.ground.errors import InputError, convert_errors
from unflow.ground.logits import check_logits, logits_of_classes
from unflow.ground.streams import stream
from unflow.models import GenerativeModel
from unflow.models.classifier import Classifier
from unflow.models.probe import check_kind, undisturbed
from unflow.nets import OutputsAs, ReadsAs, WritesAs
from unflow.nets.dtypes import check_fits
from unflow.nets.modes import evaluating
from unflow.nets.outputs import read_output


def load_classifier(text: Source, trust_code: bool = False, x: Tensor | None = None) -> Classifier:
    """Return the classifier in a bundle, or the third-party classifier of a specification.

    Args:
        text: folder, ``pretrained:org/name@revision``, or a specification like
            ``classifier:my_pkg.judges:build@judge.safetensors,range=0:1,shape=784``;
            ``names=cat/dog`` names its classes; ``output=probabilities`` (a softmax) or ``output=sigmoid``
            converts probabilities to logits.
        trust_code: as ``bundle.load``.
        x: samples on which the classes are counted; None: zeros of the declared shape.

    Raises:
        InputError: as ``bundle.load``, and for a specification of something else.
    """
    spec = parse_specification(text, ("classifier",))
    if spec is not None:
        return _build_classifier(spec, x)
    if trust_code:
        import_from_working_directory()
    return bundle.load_classifier(str(text), trust_code)


def load_classifier_for(model: GenerativeModel, text: Source, trust_code: bool = False) -> Classifier:
    """Return ``load_classifier`` after a check that it accepts the model's samples.

    Raises:
        InputError: as ``load_classifier``, ``check_range`` and ``check_reads``.
    """
    spec = parse_specification(text)
    classifier = load_classifier(spec or text, trust_code, model.sample(2, stream(0)))
    check_range(spec, model)
    check_reads(classifier, model)
    return classifier


def check_range(spec: Specification | None, model: GenerativeModel) -> None:
    """Raise InputError if a model declares the range of its images, and the network that reads them does not.

    Args:
        spec: specification of the network that reads the images; None for a bundle.
        model: the model that draws them.
    """
    declared = (
        m.value_range for m in model.modules() if isinstance(m, WritesAs) and m.value_range is not None
    )
    low, high = next(declared, (-1.0, 1.0))
    if spec is not None and "range" not in spec.options and (low, high) != (-1.0, 1.0):
        raise InputError(
            f"got {spec.source} without the range of the images that it reads, for a model that writes "
            f"{low:g}:{high:g}; expected that range: write range={low:g}:{high:g}, or range=-1:1 if it reads "
            "images in [-1, 1]"
        )


def check_reads(classifier: Classifier, model: GenerativeModel) -> None:
    """Raise InputError unless a classifier accepts the model's samples."""
    x = model.sample(2, stream(0))
    check_fits(classifier, x, "the classifier")
    what = f"the classifier does not run on the model's samples of shape {list(model.sample_shape)}"
    expected = "one that does: declare the shape that it reads, like shape=784"
    with convert_errors(what, expected), torch.no_grad(), evaluating(classifier):
        logits = classifier(x)
    shape = (len(x), classifier.num_classes)
    if not isinstance(logits, Tensor) or logits.shape != shape:
        found = list(logits.shape) if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
        raise InputError(
            f"the classifier returned {found} for 2 samples; expected logits {list(shape)}: name a "
            "function whose network returns them, and its classes by names=cat/dog"
        )
    check_kind("the classifier", logits, x)
    check_logits(logits)


def _build_classifier(spec: Specification, x: Tensor | None) -> Classifier:
    known: Readers = {
        "range": read_range,
        "shape": read_shape,
        "axes": str,
        "key": str,
        "names": lambda text: text.split("/"),
        "output": read_output,
    }
    ours, theirs = spec.take(known)
    reads = ReadsAs(
        spec.build_network(theirs, ours.get("key"), known),
        ours.get("range"),
        ours.get("shape"),
        ours.get("axes"),
    )
    net = OutputsAs(reads, ours["output"]) if "output" in ours else reads
    return Classifier(net, ours.get("names") or _number_classes(reads, spec, x)).eval()


def _number_classes(net: ReadsAs, spec: Specification, x: Tensor | None) -> list[str]:
    """Return the class numbers as class names: one for each logit that the network returns, two for one."""
    if x is None and net.shape is None:
        raise InputError(
            f"got {spec.source}, whose classes cannot be counted without samples; expected their names or "
            "its input: declare the shape that it reads, like shape=784, or write names=cat/dog"
        )
    weight = next(net.parameters(), torch.zeros(()))
    shape = list(net.shape or ()) if x is None else list(x.shape[1:])
    what = f"the classifier does not run on samples of shape {shape}"
    expected = "one that does: declare the shape that it reads, like shape=784"
    with convert_errors(what, expected), undisturbed(net):
        logits = (
            net(x.to(weight.device)) if x is not None else net.net(weight.new_zeros(2, *(net.shape or ())))
        )
    if isinstance(logits, Tensor):
        check_kind("the classifier", logits, weight)
        logits = logits_of_classes(logits)
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        found = list(logits.shape) if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
        raise InputError(
            f"the classifier returned {found} for 2 samples; expected logits [2, classes]: name a function "
            "whose network returns them, and its classes by names=cat/dog"
        )
    return [str(k) for k in range(logits.shape[1])]
