"""The generator of malformed inputs: one function per kind, each a function of a random generator alone."""

from __future__ import annotations

import copy
import gzip
import hashlib
import io
import json
import os
import pickle
import random
import shlex
import struct
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image
from safetensors.torch import load, save

Damage = Callable[[Path, random.Random], object]


@dataclass(frozen=True)
class Case:
    """One malformed input.

    Attributes:
        name: the kind, and the variant drawn.
        words: the command line.
        damage: changes the folder of sound inputs.
        refused: whether the command must refuse it.
        file_bytes: a size above which no file can grow, like on a full disk; None: no limit.
    """

    name: str
    words: tuple[str, ...]
    damage: Damage
    refused: bool = False
    file_bytes: int | None = None

    def __str__(self) -> str:
        return f"{self.name}: unflow {shlex.join(self.words)[:160]}"


def nothing(folder: Path, rng: random.Random) -> None:
    """Change nothing."""


TRAIN = (
    "train",
    "digits-guide",
    "--split",
    "split.json",
    "--net",
    '{"net": "mlp", "width": 8, "depth": 1}',
    "--settings.steps",
    "1",
    "--out",
    "out",
)
UNLEARN = (
    "unlearn",
    "--model",
    "map",
    "--energy",
    "classifier:guide",
    "--forget",
    "3",
    "--method",
    "uot",
    "--settings.steps",
    "1",
    "--settings.bank_size",
    "64",
    "--settings.batch_size",
    "8",
    "--out",
    "out",
)
SAMPLE = ("sample", "map", "--n", "2", "--out", "out")
EXPORT = ("export", "map", "--out", "out.safetensors")
AUDIT = (
    "audit",
    "map",
    "--original",
    "map",
    "--judge",
    "judge",
    "--forget",
    "3",
    "--split",
    "split.json",
    "--n",
    "100",
    "--attack",
    "false",
    "--out",
    "out",
)
JUDGE = ("judge", "--split", "split.json", "--steps", "1", "--out", "out")
PLAN = ("plan", "--model", "map", "--energy", "classifier:guide", "--forget", "3", "--methods", "reject")
SPLIT = ("split", "--out", "out.json")
REPORT = ("report", "audited", "--out", "out.html")
DEMO = ("demo", "--out", "out", "--n", "5")

TEXTS = (
    "",
    " ",
    "nan",
    "inf",
    "-inf",
    "1e999",
    "1e5",
    "-1",
    "0",
    "null",
    "~",
    "[]",
    "{}",
    "[[",
    "{a",
    "true",
    "é",
    "١",
    "1_000",
    "0x10",
    "..",
    "/dev/full",
    "/dev/null/x",
    "@",
    ":",
    ",",
    "1,,2",
    "a" * 300,
    "&a *a",
    str(10**30),
    "[" * 3000,
    "{a: " * 2000,
    "&a [*a]",
    str(10**10),
    str(-(10**19)),
    "1" * 5000,
    "!!python/object:os.system x",
    "\t",
    "'",
    "3.5",
    "-9223372036854775809",
    "9223372036854775808",
    "18446744073709551616",
    "=",
    "*",
    "%s",
    "\ud800",
)
OPTIONS: dict[tuple[str, ...], tuple[str, ...]] = {
    TRAIN: (
        "--seed",
        "--settings.steps",
        "--settings.batch_size",
        "--settings.learning_rate",
        "--data",
        "--split",
        "--part",
        "--kind",
        "--net",
        "--net.width",
        "--net.depth",
        "--device",
        "--devices",
        "--out",
        "--cache",
        "--teacher",
        "--critic",
        "--method",
        "--config",
        "--settings.ema_decay",
        "--settings.aside",
    ),
    UNLEARN: (
        "--seed",
        "--settings.steps",
        "--settings.bank_size",
        "--settings.batch_size",
        "--settings.width",
        "--settings.learning_rate",
        "--forget",
        "--strength",
        "--margin",
        "--energy",
        "--model",
        "--method",
        "--rank",
        "--train_only",
        "--micro_batches",
        "--devices",
        "--device",
        "--out",
        "--data",
        "--split",
        "--divergence",
        "--teacher",
        "--weights",
        "--prior",
        "--logger",
        "--batch_rows",
        "--settings.pool",
    ),
    SAMPLE: (
        "--n",
        "--seed",
        "--out",
        "--model",
        "--autoencoder",
        "--batch_rows",
        "--trust_code",
        "--config",
        "--label",
        "--prompt",
    ),
    EXPORT: ("--out", "--like", "--weights_key", "--model"),
    PLAN: ("--methods", "--seed", "--out", "--strength", "--margin", "--forget", "--energy", "--batch_rows"),
    SPLIT: ("--out", "--shares", "--seed", "--data", "--cache"),
    JUDGE: ("--steps", "--aside", "--seed", "--guide", "--data", "--split", "--out"),
    REPORT: ("--out", "--folders"),
    DEMO: ("--forget", "--seed", "--seeds", "--margin", "--strength", "--n", "--device", "--flow_map"),
}
"""A sound command line -> the options that are given wrong values (each is the last one, which counts)."""


