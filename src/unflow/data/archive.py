"""Reading the files in a .tar.gz without unpacking it."""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from unflow.ground.errors import InputError


def read_members(
    path: Path, is_wanted: Callable[[tarfile.TarInfo], bool]
) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    """Yield the members that ``is_wanted`` accepts and their contents, in the order of the archive.

    Raises:
        InputError: if the archive is damaged or truncated.
    """
    try:
        # gzip, unlike tarfile's "r|gz", detects an archive that was truncated between two members.
        with gzip.open(path) as plain, tarfile.open(fileobj=plain, mode="r|") as archive:
            for member in archive:
                content = archive.extractfile(member) if is_wanted(member) else None
                if content is not None:
                    yield member, content.read()
            _check_end(plain, path)
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise InputError(
            f"got a damaged archive {path} ({error}); expected a complete .tar.gz: "
            "write it again from its source"
        ) from error


def _check_end(plain: gzip.GzipFile, path: Path) -> None:
    """Read to the checksum: tarfile stops at a damaged header, and members after it would be lost."""
    while rest := plain.read(1 << 20):
        if rest.strip(b"\0"):
            raise InputError(
                f"got a damaged archive {path} with a broken header; expected a complete .tar.gz: "
                "write it again from its source"
            )
