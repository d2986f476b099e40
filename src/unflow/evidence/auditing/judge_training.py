"""Trains and calibrates two judges with different architectures and seeds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unflow.data import LabelledData
from unflow.data.confusions import list_confusions
from unflow.evidence.auditing.judges import JUDGE_SEED_OFFSET, judge_record
from unflow.evidence.metrics import disagreement
from unflow.ground.errors import InputError
from unflow.ground.files import read_json, write_json
from unflow.ground.locks import locks_output
from unflow.models.classifier import Classifier
from unflow.models.components import SavedModel
from unflow.models.probe import probe_judge
from unflow.training.originals.base_models import train_model
from unflow.training.originals.classification import Classification

RECORD = "judges.json"
FIRST, SECOND = "first", "second"
IMAGES: dict[str, dict[str, Any]] = {
    FIRST: {"net": "convnet", "width": 16},
    SECOND: {"net": "resnet", "width": 16, "depth": 2},
}
POINTS: dict[str, dict[str, Any]] = {
    FIRST: {"net": "mlp", "width": 64, "depth": 2},
    SECOND: {"net": "mlp", "width": 128, "depth": 3},
}
"""Networks of both judges for samples that are no images."""


@locks_output
def train_judges(
    data: LabelledData,
    held_out: LabelledData,
    out: str | Path,
    *,
    method: Classification,
    part: str = "judge",
    seed: int = 0,
    guide: Classifier | None = None,
    device: str = "cpu",
) -> dict[str, Any]:
    """Train and calibrate two judges into a folder, and record their accuracy and independence.

    Args:
        data: labelled samples on which no generator and no guide was trained.
        held_out: other labelled samples, for accuracy and calibration.
        out: folder for ``first/``, ``second/`` and judges.json; a finished judge in it is loaded.
        method: training settings; its share ``aside`` of the samples sets the temperature.
        part: name of the split's part in ``data``, for the record.
        seed: of the run; the judges' seeds are ``JUDGE_SEED_OFFSET`` and twice that above it.
        guide: the classifier behind the request, to measure disagreement with it; None if unknown.
        device: cpu, cuda or mps.
    """
    out = Path(out)
    nets = IMAGES if data.x.ndim == 4 else POINTS
    probe_judge(guide, held_out.x, "the guide")
    judges = {
        name: _judge(
            train_model(
                "classifier",
                net,
                method,
                data,
                out / name,
                seed=seed + (k + 1) * JUDGE_SEED_OFFSET,
                part=part,
                device=device,
                label=f"{name} judge",
            )
        )
        for k, (name, net) in enumerate(nets.items())
    }
    first, second = (judge.probabilities(held_out.x).argmax(1) for judge in judges.values())
    record: dict[str, Any] = {
        name: _record(judge, guide, held_out, nets[name]["net"], data) for name, judge in judges.items()
    }
    record["disagreement"] = disagreement(first, second)
    for name, judged in ((FIRST, first), (SECOND, second)):
        record[name] |= {"confusions": list_confusions(judged, held_out)}
    write_json(out / RECORD, record)
    return record


def _judge(model: SavedModel) -> Classifier:
    assert isinstance(model, Classifier)
    return model


def _record(
    judge: Classifier, guide: Classifier | None, held_out: LabelledData, name: str, data: LabelledData
) -> dict[str, Any]:
    return judge_record(judge, guide, held_out, name=name, judge_data=data.fingerprint, guide_data=None)


def judge_folders(folder: str, second: str | None) -> tuple[str, str | None]:
    """Return the folders of the first and the second judge.

    Args:
        folder: bundle of one judge, or a folder that ``train_judges`` wrote.
        second: bundle of a second judge; None without one.

    Raises:
        InputError: for a folder of two judges together with ``second``.
    """
    if not (Path(folder) / RECORD).is_file():
        return folder, second
    if second is not None:
        raise InputError(
            f"got {folder}, which holds two judges, and --second-judge {second}; expected one or the other"
        )
    read: Mapping[str, Any] = read_json(Path(folder) / RECORD)
    assert {FIRST, SECOND} <= read.keys()
    return str(Path(folder) / FIRST), str(Path(folder) / SECOND)
