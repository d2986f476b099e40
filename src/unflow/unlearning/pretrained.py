"""Bundles in folders and in repositories of the Hugging Face Hub.

The functions have the names of those in Hugging Face's libraries. They are not methods, because models know
no files, and because one folder may hold any kind of model.
"""

from __future__ import annotations

from pathlib import Path

from unflow.disk import bundle
from unflow.disk import hub as huggingface
from unflow.disk.bundle import FILES
from unflow.ground.errors import InputError
from unflow.ground.values import expand_home, is_folder
from unflow.models.components import SavedModel
from unflow.unlearning.unlearn import Unlearned

__all__ = ["from_pretrained", "push_to_hub", "save_pretrained"]


def from_pretrained(name: str | Path, *, revision: str | None = None, trust_code: bool = False) -> SavedModel:
    """Return the model, classifier or autoencoder in a folder or repository, in evaluation mode.

    ``load``, ``load_classifier`` and ``load_autoencoder`` accept ``"pretrained:org/name@revision"`` too, for
    one kind of model each. Repositories need ``pip install 'unflow[hub]'``; only the bundle's files are
    downloaded.

    Args:
        name: a local folder, or "org/name" on the Hugging Face Hub; an existing folder has priority.
        revision: branch, tag or commit of the repository; None: main.
        trust_code: as ``load``.

    Raises:
        InputError: as ``load``; for a repository that cannot be downloaded, and a revision of a folder.
    """
    if not is_folder(expand_home(str(name))):
        return bundle.load_any(huggingface.download(str(name), revision, FILES), trust_code)
    if revision is not None:
        raise InputError(
            f"got revision={revision!r} for the local folder {name}, which has none; expected it for a "
            "repository of the Hugging Face Hub: leave it out"
        )
    return bundle.load_any(name, trust_code)


def save_pretrained(model: SavedModel | Unlearned, folder: str | Path) -> Path:
    """Write a model as a bundle; the result of ``unlearn`` keeps its lineage.

    Args:
        model: a generative model, classifier or autoencoder, or an ``Unlearned``.
        folder: created if needed; an older bundle in it is replaced.

    Raises:
        InputError: as ``save``, and for an object of another type.
    """
    whole, lineage = (model.model, model.lineage) if isinstance(model, Unlearned) else (model, None)
    if not isinstance(whole, SavedModel):
        raise InputError(
            f"got a {type(model).__name__}; expected a model of unflow: write uf.Generator(net, prior_shape) "
            "around a network of your own"
        )
    return bundle.save(whole, folder, lineage)


def push_to_hub(
    folder: str | Path, repo_id: str, *, private: bool = False, revision: str | None = None
) -> str:
    """Upload a bundle with its lineage and model card, and no other file of its folder.

    The card states no licence; the owner chooses one on the repository's page.

    Args:
        folder: folder of a complete bundle.
        repo_id: "org/name"; created if needed.
        private: whether a new repository is private.
        revision: branch to write to; None: main.

    Returns:
        The address of the commit.

    Raises:
        InputError: for a folder without a complete bundle, an error of the Hub, or a missing huggingface_hub.
    """
    if not bundle.is_complete(Path(folder)):
        raise InputError(
            f"{folder} holds no complete bundle; expected one: write it with save_pretrained(model, folder)"
        )
    return huggingface.upload(Path(folder), repo_id, FILES, private, revision)
