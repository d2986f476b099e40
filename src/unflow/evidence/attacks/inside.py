"""Take off what was put around a model: chains and filters hold the original in one piece."""

from __future__ import annotations

from unflow.models import Chain, Filtered, GenerativeModel, Latent


def models_inside(model: GenerativeModel) -> list[GenerativeModel]:
    """Return the models that whoever has the bundle can take out and use as they are, the nearest first.

    Of a chain, both links that give samples of the same shape; of a filter, what it filters; behind a
    decoder, the same with the decoder. Empty for a model whose own weights were changed.
    """
    if isinstance(model, Latent):
        return [Latent(inner, model.autoencoder) for inner in models_inside(model.inner)]
    if isinstance(model, Filtered):
        return _with_inside([model.model])
    if isinstance(model, Chain):
        links = [link for link in (model.base, model.after) if link.sample_shape == model.sample_shape]
        return _with_inside(links)
    return []


def _with_inside(models: list[GenerativeModel]) -> list[GenerativeModel]:
    return [found for model in models for found in (model, *models_inside(model))]
