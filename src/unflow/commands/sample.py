"""`unflow sample DIR`."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser

from unflow.commands.arguments import add_batch_rows, add_run, flag_first_word
from unflow.commands.run_folders import run_folder
from unflow.ground.errors import InputError
from unflow.ground.files import write_arrays, write_bytes

if TYPE_CHECKING:  # the help of a command must not wait for torch
    import torch


RANDOM = "random"
"""The label of conditions at random."""


def add_arguments(parser: ArgumentParser, arguments: Sequence[str]) -> list[str]:
    """Add the options; the first word is the model."""
    add_run(parser, run)
    add_batch_rows(parser)
    return flag_first_word("model", arguments)


def run(
    model: str,
    out: Path,
    n: int = 64,
    seed: int = 0,
    label: str = RANDOM,
    prompt: str | None = None,
    guidance: float | None = None,
    autoencoder: Path | None = None,
    trust_code: bool = False,
) -> None:
    """Draw samples from a model into samples.npz, with a picture of the first 64 images.

    Args:
        model: folder of a bundle, or the specification of a third-party model, as for `unflow unlearn`.
        out: folder for samples.npz and samples.png.
        n: number of samples, >= 1.
        seed: random seed of the latents, >= 0; the same seed gives the same latents for every model.
        label: number or name of the class or prompt that a conditional model is asked for; null for none;
            random for conditions at random.
        prompt: name of the condition, like "a truck", instead of --label; also where names are numbers.
        guidance: guidance scale of a conditional flow; by default the model's.
        autoencoder: bundle of the autoencoder that decodes the samples, for a model of latents.
        trust_code: true to let bundles run the third-party functions that they name.
    """
    import torch

    from unflow.foreign import load_whole
    from unflow.ground.streams import Stream, check_seed, stream

    asked = read_condition(label, prompt)
    torch.set_num_threads(1)
    check_seed(seed)
    if n < 1:
        raise InputError(f"got n={n}; expected 1 or more samples")
    generator = load_whole(model, autoencoder, trust_code)
    z = generator.prior(n, stream(seed, Stream.LATENTS))
    if asked is not None:
        z = generator.require_conditional().ask(z, asked)
    if guidance is not None:
        generator = generator.with_guidance(guidance)
    x = generator.push_batches(z)
    decoder = None if autoencoder is None else str(autoencoder)
    record: dict[str, Any] = {"command": "sample", "model": str(model), "autoencoder": decoder, "n": n}
    named = {"label": None if label == RANDOM else label, "prompt": prompt, "guidance": guidance}
    record |= {"seed": seed} | {name: value for name, value in named.items() if value is not None}
    with run_folder(out, record):
        print(f"samples: {write_arrays(out / 'samples.npz', {'x': x.numpy(), 'z': z.numpy()})}")
        if x.ndim == 4:
            save_grid(x[:64], out / "samples.png")
            print(f"picture: {out / 'samples.png'}")


def read_condition(label: str, prompt: str | None = None) -> int | str | None:
    """Return the number or the name of the condition that is asked for; None for conditions at random.

    Args:
        label: a number, a name, null or random.
        prompt: a name; None: the label.

    Raises:
        InputError: for both.
    """
    if prompt is not None and label != RANDOM:
        raise InputError(f"got --label {label} and --prompt {prompt!r}; expected only one of them")
    if prompt is not None:
        return prompt
    if label == RANDOM:
        return None
    return int(label) if label.isdigit() else label


def save_grid(x: torch.Tensor, path: Path, columns: int = 8) -> None:
    """Write images [n, c, h, w] in [-1, 1] as one PNG, row by row.

    The channels of an image that has neither 1 nor 3 are drawn side by side, as for latents.
    """
    import torch
    from PIL import Image

    if x.shape[1] not in (1, 3):
        x = x.permute(0, 2, 1, 3).flatten(2).unsqueeze(1)
    blank = torch.full((-len(x) % columns, *x.shape[1:]), 1.0)
    tiles = torch.nn.functional.pad(torch.cat([x, blank]), (1, 1, 1, 1), value=1.0)
    rows, channels, height, width = len(tiles) // columns, *tiles.shape[1:]
    picture = tiles.reshape(rows, columns, channels, height, width).permute(0, 3, 1, 4, 2)
    picture = picture.reshape(rows * height, columns * width, channels).clamp(-1, 1) / 2 + 0.5
    big = picture.repeat_interleave(4, 0).repeat_interleave(4, 1)
    buffer = io.BytesIO()
    pixels = (big * 255).round().to(torch.uint8).numpy()
    Image.fromarray(pixels[..., 0] if channels == 1 else pixels).save(buffer, "PNG")
    write_bytes(path, buffer.getvalue())
