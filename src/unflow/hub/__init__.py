"""Models of Hugging Face's diffusers, from its folders and back (``pip install 'unflow[diffusers]'``).

What a ``save_pretrained`` wrote becomes a ``Flow``, a ``Generator``, an ``Autoencoder`` or a ``Latent``,
and after unlearning a folder again. Folders are local: nothing is downloaded, and weights are read from
safetensors alone.
"""

from __future__ import annotations

from unflow.hub.autoencoder import KLAutoencoder
from unflow.hub.consistency import ConsistencyUNet
from unflow.hub.loading import load_diffusers
from unflow.hub.saving import save_diffusers
from unflow.hub.velocity import FlowUNet

__all__ = ["ConsistencyUNet", "FlowUNet", "KLAutoencoder", "load_diffusers", "save_diffusers"]
