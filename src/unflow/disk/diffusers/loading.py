"""load_diffusers: load a folder of diffusers as a model that can be unlearned."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from unflow.disk.diffusers.autoencoder import VAE, KLAutoencoder
from unflow.disk.diffusers.consistency import CONSISTENCY_SCHEDULER, ConsistencyUNet
from unflow.disk.diffusers.folders import SCHEDULER, Parts, complete_scheduler, find_parts, read_module
from unflow.disk.diffusers.package import Config
from unflow.disk.diffusers.unet import UNET, sample_shape, shrinkage
from unflow.disk.diffusers.velocity import FLOW_SCHEDULERS, FlowUNet
from unflow.ground.errors import InputError
from unflow.models import Flow, GenerativeModel, Generator, Latent
from unflow.models.autoencoder import Autoencoder

KINDS = {"flow": FLOW_SCHEDULERS[0], "consistency": CONSISTENCY_SCHEDULER}
"""Kind of model that a UNet2DModel can be -> the class of its scheduler."""


def load_diffusers(
    folder: str | Path,
    *,
    kind: Literal["flow", "consistency"] | None = None,
    label: int | None = None,
    sample_size: int | Sequence[int] | None = None,
) -> GenerativeModel | Autoencoder:
    """Return the model in a local folder that ``save_pretrained`` of diffusers wrote, in evaluation mode.

    A UNet2DModel with a flow-matching scheduler becomes a ``Flow`` (its ``steps`` and ``integrator`` may be
    set). A UNet2DModel with the scheduler of a consistency model becomes a one-step ``Generator``. An
    AutoencoderKL becomes an ``Autoencoder``, and a pipeline of U-Net and AutoencoderKL a ``Latent``. Samples
    are in the range of the training data: in diffusers, [-1, 1].

    Args:
        folder: the folder of a pipeline (model_index.json), or of one network (config.json).
        kind: the kind of model that the UNet2DModel is, for a folder without a scheduler; the default options
            of its scheduler are used.
        label: the class to draw, for a network of classes.
        sample_size: height and width of the U-Net's outputs (of images, for an AutoencoderKL alone), or one
            number for both; None: as in config.json.

    Raises:
        InputError: for a folder that holds something else, has no safetensors, or does not name a scheduler;
            for a label that the network does not have; if diffusers is not installed.
    """
    parts = find_parts(Path(folder))
    if parts.unet is None:
        return _load_lone_autoencoder(parts, kind, label, sample_size)
    scheduler = _choose_scheduler(parts, Path(folder), kind)
    model = _load_unet(parts.unet, scheduler, label, parts.pipeline, sample_size)
    if parts.vae is None:
        return model.eval()
    return Latent(model, _load_autoencoder(parts.vae, latent_sides=model.sample_shape[1:])).eval()


def _load_unet(
    folder: Path,
    scheduler: Config,
    label: int | None,
    pipeline: Config | None,
    sample_size: int | Sequence[int] | None,
) -> Flow | Generator:
    unet, weights = read_module(UNET, folder)
    is_flow = scheduler["_class_name"] in FLOW_SCHEDULERS
    kind: type[FlowUNet | ConsistencyUNet] = FlowUNet if is_flow else ConsistencyUNet
    net = kind(unet, scheduler, label, pipeline)
    net.net.unet.load_state_dict(weights)
    shape = sample_shape(net.net.options, sample_size)
    return Flow(net, shape) if is_flow else Generator(net, shape)


def _load_autoencoder(
    folder: Path, sample_size: int | Sequence[int] | None = None, latent_sides: Sequence[int] | None = None
) -> Autoencoder:
    vae, weights = read_module(VAE, folder)
    if latent_sides is not None:
        # config.json may hold the size of its training images, which need not be that of the pipeline.
        factor = shrinkage(vae["block_out_channels"])
        sample_size = [side * factor for side in latent_sides]
    net = KLAutoencoder(vae, sample_size)
    net.vae.load_state_dict(weights)
    return Autoencoder(net)


def _load_lone_autoencoder(
    parts: Parts, kind: str | None, label: int | None, sample_size: int | Sequence[int] | None
) -> Autoencoder:
    if kind is not None or label is not None:
        raise InputError(
            f"got kind={kind} and label={label} for an {VAE}; expected neither: leave them out, or name "
            f"the folder of a {UNET}"
        )
    assert parts.vae is not None
    return _load_autoencoder(parts.vae, sample_size).eval()


def _choose_scheduler(parts: Parts, folder: Path, kind: str | None) -> Config:
    if kind is not None and kind not in KINDS:
        raise InputError(f"got kind={kind!r}; expected one of {', '.join(KINDS)}")
    if parts.scheduler is None:
        if kind is None:
            raise InputError(
                f"{folder} holds a {UNET} without {SCHEDULER}, which names the kind of model; expected "
                "a flow or a consistency model: write kind='flow' or kind='consistency', or the folder of "
                "the whole pipeline"
            )
        return complete_scheduler(KINDS[kind], {})
    found = parts.scheduler["_class_name"]
    if kind is not None and (found in FLOW_SCHEDULERS) != (kind == "flow"):
        raise InputError(
            f"got kind={kind!r} for a model with {found}; expected the kind of that scheduler: leave kind out"
        )
    return parts.scheduler
