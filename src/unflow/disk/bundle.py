"""Bundles: a model as a folder of model.safetensors, config.json, README.md (model card) and lineage.json."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor, nn

from unflow.disk import hub as huggingface
from unflow.disk.card import Audited, model_card
from unflow.disk.weights import check_numbers, check_types
from unflow.ground import plugins
from unflow.ground.errors import InputError, convert_errors, shorten
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
from unflow.ground.locks import lock_folder
from unflow.ground.values import expand_home, is_file, is_folder
from unflow.models import GenerativeModel
from unflow.models.autoencoder import Autoencoder
from unflow.models.classifier import Classifier
from unflow.models.components import COMPONENTS, Config, SavedModel, build_component, find_component
from unflow.nets import builders, foreign_networks, trusted
from unflow.nets.description import OWN_BUILDERS
from unflow.nets.limits import limit_numbers

FORMAT = 1
WEIGHTS, CONFIG, LINEAGE, CARD = "model.safetensors", "config.json", "lineage.json", "README.md"
FILES = (WEIGHTS, CONFIG, LINEAGE, CARD)
_LINEAGE: dict[str, tuple[type, ...]] = {
    "data": (dict,),
    "request": (dict,),
    "settings": (dict,),
    "versions": (dict,),
    "data_used": (list,),
    "seconds": (float, int),
    "steps": (int,),
}
"""The entries of a lineage that commands read, and their types."""
PRETRAINED = "pretrained:"
"""The prefix of the name of a bundle on the Hugging Face Hub."""


def collect_versions(*parts: object) -> dict[str, str]:
    """Return the versions of all packages that a result depends on.

    Args:
        parts: the models, energies and methods behind the result; the packages of their classes are included.
    """
    names = ("unflow", "torch", "lightning-fabric", "numpy", "scikit-learn")
    own = {"python": platform.python_version()} | {name: version(name) for name in names}
    return own | plugins.list_packages(*parts)


M = TypeVar("M", bound=nn.Module)


def save(model: SavedModel, folder: str | Path, lineage: dict[str, Any] | None = None) -> Path:
    """Write a model as a bundle; ``config.json`` is written last and completes it.

    Args:
        model: a generative model, classifier or autoencoder whose networks ``nets.net_config`` can describe.
        folder: made if needed; an older bundle in it is replaced.
        lineage: where the model comes from (parent, request, method, settings, seed, data).

    Raises:
        InputError: for a network that cannot be described.
    """
    folder = Path(folder)
    config = model.config()
    with lock_folder(folder):
        write_tensors(folder / WEIGHTS, model.state_dict())
        digest = sha256_file(folder / WEIGHTS)
        identity = {"sha256": digest, "weights_sha256": sha256_module(model)}
        record = identity | {"versions": collect_versions(model), **(lineage or {})}
        write_json(folder / LINEAGE, record)
        write_bytes(folder / CARD, model_card(model, find_component(model).loader, record).encode())
        write_json(folder / CONFIG, {"format": FORMAT, "sha256": digest, **config})
    return folder


def load(folder: str | Path, trust_code: bool = False) -> GenerativeModel:
    """Return the generative model in a bundle, in evaluation mode.

    Args:
        folder: the folder of the bundle, or ``pretrained:org/name@revision`` on the Hugging Face Hub.
        trust_code: whether to run the functions that its config.json names for networks which unflow does not
            ship. They run with your rights: agree only for files from people you trust.

    Raises:
        InputError: for a bundle that is missing, damaged, a pickle, of another architecture, or built by
            code that you did not agree to run.
    """
    return _load_as(GenerativeModel, folder, trust_code)  # type: ignore[type-abstract]  # for isinstance only


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


def _load_as(kind: type[M], folder: str | Path, trust_code: bool) -> M:
    model = load_any(folder, trust_code)
    if not isinstance(model, kind):
        expected = next(each.title for each in COMPONENTS.values() if each.kind is kind)
        raise InputError(f"{folder} holds {find_component(model).title}; expected {expected}")
    return model


def find_folder(name: str | Path) -> Path:
    """Return the folder of a bundle; ``pretrained:org/name@revision`` is downloaded first.

    Raises:
        InputError: as ``huggingface.download``.
    """
    if not is_on_hub(name):
        return Path(expand_home(str(name)))
    repo_id, _, revision = str(name).removeprefix(PRETRAINED).partition("@")
    return huggingface.download(repo_id, revision or None, FILES)


def is_on_hub(name: str | Path) -> bool:
    """Return whether a name is that of a bundle on the Hugging Face Hub."""
    return str(name).startswith(PRETRAINED)


def is_complete(folder: Path) -> bool:
    """Return whether a folder holds a bundle that was written completely."""
    return is_file(folder / CONFIG)


def read_lineage(folder: str | Path) -> dict[str, Any]:
    """Return the lineage of a bundle, in a folder or ``pretrained:org/name@revision``."""
    path = find_folder(folder) / LINEAGE
    record = _read_record(path)
    for name, kinds in _LINEAGE.items():
        if not isinstance(record.get(name), (*kinds, type(None))):
            raise InputError(
                f"{path} holds {name}={shorten(repr(record[name]))}; expected {kinds[0].__name__} or null: "
                "copy the bundle again"
            )
    return record


def _read_record(path: Path) -> dict[str, Any]:
    record = read_json(path)
    if not isinstance(record, dict):
        raise InputError(
            f"{path} holds {shorten(repr(record))}; expected entries by name: copy the bundle again"
        )
    return record


def check_lineage(folder: Path, expected: dict[str, Any], defaults: Mapping[str, Any] | None = None) -> None:
    """Raise InputError, with the differences, unless the lineage of a bundle has the expected entries.

    Args:
        folder: the folder of a complete bundle.
        expected: entries that the lineage must have.
        defaults: values of settings that are newer than the lineage and therefore missing in it.
    """
    lineage = read_lineage(folder)
    found = lineage.get("settings")
    if defaults is not None and isinstance(found, dict | None):
        lineage["settings"] = {**defaults, **(found or {})}
    differing = [k for k, v in expected.items() if lineage.get(k) != v]
    if differing:
        changes = ", ".join(f"{k}: {lineage.get(k)} -> {expected[k]}" for k in differing)
        raise InputError(
            f"{folder} holds another result ({changes}); expected an empty folder or the same request: "
            "choose another --out"
        )


def hash_lineage(lineage: dict[str, Any]) -> str:
    """Return one hash of entries of a lineage, such as parent, request and data."""
    return sha256_text(json.dumps(lineage, sort_keys=True))


def write_card(folder: str | Path, audited: Audited, trust_code: bool = False) -> Path:
    """Rewrite the model card of a bundle, with the results of an audit.

    Args:
        folder: the folder of the bundle.
        audited: results and sections.
        trust_code: as ``load``.

    Raises:
        InputError: as ``check_local`` and ``load``.
    """
    check_local(folder)
    folder = Path(folder)
    model = load_any(folder, trust_code)
    text = model_card(model, find_component(model).loader, read_lineage(folder), audited)
    with lock_folder(folder):
        write_bytes(folder / CARD, text.encode())
    return folder / CARD


def check_local(name: str | Path) -> None:
    """Raise InputError unless a name is the folder of a complete local bundle, whose card can be written."""
    if is_on_hub(name):
        raise InputError(
            f"got {name}, whose model card is on the Hugging Face Hub; expected a bundle of your own: "
            "load it, save it into a folder, and audit that"
        )
    if not is_complete(Path(name)):
        raise InputError(
            f"got {name}, which has no model card; expected the folder of a complete bundle: leave out "
            "--card, or save the model as one"
        )


def load_result(folder: Path, known: Sequence[Config]) -> SavedModel:
    """Return the model in a finished result of this call.

    A folder is no consent: its config.json may run third-party code only as the networks in hand run it.

    Args:
        folder: the folder of the bundle.
        known: descriptions of the networks that the caller has, or asked for.

    Raises:
        InputError: as ``load``.
    """
    return load_any(folder, known=known)


def load_any(folder: str | Path, trust_code: bool = False, *, known: Sequence[Config] = ()) -> SavedModel:
    """Return the model, classifier or autoencoder in a bundle, in evaluation mode.

    Args:
        folder: as ``load``.
        trust_code: as ``load``.
        known: descriptions of networks; the bundle may build third-party networks in them without consent.

    Raises:
        InputError: as ``load``.
    """
    folder = find_folder(folder)
    if not is_complete(folder):
        found = ", ".join(sorted(p.name for p in folder.iterdir())) if is_folder(folder) else "nothing"
        raise InputError(
            f"{folder} is not a complete bundle (found: {found or 'an empty folder'}); expected "
            f"{WEIGHTS} and {CONFIG}, as `unflow train` and `unflow unlearn` write them"
        )
    config = _read_record(folder / CONFIG)
    written, digest = config.pop("format", None), config.pop("sha256", None)
    if written != FORMAT:
        raise InputError(
            f"{folder} has bundle format {written}; expected {FORMAT}, which this version reads: write pip "
            "install -U unflow if a newer one wrote it"
        )
    if not trust_code:
        _check_builders(folder, config, known)
    state, _ = read_tensors(folder / WEIGHTS)
    model = _build_model(folder, config, state)
    _check_state(folder, model, state)
    if sha256_file(folder / WEIGHTS) != digest:
        raise InputError(
            f"{folder / WEIGHTS} does not match the hash in {CONFIG}; expected the file that was "
            "written with it: copy the bundle again"
        )
    check_types(state, model.state_dict(), str(folder / WEIGHTS))
    check_numbers(state, str(folder / WEIGHTS))
    model.load_state_dict(state)
    return model.eval()


def _build_model(folder: Path, config: Config, state: dict[str, Tensor]) -> SavedModel:
    """Return the model of a config, with fresh weights; refuse one that is larger than its weights file.

    Third-party code, which the user agreed to run, may build more than it returns.
    """
    try:
        with convert_errors(f"{folder / CONFIG} describes no model that can be built", "a complete copy"):
            if not all(name in OWN_BUILDERS for name in builders(config)):
                return build_component(config)
            with limit_numbers(sum(tensor.numel() for tensor in state.values()), config):
                return build_component(config)
    except InputError as error:
        if str(error).startswith(str(folder)):
            raise
        raise InputError(f"{folder / CONFIG} describes no model that can be built here: {error}") from error


def _check_builders(folder: Path, config: Config, known: Sequence[Config]) -> None:
    """Raise InputError if a bundle would run code that the user did not agree to run."""
    ours = foreign_networks(
        json.loads(json.dumps(list(known), default=str))
    )  # tuples as the lists that files have
    unknown = [net for net in foreign_networks(config) if not trusted(net["builder"]) and net not in ours]
    if unknown:
        raise InputError(
            f"{folder} is built by {unknown[0]['builder']}, which is not part of unflow; expected your "
            "consent to run that code: write --trust_code true (trust_code=True) if you know where the files "
            "come from"
        )


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