def wrong_option(rng: random.Random) -> Case:
    """Give an option a value of another type or range."""
    words = rng.choice(list(OPTIONS))
    option = rng.choice(OPTIONS[words])
    value = rng.choice(TEXTS)
    return Case(f"option {option}", (*words, f"{option}={value}"), nothing)


HUGE = (10**9, 10**10, 2**31, 2**53, 10**18, 2**63 - 1, 10**30, -(10**30))
NUMBERS: dict[tuple[str, ...], tuple[str, ...]] = {
    TRAIN: (
        "--net.width",
        "--net.depth",
        "--net.frequencies",
        "--settings.batch_size",
        "--devices",
        "--seed",
    ),
    UNLEARN: (
        "--settings.bank_size",
        "--settings.batch_size",
        "--settings.width",
        "--settings.depth",
        "--rank",
        "--micro_batches",
        "--devices",
        "--batch_rows",
        "--forget",
        "--margin",
        "--strength",
        "--seed",
    ),
    (*UNLEARN[:7], "--method", "erfm", "--model", "flow", "--out", "out"): (
        "--settings.bank_size",
        "--settings.block_size",
        "--settings.width",
        "--settings.depth",
    ),
    SAMPLE: ("--n", "--seed"),
    AUDIT: ("--n", "--resolve", "--seed", "--forget"),
    PLAN: ("--batch_rows", "--seed", "--margin"),
    DEMO: ("--seeds", "--seed", "--margin", "--forget"),
    SPLIT: ("--seed", "--shares"),
}
"""A sound command line -> options of numbers, which are given far too large ones."""


def huge_number(rng: random.Random) -> Case:
    """Give an option a number that no memory or no format holds."""
    words = rng.choice(list(NUMBERS))
    option, value = rng.choice(NUMBERS[words]), rng.choice(HUGE)
    return Case(f"huge {option}", (*words, f"{option}={value}"), nothing)


GATES = (
    "",
    " ",
    ",",
    "forget_rate>1e999",
    "forget_rate>",
    ">1",
    "forget_rate>nan",
    "n>-1e999",
    "x>1",
    "forget_rate>0.1,",
    "forget_rate=>1",
    "forget_rate>" + "9" * 400,
    "forget_rate<1e-400x",
    "forget_rate>1..2",
    "forget_rate>inf",
)


def wrong_gate(rng: random.Random) -> Case:
    """Ask for a condition that can never fail, or is none."""
    return Case("gate", (*AUDIT, f"--fail_if={rng.choice(GATES)}"), nothing, refused=True)


# YAML

RECIPE = """kind: classifier
method: classification
data: digits
net: {net: mlp, width: 8, depth: 1}
settings: {steps: 1}
"""
ALIASES = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + k)}: &{chr(98 + k)} [{', '.join(['*' + chr(97 + k)] * 9)}]\n" for k in range(9)
)
YAMLS: dict[str, bytes] = {
    "empty": b"",
    "truncated": RECIPE.encode()[:70],
    "tabs": RECIPE.replace("settings: {steps: 1}", "settings:\n\tsteps: 1").encode(),
    "latin-1": RECIPE.encode() + "# café\n".encode("latin-1"),
    "utf-16": RECIPE.encode("utf-16"),
    "utf-16 without mark": RECIPE.encode("utf-16-le"),
    "mark": b"\xef\xbb\xbf" + RECIPE.encode(),
    "nul": RECIPE.encode() + b"\0",
    "binary": bytes(range(256)),
    "aliases": RECIPE.encode() + ALIASES.encode(),
    "aliases in net": RECIPE.replace("depth: 1", "depth: 1, x: *i").encode() + ALIASES.encode(),
    "aliases first": ALIASES.encode() + RECIPE.replace("depth: 1", "depth: *i").encode(),
    "cycle": RECIPE.encode() + b"a: &a [*a]\n",
    "cycle in net": RECIPE.replace("{net: mlp,", "&n {net: mlp, shape: *n,").encode(),
    "python": RECIPE.encode() + b"seed: !!python/object/apply:os.getpid []\n",
    "deep": b"a: " + b"[" * 5000 + b"]" * 5000,
    "deep mapping": b"{a: " * 3000 + b"1" + b"}" * 3000,
    "list": b"- 3\n- 4\n",
    "number": b"3\n",
    "text": b"kind\n",
    "two documents": (RECIPE + "---\n" + RECIPE).encode(),
    "twice": (RECIPE + "kind: flow\n").encode(),
    "unhashable": RECIPE.encode() + b"? [a]\n: 3\n",
    "date": (RECIPE + "seed: 2020-01-01\n").encode(),
    "quoted number": (RECIPE + "seed: '3'\n").encode(),
    "number key": (RECIPE + "3: 4\n").encode(),
    "null key": (RECIPE + "null: 4\n").encode(),
    "merge": (RECIPE + "<<: 3\n").encode(),
    "long line": (RECIPE + "data: " + "a" * 100_000 + "\n").encode(),
    "config in itself": (RECIPE + "config: bad.yaml\n").encode(),
}
LEAVES = ("kind", "method", "data", "net", "settings", "seed", "part", "split", "device", "devices", "out")
VALUES: tuple[Any, ...] = (
    None,
    "",
    "x",
    -1,
    0,
    10**9,
    10**30,
    -(10**19),
    1.5,
    float("nan"),
    float("inf"),
    True,
    [],
    {},
    [1],
    {"a": 1},
    [[[]]],
    {"net": "mlp"},
    "é" * 300,
    [None],
    "0",
    2**63,
)


