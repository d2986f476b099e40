"""Downloads from and uploads to the Hugging Face Hub (``pip install 'unflow[hub]'``)."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from unflow.ground.errors import InputError, explain

REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
REFUSALS = {
    "GatedRepoError": "its owner must grant you access: ask on its page, then run hf auth login",
    "RepositoryNotFoundError": "it does not exist, or it is private: run hf auth login",
    "RevisionNotFoundError": "it has no such revision",
    "LocalEntryNotFoundError": "the Hub cannot be reached, and the cache does not hold it",
    "OfflineModeIsEnabled": "HF_HUB_OFFLINE is set",
    "LocalTokenNotFoundError": "you are not logged in: run hf auth login",
}
"""Name of an exception of huggingface_hub -> its meaning, in messages."""

T = TypeVar("T")


def download(repo_id: str, revision: str | None, files: Sequence[str]) -> Path:
    """Return the folder of a repository's files in the local cache; cached files are not downloaded again.

    Args:
        repo_id: "org/name".
        revision: branch, tag or commit; None: main.
        files: names of the files to download.

    Raises:
        InputError: for an invalid name, a repository that the Hub refuses, or without the package
            huggingface_hub.
    """
    hub = _client(repo_id)
    name = repo_id if revision is None else f"{repo_id}@{revision}"
    fetch = hub.snapshot_download
    return Path(_request(name, lambda: fetch(repo_id, revision=revision, allow_patterns=list(files))))


def upload(folder: Path, repo_id: str, files: Sequence[str], private: bool, revision: str | None) -> str:
    """Upload files to a repository, which is made if needed; return the address of the commit.

    Args:
        folder: the folder of the files.
        repo_id: "org/name".
        files: names of the files to upload.
        private: whether a new repository is private.
        revision: branch; None: main.

    Raises:
        InputError: as ``download``.
    """
    hub = _client(repo_id)
    _request(repo_id, lambda: hub.create_repo(repo_id, private=private, exist_ok=True))
    options = {"folder_path": folder, "allow_patterns": list(files), "revision": revision}
    return str(_request(repo_id, lambda: hub.upload_folder(repo_id=repo_id, **options)))


def _client(repo_id: str) -> Any:
    """Return the package huggingface_hub, after a check of the repository's name."""
    if not REPOSITORY.fullmatch(repo_id):
        raise InputError(
            f"got {repo_id!r}; expected a folder that is there, or a repository of the Hugging Face Hub: "
            "write org/name"
        )
    try:
        return importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise InputError(
            f"got {repo_id!r}, and huggingface_hub is not installed ({error}); expected a folder that is "
            "there, or that package: write pip install 'unflow[hub]'"
        ) from error


def _request(name: str, call: Callable[[], T]) -> T:
    """Return the result of a call to the Hub; every exception becomes an InputError."""
    try:
        return call()
    except Exception as error:
        known = [REFUSALS[kind.__name__] for kind in type(error).__mro__ if kind.__name__ in REFUSALS]
        why = known[0] if known else explain(error)
        raise InputError(
            f"the Hugging Face Hub does not give {name} ({why}); expected a repository that you may "
            "read, or a local folder"
        ) from error
