"""Files of a .tar.gz, read without unpacking it."""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from unflow.ground.errors import InputError


def members(
    path: Path, is_wanted: Callable[[tarfile.TarInfo], bool]
) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    """Yield the wanted members and their contents, in their order.

    Raises:
        InputError: if the archive is damaged, or cut short anywhere.
    """
    try:
        # gzip, unlike tarfile's own "r|gz", notices an archive that was cut short between two members.
        with gzip.open(path) as plain, tarfile.open(fileobj=plain, mode="r|") as archive:
            for member in archive:
                content = archive.extractfile(member) if is_wanted(member) else None
                if content is not None:
                    yield member, content.read()
            _check_end(plain, path)
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise InputError(
            f"got a damaged archive {path} ({error}); expected a whole .tar.gz: "
            "write it again from its source"
        ) from error


def _check_end(plain: gzip.GzipFile, path: Path) -> None:
    """Read up to the checksum; tarfile takes a damaged header for the end, and then members are left."""
    while rest := plain.read(1 << 20):
        if rest.strip(b"\0"):
            raise InputError(
                f"got a damaged archive {path} with a broken header; expected a whole .tar.gz: "
                "write it again from its source"
            )