def bad_yaml(rng: random.Random) -> Case:
    """Give a recipe or a configuration that is damaged, or holds a wrong value."""
    if rng.random() < 0.5:
        name = rng.choice(list(YAMLS))
        text = YAMLS[name]
    else:
        name, recipe = "value", yaml.safe_load(RECIPE)
        place = rng.choice([recipe, recipe, recipe["net"], recipe["settings"]])
        key = rng.choice([*place, "seed", "data", "part", "frequencies", "learning_rate"])
        place[key] = rng.choice(VALUES)
        name, text = f"value {key}={str(place[key])[:20]}", yaml.safe_dump(recipe).encode()
    form = rng.choice(("recipe", "config", "place", "sample"))
    if form == "place" and rng.random() < 0.5:
        name = rng.choice(("folder", "fifo", "loop"))
        damage: Damage = lambda folder, _: make_place(folder / "bad.yaml", name)  # noqa: E731
    else:
        damage = lambda folder, _: (folder / "bad.yaml").write_bytes(text)  # noqa: E731
    words = {
        "config": (*TRAIN, "--config", "bad.yaml", "--out", "out"),
        "sample": (*SAMPLE, "--config", "bad.yaml"),
    }.get(form, ("train", "bad.yaml", "--out", "out"))
    return Case(f"yaml {name} as {form}", words, damage)


def make_place(path: Path, kind: str) -> None:
    """Put a folder, a pipe, a loop of links or a device where a file is expected."""
    if path.is_dir():
        for entry in path.iterdir():
            entry.unlink()
        path.rmdir()
    path.unlink(missing_ok=True)
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "full":
        path.symlink_to("/dev/full")
    else:
        path.symlink_to("/dev/zero")


PLACES = ("folder", "fifo", "loop", "full", "zero")

# JSON

READERS: dict[str, tuple[tuple[str, ...], ...]] = {
    "map/config.json": (SAMPLE, EXPORT, UNLEARN, AUDIT, PLAN),
    "flow/config.json": (("sample", "flow", "--n", "2", "--out", "out"),),
    "guide/config.json": (UNLEARN, PLAN),
    "judge/config.json": (AUDIT,),
    "map/lineage.json": (UNLEARN, AUDIT),
    "guide/lineage.json": (UNLEARN, (*AUDIT, "--energy", "classifier:guide")),
    "judge/lineage.json": (AUDIT,),
    "split.json": (TRAIN, JUDGE, ("split", "--out", "split.json")),
    "audited/audit.json": (REPORT, REPORT, ("report", "audited", "audited", "--out", "out.html")),
    "audited/split.json": (REPORT,),
    "audited/lineage.json": (REPORT,),
    "audited/config.yaml": (REPORT, (*AUDIT, "--out", "audited")),
    "map/config.yaml": (("train", "digits-mean-flow", "--split", "split.json", "--out", "map"),),
}


