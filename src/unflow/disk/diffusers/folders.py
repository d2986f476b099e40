"""The parts of a folder of diffusers, found from its configuration files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from unflow.disk.diffusers.autoencoder import VAE
from unflow.disk.diffusers.consistency import CONSISTENCY_SCHEDULER
from unflow.disk.diffusers.package import Config, import_diffusers, select_architecture
from unflow.disk.diffusers.unet import UNET
from unflow.disk.diffusers.velocity import FLOW_SCHEDULERS
from unflow.ground.errors import InputError
from unflow.ground.files import read_json
from unflow.nets import initial_weights

INDEX, CONFIG, SCHEDULER = "model_index.json", "config.json", "scheduler_config.json"
WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.safetensors.index.json")
SCHEDULERS = (*FLOW_SCHEDULERS, CONSISTENCY_SCHEDULER)
EXPECTED = (
    f"expected a {UNET} with {FLOW_SCHEDULERS[0]} (a flow) or {CONSISTENCY_SCHEDULER} (a consistency "
    f"model), an {VAE}, or both"
)


@dataclass(frozen=True)
class Parts:
    """The parts of a model of diffusers.

    Attributes:
        unet: the folder of the UNet2DModel, or None.
        vae: the folder of the AutoencoderKL, or None.
        scheduler: the scheduler's configuration, or None.
        pipeline: model_index.json; None for the folder of one network.
    """

    unet: Path | None = None
    vae: Path | None = None
    scheduler: Config | None = None
    pipeline: Config | None = None


def find_parts(folder: Path) -> Parts:
    """Return the parts in a folder that ``save_pretrained`` of a pipeline or of one network wrote.

    Raises:
        InputError: for another folder, with its content.
    """
    if (folder / INDEX).is_file():
        return _find_pipeline_parts(folder, read_config(folder / INDEX))
    if not (folder / CONFIG).is_file():
        found = ", ".join(sorted(file.name for file in folder.iterdir())) if folder.is_dir() else "nothing"
        raise InputError(
            f"got the folder {folder} (found: {found or 'no file'}); expected {INDEX} or {CONFIG} in it, as "
            "save_pretrained of diffusers writes them"
        )
    name = read_config(folder / CONFIG).get("_class_name")
    if name == VAE:
        return Parts(vae=folder)
    if name != UNET:
        raise InputError(f"{folder} holds a {name or f'{CONFIG} without _class_name'}; {EXPECTED}")
    return Parts(unet=folder, scheduler=_read_scheduler(folder) if (folder / SCHEDULER).is_file() else None)


def list_parts(pipeline: Config) -> dict[str, str]:
    """Return name -> class of every part in a model_index.json that is not null.

    Raises:
        InputError: for a part outside the pipeline's folder.
    """
    parts = {name: value for name, value in pipeline.items() if isinstance(value, list) and len(value) == 2}
    outside = [name for name in parts if name in ("", "..") or Path(name).name != name]
    if outside:
        raise InputError(f"got the part {outside[0]!r} in {INDEX}; expected the plain name of a folder in it")
    return {
        name: str(kind) if library == "diffusers" else f"{library}.{kind}"
        for name, (library, kind) in parts.items()
        if library is not None
    }


def read_config(file: Path) -> Config:
    """Return the content of a JSON file of diffusers.

    Raises:
        InputError: if it is missing or not a JSON object.
    """
    if not file.is_file():
        raise InputError(
            f"{file} is missing; expected the complete folder that save_pretrained wrote: copy it again"
        )
    config = read_json(file)
    if not isinstance(config, dict):
        raise InputError(f"got a {type(config).__name__} in {file}; expected names and values: copy it again")
    return config


def _find_pipeline_parts(folder: Path, pipeline: Config) -> Parts:
    kinds = list_parts(pipeline)
    nets = {kind: folder / name for name, kind in kinds.items() if kind in (UNET, VAE)}
    schedulers = [name for name, kind in kinds.items() if kind in SCHEDULERS]
    if UNET not in nets or len(schedulers) != 1 or len(nets) + 1 != len(kinds):
        found = ", ".join(f"{name}: {kind}" for name, kind in kinds.items())
        raise InputError(
            f"{folder} holds a {pipeline.get('_class_name')} ({found or 'no parts'}); {EXPECTED}"
        )
    return Parts(nets[UNET], nets.get(VAE), _read_scheduler(folder / schedulers[0]), pipeline)


def _read_scheduler(folder: Path) -> Config:
    """Return the scheduler's complete configuration; entries missing in older files get their defaults."""
    config = read_config(folder / SCHEDULER)
    name = config.get("_class_name")
    if name not in SCHEDULERS:
        raise InputError(f"{folder} holds a {name}; {EXPECTED}")
    return complete_scheduler(name, select_architecture(config)) | config


def complete_scheduler(name: str, options: Config) -> Config:
    """Return the complete configuration of a scheduler as plain data."""
    scheduler = getattr(import_diffusers(), name).from_config(options)
    return {"_class_name": name, **select_architecture(scheduler.config)}


def read_module(name: str, folder: Path) -> tuple[Config, dict[str, Tensor]]:
    """Return the options and the weights of one network.

    Args:
        name: the name of its class.
        folder: a folder of config.json and safetensors.

    Raises:
        InputError: for weights that are missing, damaged, of another architecture, or not in safetensors.
    """
    _check_weights(folder, name)
    kind: Any = getattr(import_diffusers(), name)
    try:
        with initial_weights(0):
            module, info = kind.from_pretrained(
                folder,
                use_safetensors=True,
                local_files_only=True,
                low_cpu_mem_usage=False,
                output_loading_info=True,
            )
    except (OSError, ValueError, RuntimeError, TypeError, ImportError, SafetensorError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"{folder} holds no complete {name} ({reason}); expected the files that save_pretrained wrote: "
            "copy them again"
        ) from error
    differing = [*info["missing_keys"], *info["unexpected_keys"], *info["mismatched_keys"]]
    if differing:
        raise InputError(
            f"the weights in {folder} are of another architecture than its {CONFIG} says (first difference: "
            f"{differing[0]}); expected the files that were written together: copy them again"
        )
    return select_architecture(read_config(folder / CONFIG)), module.state_dict()


def _check_weights(folder: Path, name: str) -> None:
    if any((folder / file).is_file() for file in WEIGHTS):
        return
    found = ", ".join(sorted(file.name for file in folder.iterdir())) if folder.is_dir() else "nothing"
    raise InputError(
        f"{folder} has no {WEIGHTS[0]} (found: {found}); expected safetensors, because unflow reads no "
        f"pickles: write {name}.from_pretrained(FOLDER).save_pretrained(FOLDER) with diffusers"
    )
