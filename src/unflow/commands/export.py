"""`unflow export DIR`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from jsonargparse import ArgumentParser

from unflow.commands.options import first_word_as
from unflow.disk.weights import write_weights
from unflow.foreign import load_model
from unflow.models import plain_module


def add_arguments(parser: ArgumentParser, arguments: Sequence[str]) -> list[str]:
    """Add the options; the first word is the model."""
    parser.add_function_arguments(run)
    return first_word_as("model", arguments)


def run(
    model: str, out: Path, like: Path | None = None, weights_key: str | None = None, trust_code: bool = False
) -> None:
    """Write the weights of a model for the code that it came from.

    Args:
        model: bundle of the model.
        out: new file: .safetensors, or .pth, .pt, .ckpt, .bin as torch.save writes them.
        like: file that the model was made from; its names and nesting are kept, and nothing else of it.
        weights_key: name below which the model's weights stand in that file, where it holds several.
        trust_code: whether bundles may run the functions that they name for networks of somebody else's.
    """
    torch.set_num_threads(1)
    net = plain_module(load_model(model, trust_code))
    print(f"weights: {write_weights(net, out, like, weights_key)}")