def list_places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of every entry of nested data; of long lists only the first entries."""
    entries = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    found = []
    for key, each in list(entries)[:40]:
        found += [(*path, key), *list_places(each, (*path, key))]
    return found


def change_entry(value: Any, rng: random.Random) -> Any:
    """Return nested data with one or two entries replaced, removed or added."""
    value = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 2))):
        places = list_places(value)
        if not places:
            return copy.deepcopy(rng.choice(VALUES))
        *above, key = rng.choice(places)
        inner = value
        for each in above:
            inner = inner[each]
        action = rng.random()
        if action < 0.15:
            del inner[key]
        elif action < 0.25 and isinstance(inner, dict):
            inner["extra"] = copy.deepcopy(rng.choice(VALUES))
        else:
            inner[key] = copy.deepcopy(rng.choice(VALUES))
    return value


def damage_text(content: bytes, rng: random.Random) -> bytes:
    """Return text cut, with a changed byte, in another encoding, nested deeply, or of another kind."""
    cut = rng.randrange(len(content) + 1)
    number = b"1" * 5000
    return rng.choice(
        (
            content[:cut],
            content[:cut] + bytes([rng.randrange(256)]) + content[cut + 1 :],
            content.decode().encode("utf-16"),
            b"[" * 100_000,
            b'{"a":' * 50_000,
            b"",
            b"null",
            b"[]",
            b"3",
            b'"x"',
            b"{}",
            number,
            b'{"format": 1, "schema": ' + number + b"}",
            b"\xef\xbb\xbf" + content,
        )
    )


def bad_json(rng: random.Random) -> Case:
    """Damage config.json, lineage.json, split.json, audit.json or config.yaml."""
    file = rng.choice([*READERS, "audited/audit.json", "audited/audit.json", "map/config.json"])
    words = rng.choice(READERS[file])
    way = rng.choice(("entry", "entry", "entry", "text", "place"))
    kind = rng.choice(PLACES)

    def damage(folder: Path, inner: random.Random) -> None:
        path = folder / file
        if way == "place":
            make_place(path, kind)
        elif way == "text":
            path.write_bytes(damage_text(path.read_bytes() if path.exists() else b"{}", inner))
        else:
            value = yaml.safe_load(path.read_text()) if path.exists() else {"rows": {"a": [1]}}
            changed = change_entry(value, inner)
            path.write_text(yaml.safe_dump(changed) if path.suffix == ".yaml" else json.dumps(changed))

    return Case(f"{way} {kind if way == 'place' else ''} of {file}", words, damage)


# Weights

WEIGHT_READERS = (SAMPLE, EXPORT, UNLEARN, PLAN)


def bad_weights(rng: random.Random) -> Case:
    """Damage model.safetensors, and let config.json hold its new hash."""
    way = rng.choice(
        (
            "nan",
            "inf",
            "int",
            "bool",
            "half",
            "double",
            "header",
            "cut",
            "huge",
            "shape",
            "place",
            "empty",
            "fp8",
            "width",
        )
    )
    kind = rng.choice(PLACES)
    refused = way in ("nan", "inf", "int", "bool", "cut", "shape", "empty", "width")

    def damage(folder: Path, inner: random.Random) -> None:
        path = folder / "map" / "model.safetensors"
        if way == "place":
            return make_place(path, kind)
        path.write_bytes(change_weights(path.read_bytes(), way, inner))
        config = json.loads((folder / "map" / "config.json").read_text())
        config["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
        if way == "width":
            config["net"]["width"] = inner.choice((-1, 0, 10**6, 10**9, 10**30, "8", 8.5, None, True))
        (folder / "map" / "config.json").write_text(json.dumps(config))
        return None

    return Case(
        f"weights {way} {kind if way == 'place' else ''}", rng.choice(WEIGHT_READERS), damage, refused
    )


DTYPES = {
    "int": torch.int64,
    "bool": torch.bool,
    "half": torch.float16,
    "double": torch.float64,
    "fp8": torch.float8_e4m3fn,
}


def change_weights(content: bytes, way: str, rng: random.Random) -> bytes:
    """Return a safetensors file damaged in one way."""
    if way == "cut":
        return content[: rng.randrange(len(content))]
    if way == "empty":
        return b""
    if way in ("header", "huge"):
        return change_header(content, way, rng)
    tensors = load(content)
    name = rng.choice(sorted(name for name, tensor in tensors.items() if tensor.numel()))
    if way in ("nan", "inf"):
        tensors[name].view(-1)[rng.randrange(tensors[name].numel())] = float(way)
    elif way == "shape":
        tensors[name] = torch.zeros(3, 3, 3)
    elif way in DTYPES:
        chosen = list(tensors) if rng.random() < 0.5 else [name]
        tensors |= {each: tensors[each].to(DTYPES[way]) for each in chosen}
    return save(tensors)


def change_header(content: bytes, way: str, rng: random.Random) -> bytes:
    """Return a safetensors file whose header is wrong."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    name = rng.choice([name for name in header if name != "__metadata__"])
    entry = rng.choice(("shape", "dtype", "data_offsets"))
    header[name][entry] = [10**12] if way == "huge" else rng.choice(VALUES)
    text = json.dumps(header).encode()
    size = rng.choice((len(text), len(text), 2**63, 0, 10**8))
    return size.to_bytes(8, "little") + text + content[8 + length :]


# Checkpoints of torch

CHECKPOINTS = (
    "cycle",
    "sparse",
    "meta",
    "quantised",
    "complex",
    "deep",
    "object",
    "text",
    "empty",
    "cut",
    "zip",
    "list",
    "nan",
    "int",
    "numbers",
    "parameter",
    "csr",
    "nested",
)


