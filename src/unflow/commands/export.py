"""`unflow export DIR`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser

from unflow.commands.arguments import add_run, flag_first_word


def add_arguments(parser: ArgumentParser, arguments: Sequence[str]) -> list[str]:
    """Add the options; the first word is the model."""
    add_run(parser, run)
    return flag_first_word("model", arguments)


def run(
    model: str, out: Path, like: Path | None = None, weights_key: str | None = None, trust_code: bool = False
) -> None:
    """Write the weights of a model for the code that made it.

    Args:
        model: folder of a bundle, or the specification of a third-party model, as for `unflow unlearn`.
        out: new file: .safetensors, or .pth, .pt, .ckpt or .bin as torch.save writes them.
        like: file from which the model was loaded; its names and nesting are used, its weights are replaced.
        weights_key: key of the model's weights in that file, if it holds several networks.
        trust_code: true to let bundles run the third-party functions that they name.
    """
    import torch

    from unflow.disk.weights import write_weights
    from unflow.foreign import load_model
    from unflow.models import plain_module

    torch.set_num_threads(1)
    net = plain_module(load_model(model, trust_code))
    print(f"weights: {write_weights(net, out, like, weights_key)}")
