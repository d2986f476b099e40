"""Models of Hugging Face's diffusers, from and to its folders (``pip install 'unflow[diffusers]'``).

A folder written by ``save_pretrained`` becomes a ``Flow``, a ``Generator``, an ``Autoencoder`` or a
``Latent``; an unlearned model becomes such a folder again. Nothing is downloaded, and weights are read from
safetensors only.
"""

from __future__ import annotations

from unflow.disk.diffusers.autoencoder import KLAutoencoder
from unflow.disk.diffusers.consistency import ConsistencyUNet
from unflow.disk.diffusers.loading import load_diffusers
from unflow.disk.diffusers.saving import save_diffusers
from unflow.disk.diffusers.velocity import FlowUNet

__all__ = ["ConsistencyUNet", "FlowUNet", "KLAutoencoder", "load_diffusers", "save_diffusers"]
