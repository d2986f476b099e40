"""Data in the forms that users have: what is the same in every form is read to the same bits."""

from __future__ import annotations

import gzip
import io
import os
import struct
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets as hf
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from unflow.commands.cli import main
from unflow.data import (
    CIFAR10_CLASSES,
    SOURCES,
    LabelledData,
    cifar10,
    cifar100,
    compute_features,
    from_dataset,
    from_hf,
    idx_pairs,
    image_folder,
    list_forms,
    load_data,
    mnist,
    read_cached,
    read_npz,
    read_split,
    split_data,
    write_npz,
)
from unflow.data.values import from_bytes, to_bytes
from unflow.ground.errors import InputError

IN_PLACES = [kind for kind in SOURCES if SOURCES[kind].place]


def bytes_of(n: int, *shape: int, seed: int = 0) -> np.ndarray:
    """Return random bytes with both ends of the range in them."""
    values = np.random.default_rng(seed).integers(0, 256, (n, *shape), dtype=np.uint8)
    values.flat[:2] = 0, 255
    return values


COLOUR = bytes_of(6, 3, 8, 8)
GREY = bytes_of(6, 1, 8, 8)
LABELS = np.array([0, 1, 2, 0, 1, 2])
NAMES = ["ant", "bee", "cow"]
BY_CLASS = np.argsort(LABELS, kind="stable")
"""The order in which a folder's images are read."""


def pil(image: np.ndarray) -> Image.Image:
    """Return [c, h, w] as a PIL image."""
    return Image.fromarray(image[0] if len(image) == 1 else np.ascontiguousarray(image.transpose(1, 2, 0)))


def expected(images: np.ndarray, labels: np.ndarray = LABELS) -> LabelledData:
    x = from_bytes(torch.from_numpy(images.copy()))
    return LabelledData("expected", x, torch.from_numpy(labels), ["0", "1", "2"])


# Every kind of source