def bad_checkpoint(rng: random.Random) -> Case:
    """Give a .pth file that is damaged, or whose tensors are none that a network can hold."""
    way = rng.choice((*CHECKPOINTS, "place"))
    kind = rng.choice(PLACES)
    suffix = rng.choice((".pth", ".pth", ".ckpt", ".bin", ".safetensors"))
    file = f"bad{suffix}"

    def damage(folder: Path, inner: random.Random) -> None:
        if way == "place":
            make_place(folder / file, kind)
        else:
            (folder / file).write_bytes(make_checkpoint(way, inner))

    forms = (
        ("export", "map", "--like", file, "--out", f"out{rng.choice(('.pth', '.safetensors'))}"),
        (
            "sample",
            f"generator:torch.nn:Linear@{file},prior=normal:4,in_features=4,out_features=64",
            "--out",
            "out",
        ),
        (
            "unlearn",
            "--model",
            f"generator:torch.nn:Linear@{file},prior=normal:4,in_features=4,out_features=64",
            "--energy",
            "classifier:guide",
            "--forget",
            "3",
            "--settings.steps",
            "1",
            "--out",
            "out",
        ),
    )
    return Case(
        f"checkpoint {way} {suffix}", rng.choice(forms), damage, refused=way not in ("parameter", "place")
    )


def make_checkpoint(way: str, rng: random.Random) -> bytes:
    """Return the bytes of a file of torch.save, for a linear layer from 4 to 64, that is wrong in one way."""
    state: Any = {"weight": torch.zeros(64, 4), "bias": torch.zeros(64)}
    if way == "cycle":
        state = {"a": state}
        state["a"]["b"] = state
    elif way == "deep":
        for _ in range(150):
            state = {"a": state}
    elif way == "object":
        return pickle.dumps({"weight": random.Random()})
    elif way == "text":
        return b"weights\n" * 40
    elif way == "empty":
        return b""
    elif way == "list":
        state = [1, 2, "x"]
    elif way == "numbers":
        state = {"weight": 3, 4: {5: None}}
    elif way == "zip":
        return zip_of({"archive/data.pkl": b"\x80\x02}.", "archive/version": b"3"})
    elif way == "parameter":
        state = {name: torch.nn.Parameter(tensor) for name, tensor in state.items()}
    elif way == "nan":
        state["weight"][0, 0] = float("nan")
    else:
        state["weight"] = odd_tensor(way, state["weight"])
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()
    return content[: rng.randrange(len(content))] if way == "cut" else content


def odd_tensor(way: str, weight: torch.Tensor) -> torch.Tensor:
    """Return weights in a form that no network holds."""
    rows, none = torch.zeros(65, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that these tensors are in beta state
        odd = {
            "sparse": weight.to_sparse(),
            "csr": torch.sparse_csr_tensor(rows, none, torch.zeros(0), (64, 4)),
            "meta": weight.to("meta"),
            "quantised": torch.zeros(64, 4, dtype=torch.uint8),
            "complex": weight.to(torch.complex64),
            "int": weight.long(),
            "nested": weight.to(torch.bool),
        }
    return odd.get(way, weight)


def zip_of(members: dict[str, bytes], level: int = zipfile.ZIP_STORED) -> bytes:
    """Return the bytes of a zip file."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", level) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return buffer.getvalue()


# Data sets


def header_of(shape: str, dtype: str = "'|u1'", order: str = "False") -> bytes:
    """Return the header of a .npy file."""
    text = f"{{'descr': {dtype}, 'fortran_order': {order}, 'shape': {shape}, }}".encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def array_bytes(array: Any, allow_pickle: bool = False) -> bytes:
    """Return an array as a .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(array), allow_pickle=allow_pickle)
    return buffer.getvalue()


X, Y = array_bytes(np.zeros((20, 8, 8), np.uint8)), array_bytes(np.arange(20) % 10)
MEMBERS: dict[str, bytes] = {
    "text": b"not an array",
    "none": b"",
    "pickle": array_bytes(np.array([{}, 1], dtype=object), True),
    "huge": header_of("(1000000000000,)"),
    "huge images": header_of("(100000, 1000, 1000)"),
    "beyond int64": header_of("(100000000000000000000000000000,)"),
    "negative": header_of("(-1, 8, 8)") + bytes(64),
    "text shape": header_of("'x'") + bytes(64),
    "float shape": header_of("(2.5, 8)") + bytes(64),
    "dtype": header_of("(20, 8, 8)", "'|zz'") + bytes(1280),
    "record": array_bytes(np.zeros(20, [("a", "i4"), ("b", "f8")])),
    "dates": array_bytes(np.zeros(20, "datetime64[s]")),
    "complex": array_bytes(np.zeros((20, 8, 8), complex)),
    "texts": array_bytes(np.array(["a"] * 20)),
    "number": array_bytes(np.array(3)),
    "bool": array_bytes(np.ones(20, bool)),
    "no rows": array_bytes(np.zeros((0, 8, 8), np.uint8)),
    "nan": array_bytes(np.full((20, 8, 8), np.nan)),
    "labels beyond memory": array_bytes(np.full(20, 10**15)),
    "unsigned": array_bytes(np.full(20, 2**64 - 1, np.uint64)),
    "flat": array_bytes(np.zeros((20, 0), np.float32)),
    "axes": array_bytes(np.zeros((1,) * 30, np.float32)),
    "empty texts": array_bytes(np.array([], dtype="U1")),
    "bad header": b"\x93NUMPY\x01\x00\xff\xff{",
    "version": b"\x93NUMPY\x09\x00\x10\x00",
}


