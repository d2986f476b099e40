"""Models of Hugging Face's diffusers, from its folders and back (``pip install 'unflow[diffusers]'``).

What a ``save_pretrained`` wrote becomes a ``Flow``, a ``Generator``, an ``Autoencoder`` or a ``Latent``,
and after unlearning a folder again. Folders are local: nothing is downloaded, and weights are read from
safetensors alone.
"""

from __future__ import annotations

from unflow.disk.diffusers.autoencoder import KLAutoencoder
from unflow.disk.diffusers.consistency import ConsistencyUNet
from unflow.disk.diffusers.loading import load_diffusers
from unflow.disk.diffusers.saving import save_diffusers
from unflow.disk.diffusers.velocity import FlowUNet

__all__ = ["ConsistencyUNet", "FlowUNet", "KLAutoencoder", "load_diffusers", "save_diffusers"]
