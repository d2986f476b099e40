"""`unflow encode`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser

from unflow.commands.arguments import add_run
from unflow.commands.option_groups import DataOptions
from unflow.ground.errors import InputError

if TYPE_CHECKING:  # the help of a command must not wait for torch
    from unflow.data import LabelledData


def add_arguments(parser: ArgumentParser, arguments: Sequence[str]) -> list[str]:
    """Add the options."""
    add_run(parser, run)
    return list(arguments)


def run(rows: DataOptions, autoencoder: str, out: Path, trust_code: bool = False) -> None:
    """Encode a dataset into the latents of an autoencoder, as data for a model of latents.

    Args:
        rows: the images; all are encoded, in their order. With a split, OUT.split.json has its parts for the
            latents.
        autoencoder: bundle of the autoencoder; or diffusers:DIR, a folder with an AutoencoderKL.
        out: new .npz file with the latents and labels, which --data npz:OUT reads.
        trust_code: true to let the bundle run the third-party functions that it names.
    """
    import torch

    from unflow.data import Split, load_data, read_split, write_split
    from unflow.data.npz import write_latents

    torch.set_num_threads(1)
    if out.suffix != ".npz":
        raise InputError(f"got --out {out}; expected a file that ends in .npz: write --out {out}.npz")
    images = rows.all()
    split = None if rows.split is None else read_split(rows.split)
    if split is not None:
        split.of(images, "train")  # raises for a split of other data
    latents = encode_data(images, autoencoder, trust_code)
    if not out.exists():
        write_latents(latents, out)
    written = load_data(f'npz:"{out}"')
    if written.fingerprint != latents.fingerprint:
        raise InputError(f"{out} holds other data; expected a new file: choose another --out")
    print(f"latents: {out} ({len(written)} of shape {list(written.x.shape[1:])})")
    if split is not None:
        file = out.with_suffix(".split.json")
        write_split(Split(written.name, written.fingerprint, split.parts), written, file)
        print(f"split:   {file}")


def encode_data(images: LabelledData, autoencoder: str, trust_code: bool) -> LabelledData:
    """Return the latents of all images, with their labels and in their order.

    Raises:
        InputError: for images of another shape than the autoencoder's, and latents that are not finite.
    """
    from unflow.data import LabelledData
    from unflow.foreign import load_autoencoder

    coder = load_autoencoder(autoencoder, trust_code).eval()
    if images.x.shape[1:] != coder.sample_shape:
        raise InputError(
            f"got images {list(images.x.shape[1:])} for {autoencoder}, which encodes "
            f"{list(coder.sample_shape)}; expected equal shapes: write the data that it was trained on, like "
            "folder:DIR@SIZE"
        )
    latents = coder.encode(images.x)
    if not bool(latents.isfinite().all()):
        raise InputError(f"{autoencoder} encodes some images as NaN; expected a trained autoencoder")
    return LabelledData(images.name, latents.float(), images.labels, images.class_names)
