"""A model on disk: model.safetensors, config.json, README.md (model card) and lineage.json."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from unflow.disk import hub as huggingface
from unflow.disk.card import Audited, model_card
from unflow.ground import plugins
from unflow.ground.errors import InputError
from unflow.ground.files import (
    read_json,
    read_tensors,
    sha256_file,
    sha256_module,
    sha256_text,
    write_bytes,
    write_json,
    write_tensors,
)
from unflow.models import GenerativeModel, from_config
from unflow.models.autoencoder import Autoencoder
from unflow.models.classifier import Classifier
from unflow.nets import builders, trusted

FORMAT = 1
WEIGHTS, CONFIG, LINEAGE, CARD = "model.safetensors", "config.json", "lineage.json", "README.md"
FILES = (WEIGHTS, CONFIG, LINEAGE, CARD)
PRETRAINED = "pretrained:"
"""What stands before the name of a bundle on the Hugging Face Hub."""


def versions(*parts: object) -> dict[str, str]:
    """Return the versions that a result depends on.

    Args:
        parts: what it consists of and came about by; the packages of their classes belong to it.
    """
    names = ("unflow", "torch", "lightning-fabric", "numpy", "scikit-learn")
    own = {"python": platform.python_version()} | {name: version(name) for name in names}
    return own | plugins.list_packages(*parts)


M = TypeVar("M", bound=nn.Module)
Bundled = GenerativeModel | Classifier | Autoencoder
"""What can be kept as a bundle."""


def save(model: Bundled, folder: str | Path, lineage: dict[str, Any] | None = None) -> Path:
    """Write a model as a bundle; ``config.json`` comes last and makes it whole.

    Args:
        model: a generative model, classifier or autoencoder whose networks ``nets.net_config`` can describe.
        folder: made if needed; an older bundle in it is replaced.
        lineage: where the model comes from (parent, request, method, settings, seed, data).

    Raises:
        InputError: for a network that cannot be described.
    """
    folder = Path(folder)
    config = model.config()
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder / WEIGHTS, model.state_dict())
    digest = sha256_file(folder / WEIGHTS)
    identity = {"sha256": digest, "weights_sha256": sha256_module(model)}
    record = identity | {"versions": versions(model), **(lineage or {})}
    write_json(folder / LINEAGE, record)
    write_bytes(folder / CARD, model_card(model, _words(model)[1], record).encode())
    write_json(folder / CONFIG, {"format": FORMAT, "sha256": digest, **config})
    return folder


def load(folder: str | Path, trust_code: bool = False) -> GenerativeModel:
    """Return the generative model in a bundle, in evaluation mode.

    Args:
        folder: of the bundle, or ``pretrained:org/name@revision`` on the Hugging Face Hub.
        trust_code: whether to run the functions that its config.json names for networks which unflow does not
            ship. They run with your rights: agree for files of people you trust.

    Raises:
        InputError: for a bundle that is missing, damaged, a pickle, of another architecture, or built by
            code that was not agreed to.
    """
    return _load_as(GenerativeModel, folder, trust_code)  # type: ignore[type-abstract]  # asked about, never made


def load_classifier(folder: str | Path, trust_code: bool = False) -> Classifier:
    """Return the classifier in a bundle, in evaluation mode.

    Args:
        folder: as ``load``.
        trust_code: as ``load``.

    Raises:
        InputError: as ``load``, and for a bundle that holds something else.
    """
    return _load_as(Classifier, folder, trust_code)


def load_autoencoder(folder: str | Path, trust_code: bool = False) -> Autoencoder:
    """Return the autoencoder in a bundle, in evaluation mode.

    Args:
        folder: as ``load``.
        trust_code: as ``load``.

    Raises:
        InputError: as ``load``, and for a bundle that holds something else.
    """
    return _load_as(Autoencoder, folder, trust_code)


KINDS: dict[type[nn.Module], tuple[str, str]] = {
    GenerativeModel: ("a generative model", "load"),
    Classifier: ("a classifier", "load_classifier"),
    Autoencoder: ("an autoencoder", "load_autoencoder"),
}
"""What a bundle can hold -> how it is called in messages, and what loads it."""


def _words(model: nn.Module) -> tuple[str, str]:
    return next(words for kind, words in KINDS.items() if isinstance(model, kind))


def _load_as(kind: type[M], folder: str | Path, trust_code: bool) -> M:
    model = load_any(folder, trust_code)
    if not isinstance(model, kind):
        raise InputError(f"{folder} holds {_words(model)[0]}; expected {KINDS[kind][0]}")
    return model


def folder_of(name: str | Path) -> Path:
    """Return the folder of a bundle; ``pretrained:org/name@revision`` is fetched first.

    Raises:
        InputError: as ``huggingface.download``.
    """
    if not on_hub(name):
        return Path(name)
    repo_id, _, revision = str(name).removeprefix(PRETRAINED).partition("@")
    return huggingface.download(repo_id, revision or None, FILES)


def on_hub(name: str | Path) -> bool:
    """Return whether a bundle is named on the Hugging Face Hub."""
    return str(name).startswith(PRETRAINED)


def is_whole(folder: Path) -> bool:
    """Return whether a bundle was written to its end."""
    return (folder / CONFIG).is_file()


def read_lineage(folder: str | Path) -> dict[str, Any]:
    """Return the lineage of a bundle, in a folder or ``pretrained:org/name@revision``."""
    return dict(read_json(folder_of(folder) / LINEAGE))


def check_same(folder: Path, identity: dict[str, Any], defaults: Mapping[str, Any] | None = None) -> None:
    """Raise InputError, showing what differs, if a bundle did not come about as ``identity`` says.

    Args:
        folder: of a whole bundle.
        identity: what the lineage must say.
        defaults: settings that a lineage written before they existed is taken to have.
    """
    lineage = read_lineage(folder)
    if defaults is not None:
        lineage["settings"] = {**defaults, **(lineage.get("settings") or {})}
    differing = [k for k, v in identity.items() if lineage.get(k) != v]
    if differing:
        changes = ", ".join(f"{k}: {lineage.get(k)} -> {identity[k]}" for k in differing)
        raise InputError(
            f"{folder} holds another result ({changes}); expected an empty folder or the same request: "
            "choose another --out"
        )


def problem_id(identity: dict[str, Any]) -> str:
    """Return one hash of what a result comes from."""
    return sha256_text(json.dumps(identity, sort_keys=True))


def write_card(folder: str | Path, audited: Audited) -> Path:
    """Write the model card of a bundle again, with what an audit adds.

    Args:
        folder: of the bundle.
        audited: results and sections.

    Raises:
        InputError: as ``check_own``.
    """
    check_own(folder)
    folder = Path(folder)
    model = load_any(folder, trust_code=True)  # whoever writes into it has loaded it before
    text = model_card(model, _words(model)[1], read_lineage(folder), audited)
    write_bytes(folder / CARD, text.encode())
    return folder / CARD


def check_own(name: str | Path) -> None:
    """Raise InputError for what has no card to write: a bundle on the Hugging Face Hub, or none at all."""
    if on_hub(name):
        raise InputError(
            f"got {name}, whose model card is on the Hugging Face Hub; expected a bundle of your own: "
            "load it, save it into a folder, and audit that"
        )
    if not is_whole(Path(name)):
        raise InputError(
            f"got {name}, which has no model card; expected the folder of a whole bundle: leave out "
            "--card, or save the model as one"
        )


def load_any(folder: str | Path, trust_code: bool = False) -> Bundled:
    """Return what a bundle holds, in evaluation mode.

    Args:
        folder: as ``load``.
        trust_code: as ``load``.

    Raises:
        InputError: as ``load``.
    """
    folder = folder_of(folder)
    if not is_whole(folder):
        found = ", ".join(sorted(p.name for p in folder.iterdir())) if folder.is_dir() else "nothing"
        raise InputError(
            f"{folder} is not a whole bundle (found: {found or 'an empty folder'}); expected "
            f"{WEIGHTS} and {CONFIG}, as `unflow train` and `unflow unlearn` write them"
        )
    config = dict(read_json(folder / CONFIG))
    written, digest = config.pop("format", None), config.pop("sha256", None)
    if written != FORMAT:
        raise InputError(
            f"{folder} has bundle format {written}; expected {FORMAT}, which this version reads: write pip "
            "install -U unflow if a newer one wrote it"
        )
    if not trust_code:
        _check_builders(folder, config)
    try:
        model = _rebuild(config)
    except InputError as error:
        raise InputError(f"{folder / CONFIG} describes no model that can be built here: {error}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{folder / CONFIG} describes no model that can be built: {error}; copy the bundle again"
        ) from error
    state, _ = read_tensors(folder / WEIGHTS)
    _check_state(folder, model, state)
    if sha256_file(folder / WEIGHTS) != digest:
        raise InputError(
            f"{folder / WEIGHTS} does not match the hash in {CONFIG}; expected the file that was "
            "written with it: copy the bundle again"
        )
    model.load_state_dict(state)
    return model.eval()


def _check_builders(folder: Path, config: dict[str, Any]) -> None:
    """Raise InputError if a bundle would run code that nobody agreed to."""
    strange = [name for name in builders(config) if not trusted(name)]
    if strange:
        raise InputError(
            f"{folder} is built by {strange[0]}, which is not part of unflow; expected your consent to run "
            "that code: write --trust_code true (trust_code=True) if you know where the files come from"
        )


def _rebuild(config: dict[str, Any]) -> Bundled:
    if "classifier" in config:
        return Classifier.from_config(config)
    return from_config(config) if "model" in config else Autoencoder.from_config(config)


def _check_state(folder: Path, model: nn.Module, state: dict[str, Any]) -> None:
    expected = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: list(tensor.shape) for name, tensor in state.items()}
    if found != expected:
        names = sorted(expected.keys() ^ found.keys()) or sorted(
            name for name in expected if expected[name] != found[name]
        )
        raise InputError(
            f"the weights in {folder} are of another architecture than its {CONFIG} says (first "
            f"difference: {names[0]}, got {found.get(names[0])}, expected {expected.get(names[0])})"
        )
