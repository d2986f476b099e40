"""The cost of a row: its own training, and the training of the guide behind its energy."""

from __future__ import annotations

from typing import Any

from unflow.models import GenerativeModel


def trained_cost(lineage: dict[str, Any], model: GenerativeModel) -> dict[str, Any]:
    """Return the steps, memory and network evaluations of a trained model."""
    return {name: lineage[name] for name in ("steps", "peak_rss_mb")} | {"nfe": model.num_evaluations}


def guided_cost(
    lineage: dict[str, Any], model: GenerativeModel, guide_seconds: float, seconds_before: float = 0.0
) -> dict[str, Any]:
    """Return a row's cost, with the guide's seconds for a method that uses the energy.

    Args:
        lineage: of the unlearned model.
        model: the unlearned model.
        guide_seconds: seconds of the guide's training.
        seconds_before: of a retrained model's earlier stages, such as its autoencoder.
    """
    seconds, cost = lineage["seconds"], trained_cost(lineage, model)
    if lineage["method"].startswith("retrained"):
        early = lineage.get("seconds_to_5pct")
        return cost | {
            "train_seconds": seconds_before + seconds,
            "retrain_seconds_5pct": None if early is None else seconds_before + early,
        }
    guided = any(source.startswith("guide") for source in lineage["data_used"])
    return cost | {"unlearn_seconds": seconds + (guide_seconds if guided else 0.0)}
