"""Train third-party models once and keep their weights.

    cd benchmarks && python -m third_party.training --data FOLDER --cache ../runs/strangers mlp_gan vae

It writes NAME.safetensors, and NAME.json with the seconds of the training and the specification string.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from third_party import (
    cgan,
    classifiers,
    data,
    dcgan,
    label_flow,
    latent_flow,
    mean_flow,
    mlp_gan,
    unet_flow,
    vae,
)


@dataclass(frozen=True)
class Recipe:
    """How one network is trained, and how it is named afterwards.

    Attributes:
        train: images [n, 28, 28] in [0, 1] and labels [n] -> the network, or several by the suffixes of
            their files.
        line: specification string; CACHE is replaced by the folder of the weights.
        half: of the training images.
        kind: "one_step", "flow" or "reader" (guide, judge, autoencoder).
        dataset: the folder of images, under the name that ``--data`` and ``--fashion`` have.
    """

    train: Callable[[Tensor, Tensor], nn.Module | dict[str, nn.Module]]
    line: str
    half: int = 0
    kind: str = "one_step"
    dataset: str = "data"


def list_readers(prefix: str, dataset: str) -> dict[str, Recipe]:
    """Return the recipes of the guide, the judge and the autoencoder of one dataset."""
    guide, judge = (f"classifier:third_party.classifiers:{name}@CACHE/" for name in ("Guide", "Judge"))
    return {
        f"{prefix}guide": Recipe(
            classifiers.train_guide,
            f"{guide}{prefix}guide.safetensors,range=0:1,shape=1x28x28",
            kind="reader",
            dataset=dataset,
        ),
        f"{prefix}judge": Recipe(
            classifiers.train_judge,
            f"{judge}{prefix}judge.safetensors,range=0:1,shape=784",
            half=1,
            kind="reader",
            dataset=dataset,
        ),
        f"{prefix}autoencoder": Recipe(
            classifiers.train_autoencoder, "", half=1, kind="reader", dataset=dataset
        ),
    }


RECIPES: dict[str, Recipe] = {
    **list_readers("", "data"),
    "mlp_gan": Recipe(
        mlp_gan.train,
        "generator:third_party.mlp_gan:Generator@CACHE/mlp_gan.safetensors,prior=normal:64,range=-1:1,"
        "shape=1x28x28",
    ),
    "vae": Recipe(
        vae.train,
        "generator:third_party.vae:Decoder@CACHE/vae.safetensors,prior=normal:20,range=0:1,shape=1x28x28",
    ),
    "dcgan": Recipe(
        dcgan.train,
        "generator:third_party.dcgan:Generator@CACHE/dcgan.safetensors,prior=normal:100x1x1,range=-1:1,"
        "shape=1x28x28",
    ),
    "label_flow": Recipe(
        label_flow.train,
        "flow:third_party.label_flow:ImageMLP@CACHE/label_flow.safetensors,shape=1x28x28,call=t/x/label,"
        "label=random:10,null_label=10,predicts=data",
        kind="flow",
    ),
    "unet_flow": Recipe(
        unet_flow.train,
        "flow:third_party.unet_flow:UNet@CACHE/unet_flow.safetensors,shape=1x28x28,call=x/t,noise_at=1",
        kind="flow",
    ),
    "cgan": Recipe(
        cgan.train,
        "generator:third_party.cgan:Unconditional@CACHE/cgan.safetensors,prior=normal:74,range=0:1,"
        "shape=1x28x28",
    ),
    "mean_flow": Recipe(
        mean_flow.train,
        "flow_map:third_party.mean_flow:MeanFlowMLP@CACHE/mean_flow.safetensors,shape=1x28x28,"
        "call=x/end/start,noise_at=1",
    ),
    **list_readers("fashion_", "fashion"),
    "latent_flow": Recipe(
        latent_flow.train,
        "flow:third_party.latent_flow:LatentVelocity@CACHE/latent_flow.safetensors,shape=24,call=x/t,"
        "time_scale=1000,decoder=CACHE/latent_flow_decoder",
        kind="flow",
        dataset="fashion",
    ),
}
"""Name -> recipe."""


def train_once(name: str, folders: dict[str, str], cache: Path, seed: int = 0) -> dict[str, float | str]:
    """Train and save a network unless its files exist; return the content of its JSON file.

    Raises:
        ValueError: if the folder of its images was not given.
    """
    recipe, record = RECIPES[name], cache / f"{name}.json"
    if not record.exists():
        folder = folders.get(recipe.dataset)
        if not folder:
            raise ValueError(
                f"got no folder of images for {name}; expected one: write --{recipe.dataset} DIR"
            )
        cache.mkdir(parents=True, exist_ok=True)
        images, labels = data.load_half(folder, recipe.half)
        torch.manual_seed(seed)
        wall, cpu = time.perf_counter(), time.process_time()
        found = recipe.train(images, labels)
        spent = {"train_seconds": time.perf_counter() - wall, "train_cpu_seconds": time.process_time() - cpu}
        nets = found if isinstance(found, dict) else {"": found}
        for suffix, net in nets.items():
            state = {key: value.contiguous() for key, value in net.state_dict().items()}
            save_file(state, cache / f"{name}{suffix}.safetensors")
        line = recipe.line.replace("CACHE", str(cache.resolve()))
        parameters = sum(p.numel() for net in nets.values() for p in net.parameters())
        record.write_text(json.dumps({"line": line, **spent, "parameters": parameters}, indent=1))
    return json.loads(record.read_text())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", default=list(RECIPES), help="default: all")
    parser.add_argument("--data", required=True, help="folder with MNIST's IDX files")
    parser.add_argument("--fashion", help="folder with Fashion-MNIST's IDX files")
    parser.add_argument("--cache", type=Path, default=Path("../runs/strangers"))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    for name in asked.names:
        found = train_once(name, {"data": asked.data, "fashion": asked.fashion}, asked.cache)
        print(f"{name}: {found['train_seconds']:.0f} s, {found['parameters']:,} parameters", flush=True)


if __name__ == "__main__":
    main()
