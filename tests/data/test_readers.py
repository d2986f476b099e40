"""Readers of datasets in files: what was written is read back, and damage is named."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from unflow.data import CIFAR10_CLASSES, cifar10, mnist, read_idx
from unflow.ground.errors import InputError

SHARED = Path(__file__).parents[3] / "shared" / "data"
needs_mnist = pytest.mark.skipif(not (SHARED / "mnist").is_dir(), reason="the MNIST files are not here")
needs_cifar10 = pytest.mark.skipif(not (SHARED / "cifar10").is_dir(), reason="CIFAR-10 is not here")


# IDX


def idx(values: Tensor, kind: int = 0x08) -> bytes:
    header = struct.pack(f">BBBB{values.ndim}I", 0, 0, kind, values.ndim, *values.shape)
    return header + values.numpy().tobytes()


@pytest.mark.parametrize("shape", [(7,), (3, 4), (2, 3, 4), (2, 1, 3, 2), (0,), (0, 28, 28)])
@pytest.mark.parametrize("packed", [False, True])
def test_an_idx_file_is_read_back_plain_or_gzip_whatever_its_name(
    shape: tuple[int, ...], packed: bool, tmp_path: Path, generator: torch.Generator
) -> None:
    values = torch.randint(256, shape, generator=generator).to(torch.uint8)
    path = tmp_path / ("values" if packed else "values.gz")
    path.write_bytes(gzip.compress(idx(values)) if packed else idx(values))
    found = read_idx(path)
    assert found.dtype == torch.uint8
    assert found.shape == shape
    assert torch.equal(found, values)
    found += 1  # the values are one's own


WHOLE = idx(torch.arange(12, dtype=torch.uint8).reshape(3, 4))
DAMAGED = {
    "empty": (b"", r"first bytes \(none\)"),
    "short magic": (WHOLE[:3], "first bytes 00 00 08;"),
    "wrong magic": (b"\x89PNG" + WHOLE, "first bytes 89 50 4e 47"),
    "no axes": (b"\0\0\x08\0\x01", "first bytes 00 00 08 00"),
    "short header": (WHOLE[:11], "expected an IDX header like 00 00 08 03"),
    "other type": (idx(torch.zeros(3, dtype=torch.uint8), kind=0x0D), "got values of the type 0x0d"),
    "truncated": (WHOLE[:-1], r"got 11 values in .*; expected 12 for its shape \[3, 4\]"),
    "too long": (WHOLE + b"\0", "got 13 values"),
    "truncated gzip": (gzip.compress(WHOLE)[:-9], "got a damaged gzip file"),
    "gzip with a wrong checksum": (gzip.compress(WHOLE)[:-8] + bytes(8), "got a damaged gzip file"),
    "no gzip after all": (b"\x1f\x8b" + WHOLE, "got a damaged gzip file"),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_idx_file_is_refused(damage: str, tmp_path: Path) -> None:
    content, words = DAMAGED[damage]
    (tmp_path / "values").write_bytes(content)
    with pytest.raises(InputError, match=words):
        read_idx(tmp_path / "values")


def test_a_missing_idx_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "values", tmp_path):
        with pytest.raises(InputError, match="got no readable file"):
            read_idx(path)


# MNIST


def write_mnist(folder: Path, ending: str = ".gz", **changed: Any) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    parts: dict[str, Tensor] = {}
    for part, n in (("train", 6), ("t10k", 4)):
        images = torch.randint(256, (n, 28, 28), generator=generator).to(torch.uint8)
        parts[f"{part}_images"] = images
        parts[f"{part}_labels"] = torch.randint(10, (n,), generator=generator).to(torch.uint8)
    parts |= changed
    for name, values in parts.items():
        part, what = name.split("_")
        content = idx(values) if ending == "" else gzip.compress(idx(values))
        (folder / f"{part}-{what}-idx{values.ndim}-ubyte{ending}").write_bytes(content)
    return parts


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_mnist_is_train_then_test_in_their_order(ending: str, tmp_path: Path) -> None:
    parts = write_mnist(tmp_path, ending)
    data = mnist(tmp_path)
    assert data.name == f"{tmp_path.name} (not MNIST)"  # other images in files of these names
    assert data.class_names == [str(k) for k in range(10)]
    assert data.x.shape == (10, 1, 28, 28)
    assert data.x.dtype == torch.float32
    bytes_again = ((data.x[:, 0] + 1) * 127.5).round().to(torch.uint8)
    assert torch.equal(bytes_again, torch.cat([parts["train_images"], parts["t10k_images"]]))
    assert data.labels.tolist() == [*parts["train_labels"].tolist(), *parts["t10k_labels"].tolist()]


def test_mnists_black_is_minus_one_and_its_white_one(tmp_path: Path) -> None:
    images = torch.zeros(4, 28, 28, dtype=torch.uint8)
    images[:, 0] = 255
    write_mnist(tmp_path, t10k_images=images)
    x = mnist(tmp_path).x[6:]
    assert torch.equal(x[:, :, 0], torch.ones(4, 1, 28))
    assert torch.equal(x[:, :, 1:], -torch.ones(4, 1, 27, 28))


@pytest.mark.parametrize("name", ["train-labels-idx1-ubyte", "t10k-images-idx3-ubyte"])
def test_a_missing_file_of_mnist_is_named(name: str, tmp_path: Path) -> None:
    write_mnist(tmp_path)
    (tmp_path / f"{name}.gz").unlink()
    with pytest.raises(InputError, match=rf"got no {name} or {name}.gz in .* write --data DIR"):
        mnist(tmp_path)
    with pytest.raises(InputError, match="write --data DIR"):
        mnist(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "changed",
    [
        {"train_images": torch.zeros(6, 8, 8, dtype=torch.uint8)},
        {"train_labels": torch.zeros(5, dtype=torch.uint8)},
        {"t10k_labels": torch.full((4,), 10, dtype=torch.uint8)},
    ],
)
def test_what_is_no_mnist_is_refused(changed: dict[str, Any], tmp_path: Path) -> None:
    write_mnist(tmp_path, **changed)
    with pytest.raises(InputError, match=r"expected \[n, 28, 28\] and \[n\], labels 0 to 9"):
        mnist(tmp_path)


@needs_mnist
def test_the_real_mnist_has_its_70000_digits() -> None:
    data = mnist(SHARED / "mnist")
    assert data.name == "mnist"
    assert data.x.shape == (70_000, 1, 28, 28)
    counts = [6903, 7877, 6990, 7141, 6824, 6313, 6876, 7293, 6825, 6958]
    assert data.labels.bincount().tolist() == counts
    assert data.labels[:60_000].bincount()[1] == 6742
    assert (data.x.min(), data.x.max()) == (-1, 1)
    assert float((data.x / 2 + 0.5).mean()) == pytest.approx(0.1309, abs=1e-3)


# CIFAR-10


def jpeg(value: tuple[int, ...], size: int = 32, mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    Image.new(mode, (size, size), value if len(value) > 1 else value[0]).save(file, "JPEG", quality=95)
    return file.getvalue()


COLOURS = {
    "train/cat/0000.jpg": (255, 0, 0),
    "train/dog/0000.jpg": (0, 255, 0),
    "train/cat/0001.jpg": (0, 0, 255),
    "test/dog/0000.jpg": (255, 255, 255),
    "test/cat/0000.jpg": (0, 0, 0),
    "test/ship/0000.jpg": (128, 0, 128),
}


def tar(members: Mapping[str, bytes], folders: tuple[str, ...] = ()) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for folder in folders:
            entry = tarfile.TarInfo(folder)
            entry.type = tarfile.DIRTYPE
            archive.addfile(entry)
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return file.getvalue()


def write_cifar10(folder: Path, prefix: str = "", **more: bytes) -> Path:
    images = {prefix + name: jpeg(colour) for name, colour in COLOURS.items()}
    path = folder / "cifar10-images.tar.gz"
    path.write_bytes(gzip.compress(tar({**images, **more}, ("train", "train/cat"))))
    return path


@pytest.mark.parametrize("prefix", ["", "./"])
def test_cifar10_is_sorted_by_name_and_labelled_in_the_given_order(prefix: str, tmp_path: Path) -> None:
    write_cifar10(tmp_path, prefix)
    data = cifar10(tmp_path, ["dog", "cat"])
    names = sorted(name for name in COLOURS if "ship" not in name)
    assert data.name == "cifar10"
    assert data.class_names == ["dog", "cat"]
    assert data.labels.tolist() == [["dog", "cat"].index(name.split("/")[1]) for name in names]
    assert data.x.shape == (5, 3, 32, 32)
    assert data.x.dtype == torch.float32
    assert data.x.abs().max() <= 1
    colours = torch.tensor([COLOURS[name] for name in names]) / 127.5 - 1
    assert (data.x - colours[:, :, None, None]).abs().max() < 0.05


def test_cifar10_is_the_same_whatever_the_order_in_the_archive(tmp_path: Path) -> None:
    images = {name: jpeg(colour) for name, colour in COLOURS.items()}
    found = set()
    for members in (images, dict(reversed(images.items()))):
        (tmp_path / "cifar10-images.tar.gz").write_bytes(gzip.compress(tar(members)))
        found.add(cifar10(tmp_path, ["cat", "ship"]).fingerprint)
    assert len(found) == 1


def test_the_pixels_of_cifar10_are_channels_rows_columns(tmp_path: Path) -> None:
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[:8, 16:] = 255  # top right
    pixels[24:, :, 2] = 255  # blue at the bottom
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=95, subsampling=0)
    (tmp_path / "cifar10-images.tar.gz").write_bytes(gzip.compress(tar({"test/cat/1.jpg": file.getvalue()})))
    (x,) = cifar10(tmp_path, ["cat"]).x
    assert x[:, 4, 24].tolist() == pytest.approx([1, 1, 1], abs=0.1)
    assert x[:, 4, 8].tolist() == pytest.approx([-1, -1, -1], abs=0.1)
    assert x[:, 28, 8].tolist() == pytest.approx([-1, -1, 1], abs=0.1)


@pytest.mark.parametrize("classes", [None, list(CIFAR10_CLASSES)])
def test_all_ten_classes_are_read_and_a_class_without_images_is_named(
    classes: list[str] | None, tmp_path: Path
) -> None:
    write_cifar10(tmp_path)
    with pytest.raises(InputError, match="got no images of airplane, automobile, bird, deer"):
        cifar10(tmp_path, classes)
    others: dict[str, Any] = {f"train/{name}/0000.jpg": jpeg((9, 9, 9)) for name in CIFAR10_CLASSES}
    write_cifar10(tmp_path, **others)
    data = cifar10(tmp_path, classes)
    assert data.class_names == list(CIFAR10_CLASSES)
    assert data.labels.unique().tolist() == list(range(10))


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        (["cat", "horses"], "got the CIFAR-10 class 'horses'; expected one of airplane, automobile"),
        ([], "expected one or more, none twice"),
        (["cat", "cat"], "expected one or more, none twice"),
    ],
)
def test_unknown_and_repeated_classes_are_refused(classes: list[str], words: str, tmp_path: Path) -> None:
    write_cifar10(tmp_path)
    with pytest.raises(InputError, match=words):
        cifar10(tmp_path, classes)


def test_a_missing_archive_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"got no cifar10-images.tar.gz in .* write --data DIR"):
        cifar10(tmp_path)


MEMBERS = {
    "no JPEG": ("train/cat/0002.jpg", b"hello", "got the broken image train/cat/0002.jpg"),
    "cut short": ("train/cat/0002.jpg", jpeg((1, 2, 3))[:-40], "got the broken image train/cat/0002.jpg"),
    "other size": ("train/cat/0002.jpg", jpeg((1, 2, 3), size=16), r"got an image of shape \[16, 16, 3\]"),
    "grey": ("train/cat/0002.jpg", jpeg((1,), mode="L"), r"got an image of shape \[32, 32\]"),
    "other class": ("train/whale/0000.jpg", jpeg((1, 2, 3)), "got the member train/whale/0000.jpg"),
    "other name": ("README.md", b"hello", "got the member README.md"),
}


@pytest.mark.parametrize("case", MEMBERS)
def test_a_broken_member_is_named(case: str, tmp_path: Path) -> None:
    name, content, words = MEMBERS[case]
    more: dict[str, Any] = {name: content}
    write_cifar10(tmp_path, **more)
    with pytest.raises(InputError, match=words):
        cifar10(tmp_path, ["cat"])


def test_only_the_chosen_classes_are_decoded(tmp_path: Path) -> None:
    more: dict[str, Any] = {"train/ship/0001.jpg": b"hello"}
    write_cifar10(tmp_path, **more)
    assert len(cifar10(tmp_path, ["cat"])) == 3


def test_a_link_in_the_archive_is_not_followed(tmp_path: Path) -> None:
    entry = tarfile.TarInfo("train/cat/0000.jpg")
    entry.type, entry.linkname = tarfile.SYMTYPE, "../elsewhere.jpg"
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(entry)
    (tmp_path / "cifar10-images.tar.gz").write_bytes(gzip.compress(file.getvalue()))
    with pytest.raises(InputError, match=r"got the member train/cat/0000\.jpg"):
        cifar10(tmp_path, ["cat"])


def test_an_archive_cut_short_anywhere_is_refused(tmp_path: Path) -> None:
    path = write_cifar10(tmp_path)
    whole = path.read_bytes()
    for size in (0, 5, len(whole) // 2, len(whole) - 60, len(whole) - 8, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(InputError, match="got a damaged archive"):
            cifar10(tmp_path, ["cat"])


def test_an_archive_with_a_broken_header_or_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = write_cifar10(tmp_path)
    plain = bytearray(gzip.decompress(path.read_bytes()))
    start = plain.index(b"test/dog/0000.jpg")
    plain[start : start + 4] = b"best"  # the header's own checksum no longer fits
    # More data than tarfile reads ahead must follow, as it does in the real archive.
    for content in (
        gzip.compress(bytes(plain) + bytes(20_000) + b"x"),
        bytes(plain),
        gzip.compress(b"hello"),
    ):
        path.write_bytes(content)
        with pytest.raises(InputError, match="got a damaged archive"):
            cifar10(tmp_path, ["cat"])


@pytest.mark.slow
@needs_cifar10
def test_the_real_cifar10_has_6000_images_of_each_class() -> None:
    data = cifar10(SHARED / "cifar10", ["dog", "cat"])
    assert data.x.shape == (12_000, 3, 32, 32)
    assert data.labels.bincount().tolist() == [6000, 6000]
    assert data.labels[:2000].tolist() == [1] * 1000 + [0] * 1000  # test/cat, test/dog, train/...
    assert (data.x.min(), data.x.max()) == (-1, 1)
