"""load_diffusers: a folder of diffusers as a model that can be unlearned."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from unflow.disk.diffusers.autoencoder import VAE, KLAutoencoder
from unflow.disk.diffusers.consistency import CONSISTENCY_SCHEDULER, ConsistencyUNet
from unflow.disk.diffusers.folders import SCHEDULER, Parts, parts_of, read_module, scheduler_config
from unflow.disk.diffusers.package import Config
from unflow.disk.diffusers.unet import UNET, sample_shape, shrinkage
from unflow.disk.diffusers.velocity import FLOW_SCHEDULERS, FlowUNet
from unflow.ground.errors import InputError
from unflow.models import Flow, GenerativeModel, Generator, Latent
from unflow.models.autoencoder import Autoencoder

KINDS = {"flow": FLOW_SCHEDULERS[0], "consistency": CONSISTENCY_SCHEDULER}
"""What a UNet2DModel may have been trained as -> the scheduler that says so."""


def load_diffusers(
    folder: str | Path,
    *,
    kind: Literal["flow", "consistency"] | None = None,
    label: int | None = None,
    sample_size: int | Sequence[int] | None = None,
) -> GenerativeModel | Autoencoder:
    """Return the model in a local folder that ``save_pretrained`` of diffusers wrote, in evaluation mode.

    A UNet2DModel with a flow-matching scheduler is a ``Flow`` (its ``steps`` and ``integrator`` may be set),
    with that of a consistency model a one-step ``Generator``; an AutoencoderKL is an ``Autoencoder``; a
    pipeline of both is a ``Latent``. Samples are in the range that was trained on: in diffusers, [-1, 1].

    Args:
        folder: of a pipeline (model_index.json), or of one network (config.json).
        kind: what the UNet2DModel was trained as, for a folder without scheduler; it then has the defaults.
        label: the class to draw, for a network of classes.
        sample_size: height and width of what the U-Net draws (of images, for an AutoencoderKL alone), or one
            number for both; None: as config.json says.

    Raises:
        InputError: for a folder that holds something else, lacks safetensors, or does not say what was
            trained; for a label that does not fit; if diffusers is not installed.
    """
    parts = parts_of(Path(folder))
    if parts.unet is None:
        return _lone_autoencoder(parts, kind, label, sample_size)
    scheduler = _scheduler(parts, Path(folder), kind)
    model = _model(parts.unet, scheduler, label, parts.pipeline, sample_size)
    if parts.vae is None:
        return model.eval()
    return Latent(model, _autoencoder(parts.vae, latent_sides=model.sample_shape[1:])).eval()


def _model(
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


def _autoencoder(
    folder: Path, sample_size: int | Sequence[int] | None = None, latent_sides: Sequence[int] | None = None
) -> Autoencoder:
    vae, weights = read_module(VAE, folder)
    if latent_sides is not None:
        # config.json may name the size that it was trained at, which need not be that of the pipeline.
        factor = shrinkage(vae["block_out_channels"])
        sample_size = [side * factor for side in latent_sides]
    net = KLAutoencoder(vae, sample_size)
    net.vae.load_state_dict(weights)
    return Autoencoder(net)


def _lone_autoencoder(
    parts: Parts, kind: str | None, label: int | None, sample_size: int | Sequence[int] | None
) -> Autoencoder:
    if kind is not None or label is not None:
        raise InputError(
            f"got kind={kind} and label={label} for an {VAE}; expected neither: leave them out, or name "
            f"the folder of a {UNET}"
        )
    assert parts.vae is not None
    return _autoencoder(parts.vae, sample_size).eval()


def _scheduler(parts: Parts, folder: Path, kind: str | None) -> Config:
    if kind is not None and kind not in KINDS:
        raise InputError(f"got kind={kind!r}; expected one of {', '.join(KINDS)}")
    if parts.scheduler is None:
        if kind is None:
            raise InputError(
                f"{folder} holds a {UNET} without {SCHEDULER}, which does not say what was trained; expected "
                "a flow or a consistency model: write kind='flow' or kind='consistency', or the folder of "
                "the whole pipeline"
            )
        return scheduler_config(KINDS[kind], {})
    found = parts.scheduler["_class_name"]
    if kind is not None and (found in FLOW_SCHEDULERS) != (kind == "flow"):
        raise InputError(
            f"got kind={kind!r} for a model with {found}; expected what that says: leave kind out"
        )
    return parts.scheduler