def write_files(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


def files_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def idx(values: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape) + values.tobytes()


def idx_files(labels: np.ndarray = LABELS) -> dict[str, bytes]:
    files = {}
    for seed, part in enumerate(("train", "t10k")):
        files[f"{part}-images-idx3-ubyte"] = idx(bytes_of(len(labels), 28, 28, seed=seed))
        files[f"{part}-labels-idx1-ubyte"] = idx(labels.astype(np.uint8))
    return files


def cifar_files(classes: int, names: tuple[str, ...], label_bytes: int) -> dict[str, bytes]:
    """Return files of records, in each one of every class."""
    files = {}
    for seed, name in enumerate(names):
        rows = bytes_of(classes, label_bytes + 3072, seed=seed)
        rows[:, -2:] = 0, 255
        rows[:, :label_bytes] = np.arange(classes)[:, None]
        files[name] = rows.tobytes()
    return files


CIFAR10_FILES = cifar_files(10, (*(f"data_batch_{k}.bin" for k in range(1, 6)), "test_batch.bin"), 1)
CIFAR100_FILES = cifar_files(100, ("train.bin", "test.bin"), 2) | {
    "fine_label_names.txt": "\n".join(f"name_{k}" for k in range(100)).encode() + b"\n\n"
}


def tar_gz(files: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return file.getvalue()


def write_folder(folder: Path, images: np.ndarray = COLOUR) -> Path:
    """Write the images into the folders of their classes."""
    for k, (image, label) in enumerate(zip(images, LABELS, strict=True)):
        (folder / NAMES[label]).mkdir(parents=True, exist_ok=True)
        pil(image).save(folder / NAMES[label] / f"{k}.png")
    return folder


def write_source(kind: str, folder: Path) -> str:
    """Write a small dataset of this kind; return its name."""
    files = {
        "mnist": idx_files(np.arange(10)),
        "idx": idx_files(),
        "cifar10": CIFAR10_FILES,
        "cifar100": CIFAR100_FILES,
    }
    write_files(folder, files.get(kind, {}))
    if kind == "folder":
        write_folder(folder)
    if kind == "npz":
        np.savez(folder / "data.npz", x=COLOUR, y=LABELS)
        return f"npz:{folder / 'data.npz'}"
    return f"{kind}:{folder}" if SOURCES[kind].place else kind


@pytest.mark.parametrize("kind", SOURCES)
def test_a_source_gives_the_same_labelled_images_wherever_it_lies(kind: str, tmp_path: Path) -> None:
    data, again = (load_data(write_source(kind, tmp_path / place)) for place in ("here", "there"))
    assert data.x.dtype == torch.float32
    assert data.x.ndim == 4
    assert (data.x.min(), data.x.max()) == (-1, 1)
    assert data.labels.dtype == torch.long
    assert data.labels.unique().tolist() == list(range(len(data.class_names)))
    assert len(set(data.class_names)) == len(data.class_names)
    assert again.fingerprint == data.fingerprint


@pytest.mark.parametrize("kind", IN_PLACES)
def test_a_cached_source_is_not_read_again_until_a_file_changes(kind: str, tmp_path: Path) -> None:
    name, cache = write_source(kind, tmp_path / "data"), tmp_path / "cache"
    data = load_data(name, cache)
    assert data.fingerprint == load_data(name).fingerprint
    for path in files_in(tmp_path / "data"):
        status = path.stat()
        path.write_bytes(b"\xff" * status.st_size)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    again = load_data(name, cache)
    assert again.fingerprint == data.fingerprint
    assert (again.name, again.class_names) == (data.name, data.class_names)
    assert len(files_in(cache)) == 1
    os.utime(files_in(tmp_path / "data")[0], ns=(1, 1))
    with pytest.raises(InputError):
        load_data(name, cache)


@pytest.mark.parametrize("kind", IN_PLACES)
def test_a_source_that_is_not_there_is_refused(kind: str, tmp_path: Path) -> None:
    for cache in (None, tmp_path / "cache"):
        with pytest.raises(InputError, match="nowhere"):
            load_data(f"{kind}:{tmp_path / 'nowhere'}", cache)
    with pytest.raises(InputError, match=rf"without its (folder|file); expected {kind}:"):
        load_data(f"{kind}:")


# Names


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("mnst:here", "did you mean mnist:DIR?"),
        ("cifar-10:here", "did you mean cifar10:DIR?"),
        ("folders:here", "did you mean folder:DIR[@SIZE]?"),
        ("data.npz", "write npz:data.npz"),
        ("", "expected one of digits"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(name: str, words: str) -> None:
    with pytest.raises(InputError) as error:
        load_data(name)
    assert words in str(error.value)
    assert ", ".join(list_forms()) in str(error.value)


def test_a_folder_without_its_kind_is_told_how_to_be_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"write folder:{tmp_path} for images"):
        load_data(str(tmp_path))


def test_a_split_of_an_image_folder_is_made_by_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = write_folder(tmp_path / "zoo"), tmp_path / "split.json"
    assert main(["split", "--data", f"folder:{folder}@4", "--out", str(out)]) == 0
    assert read_split(out).fingerprint == image_folder(folder, 4).fingerprint
    assert read_split(out).data == "zoo"
    assert main(["split", "--data", f"folder:{folder}@0", "--out", str(out)]) == 2
    assert "got size=0; expected a whole number of pixels >= 1" in capsys.readouterr().err


# Image folders


@pytest.mark.parametrize(("images", "channels"), [(COLOUR, 3), (GREY, 1)])
def test_a_folder_is_read_by_class_and_name_grey_if_all_are(
    images: np.ndarray, channels: int, tmp_path: Path
) -> None:
    data = image_folder(write_folder(tmp_path / "zoo", images))
    assert data.name == "zoo"
    assert data.class_names == NAMES
    assert data.x.shape == (6, channels, 8, 8)
    assert data.fingerprint == expected(images[BY_CLASS], LABELS[BY_CLASS]).fingerprint


def test_grey_among_colour_is_repeated_in_all_channels(tmp_path: Path) -> None:
    write_folder(tmp_path)
    pil(GREY[0]).save(tmp_path / "ant" / "0.png")
    data = image_folder(tmp_path)
    assert data.x.shape == (6, 3, 8, 8)
    assert torch.equal(data.x[0], from_bytes(torch.from_numpy(GREY[0].copy())).expand(3, 8, 8))


@pytest.mark.parametrize("ending", ["png", "PNG", "jpg", "JPEG", "webp"])
def test_the_order_of_writing_and_hidden_files_change_nothing(ending: str, tmp_path: Path) -> None:
    found = set()
    for place, order in (("one", 1), ("two", -1)):
        for k in range(6)[::order]:
            path = tmp_path / place / "ab"[k % 2] / f"{k}.{ending}"
            path.parent.mkdir(parents=True, exist_ok=True)
            pil(COLOUR[k]).save(path)
        found.add(image_folder(tmp_path / place).fingerprint)
    write_files(tmp_path / "one" / ".hidden", {"a.png": b""})
    write_files(tmp_path / "one", {"labels.csv": b""})
    write_files(tmp_path / "one" / "a", {".DS_Store": b"", "Thumbs.db": b""})
    found.add(image_folder(tmp_path / "one").fingerprint)
    assert len(found) == 1


def test_a_name_with_accents_keeps_its_place_however_it_is_stored(tmp_path: Path) -> None:
    for place, name in (("together", "\u00e9"), ("apart", "e\u0301")):
        for k, label in enumerate((name, "f", "z")):
            (tmp_path / place / label).mkdir(parents=True)
            pil(COLOUR[k]).save(tmp_path / place / label / "0.png")
    one, other = image_folder(tmp_path / "together"), image_folder(tmp_path / "apart")
    assert one.class_names == other.class_names == ["f", "z", "\u00e9"]
    assert one.fingerprint == other.fingerprint


def test_a_size_cuts_out_the_middle_square_and_resizes_it(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    stripes = np.zeros((3, 8, 16), np.uint8)
    stripes[:, :, 4:12] = 200
    stripes[:, :, 6:10] = 100
    pil(stripes).save(tmp_path / "a" / "wide.png")
    pil(stripes.transpose(0, 2, 1)).save(tmp_path / "a" / "tall.png")
    tall, wide = load_data(f"folder:{tmp_path}@4").x
    assert wide.shape == (3, 4, 4)
    assert torch.equal(tall, wide.transpose(1, 2))
    assert ((wide[0, 0] + 1) * 127.5).tolist() == pytest.approx([200, 100, 100, 200], abs=25)
    whole = ((load_data(f"folder:{tmp_path}@8").x[1, 0, 0] + 1) * 127.5).tolist()
    assert whole == pytest.approx([200, 200, 100, 100, 100, 100, 200, 200])


def test_two_sizes_of_one_folder_are_kept_apart_in_a_cache_inside_it(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "zoo")
    cache = folder / ".cache"
    found = [load_data(f"folder:{folder}@{size}", cache).fingerprint for size in (4, 2, 4)]
    assert found == [image_folder(folder, size).fingerprint for size in (4, 2, 4)]
    assert len(files_in(cache)) == 2


@pytest.mark.parametrize("place", [".", "zoo", "zoo/inside"])
def test_a_cache_above_or_inside_its_source_is_still_found_and_still_forgets(
    place: str, tmp_path: Path
) -> None:
    source, calls = tmp_path / "zoo" / "data.txt", []
    write_files(source.parent, {"data.txt": b"1"})

    def read() -> LabelledData:
        calls.append(1)
        return expected(COLOUR)

    for content, known in ((b"1", 1), (b"1", 1), (b"22", 2), (b"22", 2)):
        if source.read_bytes() != content:
            source.write_bytes(content)
        read_cached(read, tmp_path / "zoo", tmp_path / place)
        assert len(calls) == known


def test_an_image_is_turned_as_its_exif_says(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6  # the first row is the right-hand side
    pil(COLOUR[0]).save(tmp_path / "a" / "0.png", exif=exif)
    turned = np.rot90(COLOUR[0], -1, (1, 2)).copy()
    assert torch.equal(image_folder(tmp_path).x[0], from_bytes(torch.from_numpy(turned)))


def half_transparent(mode: str) -> Image.Image:
    """Return 4x4 pixels, the left half transparent, the right one red, or black if grey."""
    alpha = np.repeat(np.array([[0, 0, 255, 255]], np.uint8), 4, 0)
    if mode == "LA":
        return Image.merge("LA", [Image.new("L", (4, 4)), Image.fromarray(alpha)])
    image = Image.new("RGB", (4, 4), (255, 0, 0))
    image.putalpha(Image.fromarray(alpha))
    return image


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_laid_on_white(mode: str, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    path = tmp_path / "a" / "0.png"
    if mode == "P":
        image = Image.new("P", (4, 4), 1)
        image.putpalette([0, 0, 0, 255, 0, 0])
        image.paste(0, (0, 0, 2, 4))
        image.save(path, transparency=0)
    else:
        half_transparent(mode).save(path)
    x = image_folder(tmp_path).x[0]
    assert torch.equal(x[:, :, :2], torch.ones(len(x), 4, 2))
    assert x[:, 0, 3].tolist() == ([-1] if mode == "LA" else [1, -1, -1])


def spoil(folder: Path, case: str) -> None:
    """Put one thing into a good folder that must not be there."""
    other = folder / "bee" / "9.png"
    if case == "mixed sizes":
        pil(COLOUR[0, :, :6]).save(other)
    elif case == "empty class":
        (folder / "dog").mkdir()
    elif case == "no image":
        other.write_bytes(b"hello")
    elif case == "cut short":
        other.write_bytes((folder / "bee" / "1.png").read_bytes()[:-30])
    elif case == "other format":
        pil(COLOUR[0]).save(other.with_suffix(".bmp"))
    elif case == "disguised":
        pil(COLOUR[0]).save(other, format="GIF")
    elif case == "no class":
        pil(COLOUR[0]).save(folder / "9.png")
    elif case == "nested":
        write_folder(folder / "bee")
    elif case == "sixteen bits":
        Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(other)


SPOILED = {
    "mixed sizes": r"8x8 \(.*0.png\) and 6x8 \(.*9.png\), height x width; .* write size=32, or folder:DIR@32",
    "empty class": "got no images in .*dog; expected one or more of each class",
    "no image": r"got a broken image, .*bee.9.png",
    "cut short": r"got a broken image, .*bee.9.png",
    "other format": r"got .*9.bmp in the folder of a class; expected only files ending in .jpeg, .jpg, .png",
    "disguised": r"got a broken image, .*9.png .* expected a complete PNG, JPEG or WebP file",
    "no class": r"got the image .*9.png outside a class",
    "nested": r"got .*bee.ant in the folder of a class",
    "sixteen bits": r"got .*9.png of the mode I;16 and size .* expected pixels of 8 bits a channel",
}


@pytest.mark.parametrize("case", SPOILED)
def test_what_is_wrong_in_a_folder_is_named(case: str, tmp_path: Path) -> None:
    image_folder(write_folder(tmp_path))
    spoil(tmp_path, case)
    with pytest.raises(InputError, match=SPOILED[case]):
        image_folder(tmp_path)


def test_a_folder_without_classes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="got no subfolders in"):
        image_folder(tmp_path)


@pytest.mark.parametrize("size", [0, -1, 2.5, True, "32"])
def test_a_size_is_a_whole_number_of_pixels(size: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a whole number of pixels >= 1: write size=32"):
        image_folder(write_folder(tmp_path), size)
    with pytest.raises(InputError, match="expected a whole number of pixels >= 1: write size=32"):
        from_dataset([(COLOUR[0], 0)], size=size)


# .npz


def saved(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


LAST = np.ascontiguousarray(COLOUR.transpose(0, 2, 3, 1))
BYTES: dict[str, dict[str, Any]] = {
    "channels first": {"x": COLOUR, "y": LABELS},
    "channels last": {"x": LAST, "y": LABELS},
    "labels": {"x": COLOUR, "labels": LABELS.astype(np.uint8)[:, None]},
    "long integers": {"x": COLOUR.astype(np.int64), "y": LABELS},
    "declared": {"x": COLOUR, "y": LABELS, "range": [0, 255]},
    "big-endian": {"x": COLOUR.astype(">i2"), "y": LABELS.astype(">i8")},
    "class names": {"x": COLOUR, "y": LABELS, "class_names": NAMES},
}


@pytest.mark.parametrize("form", BYTES)
def test_every_form_of_bytes_in_an_npz_is_the_same_data(form: str, tmp_path: Path) -> None:
    data = read_npz(saved(tmp_path / "zoo.npz", **BYTES[form]))
    assert data.fingerprint == expected(COLOUR).fingerprint
    assert data.name == "zoo"
    assert data.class_names == (NAMES if form == "class names" else ["0", "1", "2"])


UNIT = COLOUR / 255


@pytest.mark.parametrize("kind", ["<f4", "<f8", "<f2", ">f4"])
@pytest.mark.parametrize("black", [0, -1])
def test_floats_in_both_ranges_are_the_same_images(kind: str, black: int, tmp_path: Path) -> None:
    x = (UNIT if black == 0 else 2 * UNIT - 1).astype(kind)
    data = read_npz(saved(tmp_path / "data.npz", x=x, y=LABELS))
    assert torch.allclose(data.x, expected(COLOUR).x, atol=2e-3 if kind == "<f2" else 1e-6, rtol=0)
    assert data.x.abs().max() <= 1


@pytest.mark.parametrize("images", [GREY[:, 0], GREY, GREY.transpose(0, 2, 3, 1)])
def test_grey_images_may_have_a_channel_or_none(images: np.ndarray, tmp_path: Path) -> None:
    data = read_npz(saved(tmp_path / "data.npz", x=images, y=LABELS))
    assert data.fingerprint == expected(GREY).fingerprint


def test_a_declared_range_settles_what_the_values_do_not(tmp_path: Path) -> None:
    x = np.linspace(0.3, 0.9, 6 * 64).reshape(6, 8, 8)
    for low, high in ((0, 1), (-1, 1)):
        data = read_npz(saved(tmp_path / "data.npz", x=x, y=LABELS, range=[low, high]))
        right = torch.from_numpy(2 * (x - low) / (high - low) - 1).float()[:, None]
        assert torch.allclose(data.x, right, atol=1e-6)
    mask = (COLOUR > 127).astype(np.uint8)
    data = read_npz(saved(tmp_path / "data.npz", x=mask, y=LABELS, range=[0, 1]))
    assert torch.equal(data.x, torch.from_numpy(2.0 * mask - 1).float())


UNCLEAR: dict[str, tuple[dict[str, Any], str]] = {
    "no labels": ({"x": COLOUR}, r"got the arrays x in .*; expected x, and y or labels"),
    "two labels": ({"x": COLOUR, "y": LABELS, "labels": LABELS}, "got the arrays x, y, labels"),
    "other names": ({"x_train": COLOUR, "y_train": LABELS}, "got the arrays x_train, y_train"),
    "floats up to 255": ({"x": COLOUR / 1.0, "y": LABELS}, "float32 values from 0 to 255 .* scale them"),
    "half of the range": ({"x": UNIT * 0.5 + 0.4, "y": LABELS}, "write their range"),
    "centred": ({"x": UNIT - 0.5, "y": LABELS}, "write their range"),
    "bytes up to 1": ({"x": COLOUR // 255, "y": LABELS}, "got uint8 values from 0 to 1 "),
    "another range": ({"x": UNIT, "y": LABELS, "range": [-2, 2]}, r"got the range \[-2, 2\]"),
    "beyond its range": ({"x": COLOUR, "y": LABELS, "range": [0, 1]}, "got values from 0 to 255 .* 0 to 1,"),
    "large integers": ({"x": COLOUR.astype(np.int32) * 300, "y": LABELS}, "integers from 0 to 76500"),
    "NaN": ({"x": np.where(UNIT == 1, np.nan, UNIT), "y": LABELS}, "got NaN or infinite values"),
    "truth values": ({"x": COLOUR > 9, "y": LABELS}, "got values of the type bool"),
    "four channels": ({"x": bytes_of(6, 4, 8, 8), "y": LABELS}, "expected .* with 1 or 3 channels"),
    "both layouts": ({"x": bytes_of(6, 3, 8, 3), "y": LABELS}, "which tells where the channels are"),
    "points of bytes": ({"x": COLOUR[:, 0, 0], "y": LABELS}, r"of shape \[6, 8\]"),
    "points with a range": ({"x": UNIT[:, 0, 0], "y": LABELS, "range": [0, 1]}, "points are not scaled"),
    "points of NaN": ({"x": np.full((6, 2), np.nan), "y": LABELS}, "got NaN or infinite values"),
    "points too far": ({"x": np.full((6, 2), 1e300), "y": LABELS}, "got NaN or infinite values"),
    "no images": ({"x": COLOUR[:0], "y": LABELS[:0]}, "got no images"),
    "fewer labels": ({"x": COLOUR, "y": LABELS[:5]}, r"got 6 images and int64 labels of shape \[5\]"),
    "labels in words": ({"x": COLOUR, "y": np.array(NAMES * 2)}, "expected as many integers"),
    "a gap": ({"x": COLOUR, "y": LABELS * 2}, "got no samples of 2 of 5 classes in .*, such as 1, 3;"),
    "labels from 1": ({"x": COLOUR, "y": LABELS + 1}, "got no samples of 1 of 4 classes in .*, such as 0;"),
    "negative": ({"x": COLOUR, "y": LABELS - 1}, "got labels from -1 to 1"),
    "all negative": ({"x": COLOUR, "y": LABELS * 0 - 1}, "got labels from -1 to -1"),
    "huge": ({"x": COLOUR, "y": LABELS + 10**12}, "got no samples of 1000000000000 of"),
    "too few names": ({"x": COLOUR, "y": LABELS, "class_names": ["a", "b"]}, "labels from 0 to 2 .* 0 to 1 "),
    "a name twice": ({"x": COLOUR, "y": LABELS, "class_names": ["a", "b", "a"]}, "expected none twice"),
    "an empty class": ({"x": COLOUR, "y": LABELS, "class_names": list("abcd")}, "1 of 4 .*, such as d;"),
    "names as numbers": ({"x": COLOUR, "y": LABELS, "class_names": [1, 2, 3]}, "expected texts"),
    "pickles": ({"x": COLOUR, "y": np.array([None] * 6, dtype=object)}, "or one with pickles"),
}


@pytest.mark.parametrize("case", UNCLEAR)
def test_arrays_that_are_not_clear_are_refused(case: str, tmp_path: Path) -> None:
    arrays, words = UNCLEAR[case]
    with pytest.raises(InputError, match=words):
        read_npz(saved(tmp_path / "data.npz", **arrays))


def test_what_is_no_npz_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "data.npz", x=COLOUR, y=LABELS)
    for content in (b"", b"hello", path.read_bytes()[:-30]):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"got a damaged \.npz file"):
            read_npz(path)
    with path.open("wb") as file:
        np.save(file, COLOUR)
    with pytest.raises(InputError, match="got the single array"):
        read_npz(path)
    with pytest.raises(InputError, match="got no readable file"):
        read_npz(tmp_path)


@pytest.mark.parametrize(("scale", "kind"), [(1.0, np.uint8), (0.3, np.float32)])
def test_written_data_is_read_back_in_the_same_bits(scale: float, kind: type, tmp_path: Path) -> None:
    data = LabelledData("zoo", expected(COLOUR).x * scale, torch.from_numpy(LABELS), NAMES)
    path = write_npz(data, tmp_path / "new" / "data.npz")
    again = load_data(f"npz:{path}")
    assert (again.fingerprint, again.class_names) == (data.fingerprint, data.class_names)
    with np.load(path) as file:
        assert file["x"].dtype == kind


@pytest.mark.parametrize("kind", ["<f4", "<f8", ">f4"])
def test_points_are_read_as_they_are(kind: str, tmp_path: Path) -> None:
    x = np.array([[0.0, 300.0], [-5.5, 0.25], [1e6, -2.0]], kind).repeat(2, 0)
    data = load_data(f"npz:{saved(tmp_path / 'moons.npz', x=x, y=LABELS)}")
    assert data.x.dtype == torch.float32
    assert data.x.tolist() == x.tolist()


@pytest.mark.parametrize("scale", [0.0, 1.0, 1e6])
def test_written_points_are_read_back_in_the_same_bits(scale: float, tmp_path: Path) -> None:
    points = scale * torch.linspace(-1, 1, 12).reshape(6, 2)
    data = LabelledData("moons", points, torch.from_numpy(LABELS), NAMES)
    again = load_data(f"npz:{write_npz(data, tmp_path / 'moons.npz')}", cache=tmp_path / "cache")
    assert (again.fingerprint, again.class_names) == (data.fingerprint, data.class_names)


@pytest.mark.parametrize("points", [torch.zeros(6, 2).double(), torch.full((6, 2), float("inf"))])
def test_points_that_would_not_be_read_back_are_not_written(points: Tensor, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected finite float32"):
        write_npz(LabelledData("x", points, torch.from_numpy(LABELS), NAMES), tmp_path / "x.npz")
    assert files_in(tmp_path) == []


@pytest.mark.parametrize(
    "x",
    [
        torch.zeros(6, 2, 2),
        torch.zeros(6, 4, 8, 8),
        torch.full((6, 1, 8, 8), 1.5),
        torch.zeros(6, 1, 8, 8).double(),
    ],
)
def test_samples_that_would_not_be_read_back_are_not_written(x: Tensor, tmp_path: Path) -> None:
    data = LabelledData("x", x, torch.from_numpy(LABELS), ["0", "1", "2"])
    with pytest.raises(InputError, match=r"expected images \[n, c, h, w\] in \[-1, 1\]"):
        write_npz(data, tmp_path / "x.npz")
    assert files_in(tmp_path) == []


def test_every_byte_is_packed_exactly_and_nothing_else_is() -> None:
    every = torch.arange(256, dtype=torch.uint8).reshape(4, 64)
    assert torch.equal(to_bytes(from_bytes(every)), every)
    for x in (from_bytes(every) * 0.5, from_bytes(every) + 2, torch.full((2, 2), float("nan"))):
        assert to_bytes(x) is x


# IDX pairs


def test_pairs_of_idx_files_are_what_mnist_reads_from_them(tmp_path: Path) -> None:
    write_files(tmp_path, idx_files(np.arange(10)))
    assert idx_pairs(tmp_path).fingerprint == mnist(tmp_path).fingerprint


@pytest.mark.parametrize("ending", ["-idx{}-ubyte", "-idx{}-ubyte.gz", ".idx{}-ubyte"])
@pytest.mark.parametrize("prefix", ["", "emnist-letters-"])
def test_idx_pairs_have_any_size_and_classes_train_before_test(
    prefix: str, ending: str, tmp_path: Path
) -> None:
    first, rest = np.array([0, 1, 12, 3]), np.array([2, 4, 5, 6, 7, 8, 9, 10, 11])
    x, z = bytes_of(4, 5, 7), bytes_of(9, 5, 7, seed=1)
    for part, images, labels in (("test", z, rest), ("train", x, first)):
        for what, values in (("images", images), ("labels", labels.astype(np.uint8))):
            content = gzip.compress(idx(values)) if ending.endswith("gz") else idx(values)
            (tmp_path / f"{prefix}{part}-{what}{ending.format(values.ndim)}").write_bytes(content)
    data = load_data(f"idx:{tmp_path}")
    assert torch.equal(data.x, from_bytes(torch.from_numpy(np.concatenate([x, z])))[:, None])
    assert data.labels.tolist() == [*first, *rest]
    assert data.class_names == [str(k) for k in range(13)]
    assert idx_pairs(tmp_path, list("abcdefghijklm")).class_names[2] == "c"


def test_colour_idx_files_are_read_in_both_layouts(tmp_path: Path) -> None:
    found = set()
    for name, images in (("first", COLOUR), ("last", LAST)):
        files = {"images-idx4-ubyte": idx(images), "labels-idx1-ubyte": idx(LABELS.astype(np.uint8))}
        write_files(tmp_path / name, files)
        found.add(idx_pairs(tmp_path / name).fingerprint)
    assert found == {expected(COLOUR).fingerprint}


BAD_PAIRS: dict[str, tuple[dict[str, bytes], str]] = {
    "nothing": ({"readme.txt": b""}, "got no IDX files in"),
    "half a pair": ({**idx_files(), "extra-images-idx3-ubyte": b""}, "got extra-images-idx3-ubyte alone in"),
    "fewer labels": (
        {**idx_files(), "t10k-labels-idx1-ubyte": idx(np.zeros(5, np.uint8))},
        r"got 6 images and labels \[5\] in .*t10k-labels",
    ),
    "two sizes": (
        {**idx_files(), "t10k-images-idx3-ubyte": idx(bytes_of(6, 28, 30))},
        "got images of the shapes",
    ),
    "two sets": (
        {f"{own}-train-{name}": b"" for own in "ab" for name in ("images-idx3-ubyte", "labels-idx1-ubyte")},
        "got the datasets a, b in",
    ),
    "labels from 1": (idx_files(LABELS + 1), "got no samples of 1 of 4 classes"),
    "damage": ({**idx_files(), "t10k-labels-idx1-ubyte": b"hello"}, "expected an IDX header"),
}


@pytest.mark.parametrize("case", BAD_PAIRS)
def test_what_are_no_pairs_is_refused(case: str, tmp_path: Path) -> None:
    files, words = BAD_PAIRS[case]
    write_files(tmp_path, files)
    with pytest.raises(InputError, match=words):
        idx_pairs(tmp_path)


# CIFAR, binary


def write_binary(folder: Path, place: str, files: dict[str, bytes]) -> None:
    if place.endswith("gz"):
        inside = {f"some-folder/{name}": content for name, content in files.items()}
        (folder / place).write_bytes(tar_gz({"some-folder/readme.html": b"hello", **inside}))
    else:
        write_files(folder / place, files)


@pytest.mark.parametrize("place", ["", "cifar-10-batches-bin", "cifar-10-binary.tar.gz"])
def test_binary_cifar10_is_read_unpacked_or_not(place: str, tmp_path: Path) -> None:
    write_binary(tmp_path, place, CIFAR10_FILES)
    data = cifar10(tmp_path)
    rows = np.frombuffer(b"".join(CIFAR10_FILES.values()), np.uint8).reshape(60, 3073)
    assert data.class_names == list(CIFAR10_CLASSES)
    assert data.labels.tolist() == rows[:, 0].tolist()
    assert torch.equal(to_bytes(data.x), torch.from_numpy(rows[:, 1:].reshape(60, 3, 32, 32).copy()))
    some = cifar10(tmp_path, ["dog", "cat"])
    assert some.labels.tolist() == [1, 0] * 6
    assert torch.equal(some.x[0], data.x[3])


def test_the_archive_of_images_is_read_first(tmp_path: Path) -> None:
    write_files(tmp_path, CIFAR10_FILES | {"cifar10-images.tar.gz": b"hello"})
    with pytest.raises(InputError, match=r"got a damaged archive .*cifar10-images"):
        cifar10(tmp_path)


@pytest.mark.parametrize("place", ["", "cifar-100-binary", "cifar-100-binary.tar.gz"])
def test_binary_cifar100_has_its_fine_labels_and_their_names(place: str, tmp_path: Path) -> None:
    files = dict(CIFAR100_FILES)
    rows = np.frombuffer(files["train.bin"], np.uint8).reshape(100, 3074).copy()
    rows[:, 0] //= 5  # the coarse label
    files["train.bin"] = rows.tobytes()
    write_binary(tmp_path, place, files)
    data = cifar100(tmp_path)
    assert data.class_names == [f"name_{k}" for k in range(100)]
    assert data.labels.tolist() == [*range(100), *range(100)]
    assert torch.equal(to_bytes(data.x[:100]), torch.from_numpy(rows[:, 2:].reshape(100, 3, 32, 32).copy()))


@pytest.mark.parametrize(
    ("read", "name", "binary"),
    [
        (cifar10, "cifar-10-python.tar.gz", "cifar-10-binary.tar.gz"),
        (cifar10, "cifar-10-batches-py", "cifar-10-binary.tar.gz"),
        (cifar10, "data_batch_1", "cifar-10-binary.tar.gz"),
        (cifar100, "cifar-100-python.tar.gz", "cifar-100-binary.tar.gz"),
        (cifar100, "meta", "cifar-100-binary.tar.gz"),
    ],
)
def test_the_python_version_is_refused_with_the_binary_ones_name(
    read: Callable[[Path], LabelledData], name: str, binary: str, tmp_path: Path
) -> None:
    write_files(tmp_path, {name: b"\x80\x02."})
    with pytest.raises(InputError, match=f"which is pickles; expected the binary version.*{binary}"):
        read(tmp_path)


def test_missing_and_damaged_binary_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"got no cifar-100-binary\.tar\.gz in"):
        cifar100(tmp_path)
    write_files(tmp_path, CIFAR10_FILES)
    part = tmp_path / "data_batch_3.bin"
    part.write_bytes(CIFAR10_FILES[part.name][:-1])
    with pytest.raises(InputError, match=r"got 30729 bytes in data_batch_3\.bin"):
        cifar10(tmp_path)
    part.write_bytes(b"\x0a" + bytes(3072))
    with pytest.raises(InputError, match="got the label 10 in"):
        cifar10(tmp_path)
    part.unlink()
    with pytest.raises(InputError, match=r"got no data_batch_3\.bin in"):
        cifar10(tmp_path)


def test_a_binary_archive_cut_short_is_refused(tmp_path: Path) -> None:
    archive = tmp_path / "cifar-10-binary.tar.gz"
    whole = tar_gz(CIFAR10_FILES)
    for size in (0, len(whole) // 2, len(whole) - 9):
        archive.write_bytes(whole[:size])
        with pytest.raises(InputError, match="got a damaged archive"):
            cifar10(tmp_path)


# Datasets from Python


class Items(Dataset[Any]):
    """A map-style dataset of given items, with a list of classes."""

    def __init__(self, items: list[Any]) -> None:
        self.items, self.classes = items, NAMES

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, k: int) -> Any:
        return self.items[k]


AS: dict[str, Callable[[np.ndarray], Any]] = {
    "PIL": pil,
    "array": lambda image: image,
    "array, channels last": lambda image: image.transpose(1, 2, 0),
    "tensor": torch.from_numpy,
    "long tensor": lambda image: torch.from_numpy(image).long(),
}


@pytest.mark.parametrize("form", AS)
@pytest.mark.parametrize("label", [int, np.int64, torch.tensor, lambda k: np.array([k])])
def test_a_dataset_of_any_form_is_the_same_data(form: str, label: Callable[[int], Any]) -> None:
    items = [(AS[form](image), label(int(k))) for image, k in zip(COLOUR, LABELS, strict=True)]
    data = from_dataset(Items(items))
    assert data.fingerprint == expected(COLOUR).fingerprint
    assert (data.name, data.class_names) == ("Items", NAMES)
    named = from_dataset(Items(items), ["x", "y", "z"], name="zoo")
    assert (named.name, named.class_names) == ("zoo", ["x", "y", "z"])
    assert from_dataset(items).class_names == ["0", "1", "2"]


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.bfloat16])
def test_a_dataset_of_floats_is_read_in_both_ranges(kind: torch.dtype) -> None:
    unit = (torch.from_numpy(COLOUR) / 255).to(kind)
    for x in (unit, 2 * unit - 1, unit.clone().requires_grad_()):
        data = from_dataset(TensorDataset(x, torch.from_numpy(LABELS)))
        assert torch.allclose(data.x, expected(COLOUR).x, atol=0.02 if kind == torch.bfloat16 else 1e-6)
        assert not data.x.requires_grad


def test_a_range_given_for_a_dataset_settles_what_its_values_do_not() -> None:
    items = [
        ((image / 512 + 0.4).astype(np.float32), label) for image, label in zip(COLOUR, LABELS, strict=True)
    ]
    with pytest.raises(InputError, match="write their range"):
        from_dataset(items)
    given = from_dataset(items, value_range=(0, 1)).x
    assert torch.allclose(given, torch.from_numpy(COLOUR / 256 - 0.2).float(), atol=1e-6)


@pytest.mark.parametrize("form", ["array", "tensor"])
def test_arrays_are_resized_as_pil_images_are(form: str) -> None:
    images = [bytes_of(1, 3, 8 + k, 12)[0] for k in range(3)]
    reference = from_dataset([(pil(image), k) for k, image in enumerate(images)], size=5)
    assert reference.x.shape == (3, 3, 5, 5)
    data = from_dataset([(AS[form](image), k) for k, image in enumerate(images)], size=5)
    assert data.fingerprint == reference.fingerprint
    floats = [(AS[form](image / np.float32(255)), k) for k, image in enumerate(images)]
    assert torch.allclose(from_dataset(floats, size=5, value_range=(0, 1)).x, reference.x, atol=0.02)


def stream() -> Iterator[tuple[np.ndarray, int]]:
    yield COLOUR[0], 0


FLOATS = UNIT[0].astype(np.float32)
BAD_ITEMS: dict[str, tuple[Any, str]] = {
    "a stream": (stream(), "got a generator without a length"),
    "empty": ([], "got no images"),
    "dicts": ([{"image": COLOUR[0], "label": 0}], r"got item 0 of the type dict; expected \(image, label\)"),
    "triples": ([(COLOUR[0], 0, 1)], "got item 0 of the type tuple"),
    "lists": ([(COLOUR[0].tolist(), 0)], "got image 0 of the type list"),
    "mixed sizes": ([(COLOUR[0], 0), (COLOUR[0, :, 1:], 0)], r"8x8 \(image 0\) and 7x8 \(image 1\)"),
    "mixed numbers": ([(COLOUR[0], 0), (FLOATS, 0)], r"uint8 values \(image 0\) and float32 \(image 1\)"),
    "texts": ([(COLOUR[0], "cat")], "got the label 'cat' of image 0"),
    "a share": ([(COLOUR[0], 0.5)], "got the label 0.5 of image 0"),
    "a truth": ([(COLOUR[0], True)], "got the label True of image 0"),
    "one-hot": ([(COLOUR[0], np.array([1, 0]))], r"got the label array\(\[1, 0\]\) of image 0"),
    "vectors": ([(FLOATS[0, 0], 0)], r"got image 0 of shape \[8\]"),
    "no pixels": ([(COLOUR[0, 0, :0], 0)], r"got image 0 of shape \[0, 8\]"),
    "no pixels in PIL": ([(Image.new("L", (0, 5)), 0)], r"got image 0 of the mode L and size \(0, 5\)"),
    "two channels": ([(COLOUR[0, :2], 0)], r"got image 0 of shape \[2, 8, 8\]"),
    "infinite": ([(FLOATS + np.inf, 0)], "got NaN or infinite values in image 0"),
    "sixteen bits": ([(Image.fromarray(np.full((8, 8), 9, np.uint16)), 0)], "got image 0 of the mode I;16"),
}


@pytest.mark.parametrize("case", BAD_ITEMS)
def test_a_dataset_of_other_items_is_refused(case: str) -> None:
    dataset, words = BAD_ITEMS[case]
    with pytest.raises(InputError, match=words):
        from_dataset(dataset)


def test_a_broken_image_of_a_dataset_is_named(tmp_path: Path) -> None:
    path = tmp_path / "0.png"
    pil(COLOUR[0]).save(path)
    path.write_bytes(path.read_bytes()[:-30])
    with Image.open(path) as image, pytest.raises(InputError, match="got a broken image, image 0"):
        from_dataset([(image, 0)])


def test_foreign_data_is_split_like_any_other(tmp_path: Path) -> None:
    data = from_dataset(TensorDataset(torch.from_numpy(COLOUR), torch.from_numpy(LABELS)))
    path = write_npz(data, tmp_path / "data.npz")
    split = split_data(data, seed=0)
    assert split.of(load_data(f"npz:{path}"), "train").fingerprint == split.of(data, "train").fingerprint


# Hugging Face datasets


@pytest.fixture(scope="module")
def zoo() -> hf.Dataset:
    features = hf.Features(
        {"image": hf.Image(), "label": hf.ClassLabel(names=NAMES), "text": hf.Value("string")}
    )
    columns = {"image": [pil(image) for image in COLOUR], "label": LABELS.tolist(), "text": NAMES * 2}
    return hf.Dataset.from_dict(columns, features=features)


@pytest.mark.parametrize("form", [None, "numpy", "torch"])
def test_a_hugging_face_dataset_has_its_images_and_class_names(zoo: hf.Dataset, form: str | None) -> None:
    data = from_hf(zoo.with_format(form))
    assert data.fingerprint == expected(COLOUR).fingerprint
    assert data.class_names == NAMES
    assert from_hf(zoo, size=4).x.shape == (6, 3, 4, 4)
    assert from_hf(zoo, class_names=["x", "y", "z"]).class_names == ["x", "y", "z"]


HF_CASES: dict[str, tuple[Callable[[hf.Dataset], Any], dict[str, Any], str]] = {
    "all splits": (
        lambda zoo: hf.DatasetDict({"test": zoo}),
        {},
        r"got the splits test; expected one: write from_hf\(dataset\['test'\]\)",
    ),
    "no splits": (lambda zoo: hf.DatasetDict(), {}, "got no splits"),
    "a stream": (lambda zoo: zoo.to_iterable_dataset(), {}, "not a stream"),
    "no such image": (lambda zoo: zoo, {"image": "img"}, "got the column 'img'; .* image, label, text"),
    "no such label": (lambda zoo: zoo, {"label": "lable"}, r"write from_hf\(dataset, label='label'\)"),
    "texts": (lambda zoo: zoo, {"label": "text"}, r"got texts .*dataset.class_encode_column\('text'"),
    "no images": (lambda zoo: zoo, {"image": "text"}, "got image 0 of the type str"),
    "not decoded": (
        lambda zoo: zoo.cast_column("image", hf.Image(decode=False)),
        {},
        "got image 0 of the type dict; .* decode it first",
    ),
}


@pytest.mark.parametrize("case", HF_CASES)
def test_what_is_no_split_with_these_columns_is_refused(case: str, zoo: hf.Dataset) -> None:
    change, columns, words = HF_CASES[case]
    with pytest.raises(InputError, match=words):
        from_hf(change(zoo), **columns)


class Alike:
    """What a Hugging Face dataset must have, and nothing more; a third column must not be read."""

    def __init__(self) -> None:
        self.features = {"picture": object(), "kind": object(), "never": object()}
        self.column_names = list(self.features)

    def select_columns(self, names: list[str]) -> list[dict[str, Any]]:
        assert names == ["picture", "kind"]
        pairs = zip(COLOUR, LABELS.tolist(), strict=True)
        return [{"picture": pil(image), "kind": label} for image, label in pairs]

    def __len__(self) -> int:
        return len(COLOUR)


def test_only_the_two_columns_of_anything_alike_are_read() -> None:
    data = from_hf(Alike(), image="picture", label="kind")
    assert data.fingerprint == expected(COLOUR).fingerprint
    assert data.class_names == ["0", "1", "2"]


# Caches


@pytest.mark.parametrize("kind", [torch.uint8, torch.float32, torch.float64])
def test_samples_of_any_type_come_out_of_the_cache_in_the_same_bits(
    kind: torch.dtype, tmp_path: Path
) -> None:
    data = LabelledData("any", torch.arange(6).reshape(3, 2).to(kind), torch.arange(3), NAMES)
    for _ in range(2):
        found = read_cached(lambda: data, tmp_path, tmp_path / "cache")
        assert found.fingerprint == data.fingerprint


def test_ones_own_reader_is_cached_too_and_damage_is_named(tmp_path: Path) -> None:
    source, cache, calls = tmp_path / "points.txt", tmp_path / "cache", []

    def read() -> LabelledData:
        calls.append(1)
        return LabelledData("points", torch.full((5, 2), 1 / 3) * len(calls), torch.arange(5), list("abcde"))

    source.write_text("1")
    first, again = (read_cached(read, source, cache) for _ in range(2))
    assert again.fingerprint == first.fingerprint
    assert len(calls) == 1
    assert read_cached(read, source, cache, "other settings").fingerprint != first.fingerprint
    source.write_text("22")
    read_cached(read, source, cache)
    assert len(calls) == len(files_in(cache)) == 3
    for path in files_in(cache):
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match="truncated or damaged"):
        read_cached(read, source, cache)


class Counted(nn.Module):
    """Features of images [batch, 3, 8, 8], with dropout, that counts what it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.dropout = nn.Linear(192, 4), nn.Dropout(0.5)
        self.batches: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.batches.append(len(x))
        return self.dropout(self.linear(x.flatten(1)))


def test_features_are_those_of_evaluation_in_batches_and_the_modes_stay() -> None:
    data, extractor = expected(COLOUR), Counted()
    extractor.linear.eval()
    features = compute_features(extractor, data, batch_size=4)
    assert extractor.batches == [4, 2]
    assert torch.allclose(features, extractor.linear(data.x.flatten(1)), atol=1e-6)
    assert not features.requires_grad
    modes = [part.training for part in (extractor, extractor.linear, extractor.dropout)]
    assert modes == [True, False, True]


def test_features_are_kept_until_weights_data_or_structure_change(tmp_path: Path) -> None:
    data, extractor = expected(COLOUR), Counted()
    first, again = (compute_features(extractor, data, tmp_path) for _ in range(2))
    assert torch.equal(again, first)
    assert extractor.batches == [6]
    assert compute_features(extractor, expected(COLOUR[:3], LABELS[:3]), tmp_path).shape == (3, 4)
    with torch.no_grad():
        extractor.linear.bias.add_(1)
    assert torch.allclose(compute_features(extractor, data, tmp_path), first + 1, atol=1e-6)
    for size, width in ((2, 48), (4, 12)):
        pooled = nn.Sequential(nn.AvgPool2d(size), nn.Flatten())
        assert compute_features(pooled, data, tmp_path).shape == (6, width)


def test_what_gives_no_features_is_refused(tmp_path: Path) -> None:
    data = expected(COLOUR)
    extractors: list[tuple[Any, str]] = [
        (nn.Identity(), r"got features \[6, 3, 8, 8\] for 6 samples; .* nn.Flatten"),
        (torch.mean, "expected a torch.nn.Module"),
    ]
    for extractor, words in extractors:
        with pytest.raises(InputError, match=words):
            compute_features(extractor, data, tmp_path)
    with pytest.raises(InputError, match="got 0 samples"):
        compute_features(nn.Flatten(), data.of_classes([9]), tmp_path)
    with pytest.raises(InputError, match="batch_size=0"):
        compute_features(nn.Flatten(), data, batch_size=0)
    assert files_in(tmp_path) == []
