"""Values as people write them: numbers, quoted texts, lists, and paths in the home folder."""

from __future__ import annotations

import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

QUOTED = r"\"[^\"]*\"|'[^']*'"
"""Regular expression of a quoted text; there are no escapes: a text with " is quoted by '."""
_OPENS = "=,:@/[({ "
"""Characters after which a quote opens a quoted text; elsewhere it is an apostrophe."""
_SPECIAL = re.compile(r"[,@]|^['\"]|^\s|\s$")


class PlainLoader(yaml.SafeLoader):
    """YAML with decimal numbers: 1e-5 and inf are floats, 010 is 10; 1:30 and 2024-01-01 are texts."""


_NUMBERS = {f"tag:yaml.org,2002:{name}" for name in ("int", "float", "timestamp")}
_INT = re.compile(r"[-+]?[0-9][0-9_]*|[-+]?0[xX][0-9a-fA-F]+|[-+]?0b[01]+")
_FLOAT = re.compile(
    r"[-+]?(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?\.?(?:inf|Inf|INF)|\.?(?:nan|NaN|NAN)"
)
PlainLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in known if tag not in _NUMBERS]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _name, _pattern in (("int", _INT), ("float", _FLOAT)):
    PlainLoader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_name}", re.compile(f"(?:{_pattern.pattern})$"), list("-+.0123456789inINF")
    )
PlainLoader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile("None$"), ["N"])


def _construct_int(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    text = str(loader.construct_scalar(node)).replace("_", "").lower()
    base = 16 if "0x" in text else 2 if "0b" in text else 10
    return int(text, base)


def _construct_float(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> float:
    text = str(loader.construct_scalar(node)).replace("_", "").lower()
    return float(text.replace(".inf", "inf").replace(".nan", "nan"))


PlainLoader.add_constructor("tag:yaml.org,2002:int", _construct_int)
PlainLoader.add_constructor("tag:yaml.org,2002:float", _construct_float)


def read_value(text: str) -> Any:
    """Return the value in a text: a number, true, None, a list or mapping in brackets, or the text itself.

    A quoted text stays a text: ``"010"``. A text that begins with ``~/`` is a path in the home folder.

    Raises:
        yaml.YAMLError: for brackets that do not close.
    """
    if re.fullmatch(QUOTED, text):
        return unquote(text)
    if text.startswith("(") and text.endswith(")"):
        text = f"[{text[1:-1]}]"
    if text[:1] in ("[", "{"):
        return expand_homes(yaml.load(text, PlainLoader))
    loader = PlainLoader("")
    plain = text.strip()
    tag: str = loader.resolve(yaml.ScalarNode, plain, (True, False))  # type: ignore[no-untyped-call]
    if tag == "tag:yaml.org,2002:null" and plain == "~":
        return None
    return expand_homes(loader.construct_object(yaml.ScalarNode(tag, plain)))


def unquote(text: str) -> str:
    """Return the text within quotes; another text as it is. ``~/`` at its start becomes the home folder."""
    return expand_home(text[1:-1] if re.fullmatch(QUOTED, text) else text)


def quote(text: str) -> str:
    """Return a text that ``unquote`` reads back; in quotes if it has commas, an @ or a first quote."""
    if not _SPECIAL.search(text):
        return text
    return f"'{text}'" if '"' in text else f'"{text}"'


def split_outside(text: str, separator: str = ",") -> list[str]:
    """Split at separators outside of brackets and quotes: ``dim=[1, 8],file="a,b"`` has two parts."""
    parts, depth, place = [""], 0, 0
    while place < len(text):
        quoted = re.compile(QUOTED).match(text, place) if _opens_quote(parts[-1]) else None
        piece = quoted[0] if quoted else text[place]
        place += len(piece)
        if not quoted:
            depth += (piece in "[({") - (piece in "])}")
        if piece == separator and depth == 0:
            parts.append("")
        else:
            parts[-1] += piece
    return parts


def _opens_quote(before: str) -> bool:
    return not before or before[-1] in _OPENS


def expand_home(text: str) -> str:
    """Return a path with the home folder in place of ``~/``; another text as it is."""
    return str(Path(text).expanduser()) if text == "~" or text.startswith("~/") else text


def expand_homes(value: Any) -> Any:
    """Return plain data with ``expand_home`` for each path and text in it."""
    if isinstance(value, str):
        return expand_home(value)
    if isinstance(value, Path):
        return type(value)(expand_home(str(value)))
    if isinstance(value, list):
        return [expand_homes(each) for each in value]
    if isinstance(value, Mapping):
        return {name: expand_homes(each) for name, each in value.items()}
    return value


def exists(path: str | Path) -> bool:
    """Return whether a path exists; False, and no error, for a text that is longer than a file name."""
    return _find_mode(path) is not None


def is_file(path: str | Path) -> bool:
    """Return whether a path is a file; as ``exists`` for long texts."""
    return stat.S_ISREG(_find_mode(path) or 0)


def is_folder(path: str | Path) -> bool:
    """Return whether a path is a folder; as ``exists`` for long texts."""
    return stat.S_ISDIR(_find_mode(path) or 0)


def _find_mode(path: str | Path) -> int | None:
    try:
        return Path(path).stat().st_mode
    except (OSError, ValueError):  # longer than a file name, or with a null character
        return None
