"""Energies of a few example images, compared by a frozen feature extractor."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from unflow.data import image_files
from unflow.disk import bundle
from unflow.energies import Energy, ImageNetClassifier
from unflow.energies.anchor import features_of
from unflow.energies.anchoring import add_threshold, grow_request, make_anchor
from unflow.foreign.classifiers import check_range
from unflow.foreign.specification import FUNCTION, Readers, Specification, read_range, read_shape
from unflow.ground.errors import InputError, convert_errors
from unflow.ground.streams import Stream, stream
from unflow.ground.values import exists, is_folder, unquote
from unflow.models import GenerativeModel
from unflow.models.autoencoder import Autoencoder, Encoding
from unflow.models.classifier import Classifier, Features
from unflow.models.probe import probe_features
from unflow.nets import ReadsAs

NUM_FIT = 8000
"""Samples of the model on which the energy is fitted."""
EXTRACTORS = (
    "a bundle of a classifier or an autoencoder, PACKAGE.MODULE:FUNCTION@WEIGHTS, imagenet or flatten"
)
_OF_WAYS: dict[str, Readers] = {
    "grown": {"share": float, "parts": int, "rank": int},
    "thresholded": {"kernel": str},
}
"""How ``anchoring`` builds an energy from images -> the options of that way."""
_OF_FUNCTIONS: Readers = {"range": read_range, "shape": read_shape, "axes": str, "key": str}
_KNOWN: Readers = {"extractor": str, "way": str, "samples": int, **_OF_FUNCTIONS}


def build_image_energy(
    spec: Specification, margin: float, model: GenerativeModel, trust_code: bool
) -> Energy:
    """Return the energy of a few images of what is to be forgotten, fitted on the model's own samples.

    Args:
        spec: ``images:FOLDER,extractor=...``; ``way=grown`` with ``share``, ``parts`` and ``rank``, or
            ``way=thresholded`` with ``kernel``; ``samples``, the number on which it is fitted; ``range``,
            ``shape``, ``key`` and others for an extractor that a function makes.
        margin: >= 0, in nats.
        model: whose samples are scored.
        trust_code: as ``bundle.load``.

    Raises:
        InputError: for no images, an unknown way, option or extractor, and an extractor that does not accept
            the images.
    """
    way = spec.options.get("way", "grown")
    if way not in _OF_WAYS:
        raise InputError(f"got way={way} for images:{spec.source}; expected {' or '.join(_OF_WAYS)}")
    known = {**_KNOWN, **_OF_WAYS[way]}
    phi = _load_extractor(spec, known, trust_code)
    ours, _ = spec.take(known)
    settings = {name: ours[name] for name in _OF_WAYS[way] if name in ours}
    if isinstance(phi, ReadsAs):
        check_range(spec, model)
    images = image_files(spec.source, model.sample_shape).to(model.device, model.dtype)
    _check_extractor(phi, images)
    x = model.sample(ours.get("samples", NUM_FIT), stream(0, Stream.IMAGE_ENERGY))
    if way == "grown":
        return grow_request(phi, images, x, stream(0, Stream.WALK), margin=margin, **settings)
    return add_threshold(make_anchor(phi, images, x, **settings), x, margin)


def _load_extractor(spec: Specification, known: Readers, trust_code: bool) -> nn.Module:
    """Return the network that computes features of samples."""
    ours, theirs = spec.take(known)
    text = spec.options.get("extractor")
    if text is None:
        raise InputError(
            f"got images:{spec.source} without a feature extractor; expected extractor=...: {EXTRACTORS}"
        )
    what, _, weights = text.partition("@")
    if FUNCTION.fullmatch(what) and not exists(text):
        function = Specification("extractor", what, Path(unquote(weights)) if weights else None)
        return ReadsAs(
            function.build_network(theirs, ours.get("key"), known),
            ours.get("range"),
            ours.get("shape"),
            ours.get("axes"),
        )
    if spec.weights is not None:
        raise InputError(
            f"got @{spec.weights} after the images; expected it after the function of an extractor: write "
            f"extractor=PACKAGE.MODULE:FUNCTION@{spec.weights}"
        )
    of_other = [(name, way) for way, names in _OF_WAYS.items() for name in names if name in theirs]
    if of_other:
        name, way = of_other[0]
        raise InputError(
            f"got {name}= for way={ours.get('way', 'grown')}; expected it for {way}: write way={way}"
        )
    unread = [name for name in spec.options if name in theirs or name in _OF_FUNCTIONS]
    if unread:
        raise InputError(
            f"got {unread[0]}= for extractor={text}; expected "
            f"{', '.join(name for name in known if name not in _OF_FUNCTIONS)}, and any others only "
            "for extractor=PACKAGE.MODULE:FUNCTION"
        )
    return _load_named_extractor(unquote(text), trust_code)


def _load_named_extractor(name: str, trust_code: bool) -> nn.Module:
    """Return an extractor by the name of one of unflow's, or of a bundle."""
    if name == "flatten":
        return nn.Flatten()
    if name == "imagenet":
        return Features(Classifier(ImageNetClassifier(), [str(k) for k in range(1000)]))
    if not (bundle.is_on_hub(name) or is_folder(name)):
        raise InputError(f"got extractor={name}; expected {EXTRACTORS}")
    found = bundle.load_any(name, trust_code)
    if isinstance(found, Classifier):
        return Features(found)
    if isinstance(found, Autoencoder):
        return Encoding(found)
    raise InputError(f"got extractor={name}, which holds a generative model; expected {EXTRACTORS}")


def _check_extractor(phi: nn.Module, images: Tensor) -> None:
    what = f"the extractor does not run on images of shape {list(images.shape[1:])}"
    expected = "one that does: declare the shape that it reads, like shape=784"
    with convert_errors(what, expected), torch.no_grad():
        features_of(phi.eval(), images[:2])
    probe_features(phi, images, phi, "the extractor")