def bad_npz(rng: random.Random) -> Case:
    """Give a .npz file that is damaged, or whose members are none of images and labels."""
    way = rng.choice((*MEMBERS, *MEMBERS, "cut", "single", "place", "bomb", "flip"))
    member = rng.choice(("x", "y", "class_names", "range", "x"))
    kind, source = rng.choice(PLACES), rng.choice(("split", "train", "report"))

    def damage(folder: Path, inner: random.Random) -> None:
        path = next(folder.glob("audited/samples/*.npz")) if source == "report" else folder / "bad.npz"
        if way == "place":
            make_place(path, kind)
        else:
            path.write_bytes(make_npz(way, member, inner))

    words = {
        "split": ("split", "--data", "npz:bad.npz", "--out", "out.json"),
        "train": (*TRAIN[:2], "--data", "npz:bad.npz", *TRAIN[4:]),
        "report": REPORT,
    }[source]
    return Case(
        f"npz {way} {member} for {source}",
        words,
        damage,
        refused=way in ("cut", "single", "huge")
        and ((source != "report" and member != "range") or way == "cut"),
    )


def make_npz(way: str, member: str, rng: random.Random) -> bytes:
    """Return the bytes of a .npz file that is wrong in one way."""
    if way == "single":
        return X
    if way == "bomb":
        shape = (1_500_000_000,) if member != "x" else (1500, 1000, 1000)
        return bomb(header_of(str(shape)), 1_500_000_000)
    members = {"x.npy": X, "y.npy": Y}
    if way in MEMBERS:
        members[f"{member}.npy" if rng.random() < 0.8 else member] = MEMBERS[way]
    content = zip_of(members, zipfile.ZIP_DEFLATED)
    if way == "cut":
        return content[: rng.randrange(len(content))]
    if way == "flip":
        place = rng.randrange(len(content))
        return content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :]
    return content


_BOMBS: dict[int, bytes] = {}


def bomb(header: bytes, zeros: int) -> bytes:
    """Return a .npz file of a few megabytes whose member x is zeros."""
    if zeros not in _BOMBS:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
            with file.open("x.npy", "w", force_zip64=True) as member:
                member.write(header)
                for _ in range(zeros // 10**7):
                    member.write(bytes(10**7))
            file.writestr("y.npy", Y)
        _BOMBS[zeros] = buffer.getvalue()
    return _BOMBS[zeros]


def idx(shape: tuple[int, ...], values: bytes, kind: int = 8, axes: int | None = None) -> bytes:
    """Return the bytes of an IDX file."""
    lengths = b"".join(struct.pack(">I", n) for n in shape)
    return bytes([0, 0, kind, len(shape) if axes is None else axes]) + lengths + values


_GZIP_BOMB: list[bytes] = []


def gzip_bomb() -> bytes:
    """Return 1.5 GB of zeros after an IDX header, as gzip."""
    if not _GZIP_BOMB:
        buffer = io.BytesIO()
        with gzip.GzipFile(fileobj=buffer, mode="w") as file:
            file.write(idx((20, 8, 8), b""))
            for _ in range(150):
                file.write(bytes(10**7))
        _GZIP_BOMB.append(buffer.getvalue())
    return _GZIP_BOMB[0]


IDXS: dict[str, Callable[[random.Random], bytes]] = {
    "axes": lambda _: idx((1,) * 255, b"\0"),
    "axes without lengths": lambda _: idx((), b"\0" * 2000, axes=255),
    "no axes": lambda _: idx((), b"\0"),
    "type": lambda rng: idx((20, 8, 8), bytes(1280), rng.choice((9, 11, 12, 13, 14, 0, 255))),
    "huge": lambda _: idx((2**32 - 1,) * 3, bytes(1280)),
    "many huge": lambda _: idx((2**32 - 1,) * 40, bytes(1280)),
    "zero": lambda _: idx((0, 8, 8), b""),
    "zero and huge": lambda _: idx((0, 2**32 - 1, 2**32 - 1, 2**32 - 1), b""),
    "zero images": lambda _: idx((20, 0, 0), b""),
    "short": lambda rng: idx((20, 8, 8), bytes(rng.randrange(1280))),
    "long": lambda _: idx((20, 8, 8), bytes(1281)),
    "cut header": lambda rng: idx((20, 8, 8), b"")[: rng.randrange(16)],
    "bad gzip": lambda rng: gzip.compress(idx((20, 8, 8), bytes(1280)))[: rng.randrange(3, 40)],
    "bomb": lambda _: gzip_bomb(),
    "labels": lambda _: idx((20,), bytes([255] * 20)),
    "many axes": lambda _: idx((20, 8, 8, 1, 1, 1), bytes(1280)),
    "text": lambda _: b"images\n" * 100,
}


def bad_idx(rng: random.Random) -> Case:
    """Give a pair of IDX files of which one is damaged."""
    way, which = rng.choice((*IDXS, "place")), rng.choice(("images-idx3", "labels-idx1"))
    source, kind = rng.choice(("idx", "mnist")), rng.choice(PLACES)

    def damage(folder: Path, inner: random.Random) -> None:
        place = folder / "pairs"
        place.mkdir()
        for part in ("train", "t10k"):
            (place / f"{part}-images-idx3-ubyte").write_bytes(idx((20, 8, 8), bytes(1280)))
            (place / f"{part}-labels-idx1-ubyte").write_bytes(idx((20,), bytes(k % 10 for k in range(20))))
        path = place / f"train-{which}-ubyte"
        if way == "place":
            make_place(path, kind)
        else:
            path.write_bytes(IDXS[way](inner))

    words = ("split", "--data", f"{source}:pairs", "--out", "out.json")
    return Case(f"idx {way} {which} for {source}", words, damage, refused=True)


def picture(mode: str = "L", size: tuple[int, int] = (8, 8), form: str = "PNG") -> bytes:
    """Return the bytes of an image."""
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, form)
    return buffer.getvalue()


