"""save_diffusers: write an unlearned model as a folder that diffusers loads."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from unflow.disk.diffusers.autoencoder import VAE, KLAutoencoder
from unflow.disk.diffusers.consistency import ConsistencyUNet
from unflow.disk.diffusers.folders import INDEX, SCHEDULER, list_parts
from unflow.disk.diffusers.package import Config
from unflow.disk.diffusers.unet import UNET
from unflow.disk.diffusers.velocity import FlowUNet
from unflow.ground.errors import InputError
from unflow.ground.files import write_json
from unflow.models import Flow, GenerativeModel, Generator, Latent
from unflow.models.autoencoder import Autoencoder


def save_diffusers(model: GenerativeModel | Autoencoder, folder: str | Path) -> Path:
    """Write a model from ``load_diffusers``, or one unlearned from it, in the format that it was loaded from.

    A pipeline is written as a pipeline, with the same scheduler; a single network as a single network, with
    scheduler_config.json beside it. ``from_pretrained`` of diffusers loads both. The ``label`` and
    ``sample_size`` of ``load_diffusers`` are not written: the folder holds the network of all classes.

    Args:
        model: a ``Flow``, a ``Generator``, an ``Autoencoder`` or a ``Latent`` of networks of diffusers.
        folder: new or empty; made if needed. model_index.json is written last and completes a pipeline.

    Raises:
        InputError: for a model that holds another network (a chain, a filter), and for a folder with files.
    """
    folder = Path(folder)
    net, autoencoder = _find_networks(model)
    pipeline = None if net is None else net.config["options"]["pipeline"]
    if net is not None and autoencoder is not None and VAE not in list_parts(pipeline or {}).values():
        raise InputError(
            "got a latent model of networks from two folders; expected one pipeline: write "
            "save_diffusers(model.inner, ...) and save_diffusers(model.autoencoder, ...)"
        )
    if net is not None and autoencoder is None and VAE in list_parts(pipeline or {}).values():
        pipeline = None
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(
            f"got the folder {folder}, which is not empty; expected a new one: write another name"
        )
    folder.mkdir(parents=True, exist_ok=True)
    if net is not None and pipeline is not None:
        _write_pipeline(folder, net, autoencoder, pipeline)
    elif net is not None:
        net.net.unet.save_pretrained(folder)
        write_json(folder / SCHEDULER, net.config["options"]["scheduler"])
    elif autoencoder is not None:
        autoencoder.vae.save_pretrained(folder)
    return folder


Net = FlowUNet | ConsistencyUNet


def _find_networks(model: nn.Module) -> tuple[Net | None, KLAutoencoder | None]:
    """Return the U-Net and the autoencoder of a model that holds only networks of diffusers."""
    if isinstance(model, Latent):
        (net, _), (_, autoencoder) = _find_networks(model.inner), _find_networks(model.autoencoder)
        return net, autoencoder
    if isinstance(model, Autoencoder) and isinstance(model.net, KLAutoencoder):
        return None, model.net
    if isinstance(model, Flow) and isinstance(model.net, FlowUNet):
        return model.net, None
    if isinstance(model, Generator) and isinstance(model.net, ConsistencyUNet):
        return model.net, None
    own = getattr(model, "net", None)
    what = type(model).__name__ + ("" if own is None else f" of a {type(own).__name__}")
    raise InputError(
        f"got a {what}, which no folder of diffusers can hold; expected networks from load_diffusers with "
        "their own weights changed: unlearn by erfm_resample_prior, uot_tilted or fine_tune, or write "
        "uf.save(model, folder)"
    )


def _write_pipeline(folder: Path, net: Net, autoencoder: KLAutoencoder | None, pipeline: Config) -> None:
    for name, kind in list_parts(pipeline).items():
        (folder / name).mkdir()
        if kind == UNET:
            net.net.unet.save_pretrained(folder / name)
        elif autoencoder is not None and kind == VAE:
            autoencoder.vae.save_pretrained(folder / name)
        else:
            write_json(folder / name / SCHEDULER, net.config["options"]["scheduler"])
    write_json(folder / INDEX, pipeline)