def large_png() -> bytes:
    """Return a PNG whose header declares 60,000 x 60,000 pixels."""
    import zlib

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(bytes(100)))
        + chunk(b"IEND", b"")
    )


IMAGES: dict[str, Callable[[random.Random], bytes]] = {
    "empty": lambda _: b"",
    "text": lambda _: b"image",
    "cut": lambda rng: picture(size=(64, 64))[: rng.randrange(60)],
    "gif": lambda _: picture("P", form="GIF"),
    "deep": lambda _: picture("I;16"),
    "one pixel": lambda _: picture(size=(1, 1)),
    "large": lambda _: large_png(),
    "wide": lambda _: picture(size=(3000, 1)),
    "colours": lambda _: picture("RGBA"),
    "cmyk": lambda _: picture("CMYK", form="JPEG"),
    "broken jpeg": lambda rng: picture("RGB", (64, 64), "JPEG")[: rng.randrange(100, 400)],
    "sound": lambda _: picture(),
}
SIZES = (
    "",
    "@1",
    "@1000000000",
    "@0",
    "@99999999999999999999999",
    "@-1",
    "@x",
    "@1e3",
    "@",
    "@30000",
    "@8@8",
)


def bad_images(rng: random.Random) -> Case:
    """Give a folder of images with a damaged one, or a size that no image has."""
    way, size, kind = rng.choice((*IMAGES, "place")), rng.choice(SIZES), rng.choice(PLACES)
    name = rng.choice(("x.png", "x.jpg", "x.webp"))
    as_energy = rng.random() < 0.3

    def damage(folder: Path, inner: random.Random) -> None:
        place = folder / "images" / "a"
        place.mkdir(parents=True)
        for k in range(4):
            (place / f"{k}.png").write_bytes(picture())
        if way == "place":
            make_place(place / name, kind)
        else:
            (place / name).write_bytes(IMAGES[way](inner))

    words: tuple[str, ...] = ("split", "--data", f"folder:images{size}", "--out", "out.json")
    if as_energy:
        words = (*UNLEARN, "--energy", "images:images/a,extractor=flatten,samples=50")
    return Case(f"image {way} {size if not as_energy else 'as energy'}", words, damage)


# Lines of words

PIECES = (
    "generator:",
    "flow:",
    "flow_map:",
    "classifier:",
    "diffusers:",
    "onnx:",
    "estimator:",
    "score:",
    "images:",
    "torch.nn:Linear",
    "os:getpid",
    "map",
    "nowhere",
    "@",
    "@nowhere.pth",
    ",",
    "=",
    "prior=normal:4",
    "prior=normal:",
    "prior=normal:0",
    "prior=normal:99999999999",
    "shape=1x28x28",
    "shape=0x0",
    "shape=99999999x99999999",
    "range=0:1",
    "range=1:0",
    "range=nan:inf",
    "in_features=4",
    "out_features=64",
    "in_features=10000000000",
    "in_features=[",
    "in_features=&a",
    "in_features=*a",
    "key=",
    "call=x/t",
    "call=/",
    "call=z/label",
    "label=random",
    "label=random:3",
    "null=2",
    "table=map/model.safetensors",
    "table=nowhere",
    "names=split.json",
    "names=nowhere",
    "noise_at=1",
    "noise_at=x",
    "pretrained:",
    "pretrained:x",
    "{",
    "]",
    "é",
    " ",
    "\t",
    "a" * 300,
    "out_features=" + "1" * 5000,
    "in_features=!!python/name:os.system",
    "steps=1",
    "steps=-1",
    "extractor=",
    "extractor=map",
    "samples=0",
)


def bad_specification(rng: random.Random) -> Case:
    """Give a specification string of random pieces for a model, an energy, a judge or data."""
    text = "".join(rng.choice(PIECES) for _ in range(rng.randrange(1, 6)))
    if rng.random() < 0.5:
        pieces = [piece for piece in PIECES if "=" in piece]
        text = ",".join(
            [rng.choice(PIECES[:9]) + rng.choice(PIECES[9:13]), *rng.sample(pieces, rng.randrange(4))]
        )
    base, option = rng.choice(
        (
            (SAMPLE, "--model"),
            (UNLEARN, "--model"),
            (UNLEARN, "--energy"),
            (AUDIT, "--judge"),
            (EXPORT, "--model"),
            (SPLIT, "--data"),
            (AUDIT, "--original"),
        )
    )
    return Case("specification", (*base, f"{option}={text}"), nothing)


NAMED = ",".join(
    [
        "generator:torch.nn:Bilinear",
        *(
            "in1_features=4",
            "in2_features=2",
            "out_features=64",
            "prior=normal:4",
            "call=z/label",
            "range=any",
        ),
        *("table=prompts.safetensors", "names=prompts.txt"),
    ]
)
"""A generator of a latent and a row of a table."""


def bad_conditions(rng: random.Random) -> Case:
    """Give a table of conditions and their names, of which one file is damaged."""
    way = rng.choice(("nan", "inf", "int", "bool", "half", "cut", "empty", "header", "huge", "shape"))
    which, kind = rng.choice(("table", "names", "place")), rng.choice(PLACES)
    words = rng.choice((("--label", "1"), ("--prompt", "a truck"), ("--prompt", "null"), ("--label", "b")))

    def damage(folder: Path, inner: random.Random) -> None:
        table = save({"table": torch.ones(3, 2)})
        names = b"a car\na truck\nnull\n"
        (folder / "prompts.safetensors").write_bytes(
            change_weights(table, way, inner) if which == "table" else table
        )
        (folder / "prompts.txt").write_bytes(damage_text(names, inner) if which == "names" else names)
        if which == "place":
            make_place(folder / inner.choice(("prompts.safetensors", "prompts.txt")), kind)

    name = f"conditions {which} {kind if which == 'place' else way}"
    return Case(name, (*SAMPLE, f"--model={NAMED}", *words), damage, refused=which == "place")


# The environment

OUTS = (
    "/dev/full",
    "/dev/null",
    "/dev/full/x",
    "a" * 300,
    "a" * 300 + "/b",
    "/proc/x",
    "split.json",
    "split.json/x",
    "fifo",
    "loop",
    "",
    ".",
    "..",
    "full.json",
    "map",
    "x\0y",
    "/sys/x",
    "zero",
    "out\n",
    "deep/" * 900 + "x",
)
WRITERS = (TRAIN, UNLEARN, SAMPLE, EXPORT, JUDGE, SPLIT, REPORT, PLAN, DEMO)


def bad_place(rng: random.Random) -> Case:
    """Name a place that cannot be written, or let the disk be full."""
    base = rng.choice(WRITERS)
    if rng.random() < 0.4:
        size = rng.choice((0, 10, 100, 1000, 10_000))
        words = base if base not in (DEMO, PLAN) else SAMPLE
        return Case(f"disk of {size} bytes", words, nothing, file_bytes=size)

    def damage(folder: Path, _: random.Random) -> None:
        os.mkfifo(folder / "fifo")
        (folder / "loop").symlink_to(folder / "loop")
        (folder / "full.json").symlink_to("/dev/full")
        (folder / "zero").symlink_to("/dev/zero")

    out = rng.choice(OUTS)
    if base is EXPORT and rng.random() < 0.5:
        out += ".safetensors"
    option = rng.choice(("--out", "--out", "--cache")) if base in (TRAIN, SPLIT) else "--out"
    extra = ["--data=npz:nowhere.npz"] if option == "--cache" else []
    return Case(f"place {out[:20]!r}", (*base, *extra, f"{option}={out}"), damage)


KINDS: dict[str, Callable[[random.Random], Case]] = {
    "option": wrong_option,
    "gate": wrong_gate,
    "yaml": bad_yaml,
    "json": bad_json,
    "weights": bad_weights,
    "checkpoint": bad_checkpoint,
    "npz": bad_npz,
    "idx": bad_idx,
    "image": bad_images,
    "specification": bad_specification,
    "conditions": bad_conditions,
    "place": bad_place,
    "json again": bad_json,
    "yaml again": bad_yaml,
    "option again": wrong_option,
    "huge": huge_number,
}
"""The kinds of malformed inputs; the most common ones twice."""
