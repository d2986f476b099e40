"""The audit: original, unlearned, retrained and exact target side by side, by an independent judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from unflow.data import LabelledData
from unflow.disk.bundle import versions
from unflow.disk.card import audited_row
from unflow.evidence.auditing.attacked import Attacks, attack
from unflow.evidence.auditing.evidence import Entry, Evidence, draw_samples, target_samples
from unflow.evidence.auditing.family import REFERENCES, audit_family
from unflow.evidence.auditing.guards import guards
from unflow.evidence.auditing.judges import judge_record, same_judge
from unflow.evidence.auditing.notes import find_notes
from unflow.evidence.auditing.resolution import differences, samples_needed
from unflow.evidence.auditing.series import series, write_series
from unflow.evidence.auditing.verdict import Verdict, verdict, verdicts
from unflow.ground.errors import InputError, choose
from unflow.ground.files import write_json
from unflow.ground.streams import Stream, stream
from unflow.models import GenerativeModel
from unflow.models.classifier import Classifier
from unflow.target import Target

SCHEMA = 1
MIN_SAMPLES = 100


@dataclass(frozen=True)
class Audit:
    """The content of audit.json (schema 1)."""

    judge: dict[str, Any]
    floor: dict[str, dict[str, float | None]]
    rows: list[dict[str, Any]]
    request: dict[str, Any]
    class_names: list[str]
    notes: list[str]
    second_judge: dict[str, Any] | None = None
    attacks: dict[str, Any] | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return plain data."""
        plain = {
            "schema": SCHEMA,
            "judge": self.judge,
            "second_judge": self.second_judge,
            "floor": self.floor,
            "rows": self.rows,
            "request": self.request,
            "class_names": self.class_names,
            "differences": differences(self.rows),
            "notes": self.notes,
            "attacks": self.attacks,
            "versions": versions(),
        }
        return plain | {"guards": guards(plain), "verdicts": verdicts(plain)}

    def verdict(self, method: str | None = None) -> Verdict:
        """Return three sentences about a row: forgotten or not, at what cost, and what could undo it.

        Args:
            method: of the row; None: the first that is no reference.

        Raises:
            InputError: for a method that was not audited.
        """
        plain = self.as_dict()
        judged = {row["method"]: row for row in self.rows if row["method"] not in REFERENCES}
        row = audited_row(plain) if method is None else choose(judged, method, "row")
        return verdict(plain, row["method"], row["family"])

    def write(self, path: Path) -> Path:
        """Write audit.json; NaN is refused."""
        write_json(path, self.as_dict())
        return path


def audit(
    model: GenerativeModel,
    *,
    original: GenerativeModel,
    judge: Classifier,
    forget: Sequence[int],
    held_out: LabelledData,
    training: LabelledData,
    target: Target | None = None,
    retrained: GenerativeModel | None = None,
    guide: Classifier | None = None,
    second_judge: Classifier | None = None,
    judge_data: str | None = None,
    second_judge_data: str | None = None,
    guide_data: str | None = None,
    method: str = "unlearned",
    n: int | None = None,
    resolve: float = 0.005,
    seed: int = 0,
    repeats: int = 50,
    attacks: Attacks | None = None,
    strengths: Mapping[float, GenerativeModel] | None = None,
    data_used: Sequence[str] = (),
    cost: Mapping[str, float | int | None] | None = None,
    out: str | Path | None = None,
) -> Audit:
    """Compare a model with the original, and with the exact target and a retrained model if given.

    Args:
        model: after unlearning.
        original: before; shares its latents with ``model``.
        judge: an independent classifier.
        forget: forgotten classes.
        held_out: real labelled samples for statistics.
        training: real samples that the models were trained on (for off_data).
        target: the request, for exact samples of q* by rejection.
        retrained: trained without the forgotten classes.
        guide: the classifier behind the energy, for the record of independence.
        second_judge: another, so that no verdict hangs on the first one's errors.
        judge_data: hash of the judge's training samples, if known.
        second_judge_data: hash of the second judge's.
        guide_data: hash of the guide's.
        method: name of the row.
        n: samples per row; None: as many as tell forget rates apart that differ by ``resolve``.
        resolve: a difference of shares, in (0, 1); 0.005 is half a point.
        seed: of latents and rejection.
        repeats: resamples behind the interval of each distance, which is then known to a tenth; 0: none.
        attacks: on the model, the original and the retrained one; None: none.
        strengths: models of the same request at other strengths, for the report's slider.
        data_used: what unlearning has seen, for the record.
        cost: of unlearning, by the names in ``costs``.
        out: folder for audit.json and samples/; None writes nothing.

    Raises:
        InputError: before anything is written, for unknown classes, n under 100, a difference out of range,
            real samples of another shape than the model's, and a second judge that is the first.
    """
    if (model.family, model.prior_shape) != (original.family, original.prior_shape):
        raise InputError(
            f"got a {model.family} with latents {list(model.prior_shape)} to audit against a "
            f"{original.family} with latents {list(original.prior_shape)}; expected the model that it was "
            "made from as original"
        )
    if n is not None and n < MIN_SAMPLES:
        raise InputError(f"got n={n} samples to audit; expected {MIN_SAMPLES} or more")
    _check_shapes(model, held_out, training)
    if second_judge is not None and same_judge(judge, second_judge, held_out.x):
        raise InputError(
            "got a second judge with the weights of the first; expected one that was trained apart: name "
            "another, or leave it out"
        )
    energy = target.energy if target else None
    evidence = Evidence(judge, forget, held_out, training, energy, second=second_judge, repeats=repeats)
    n = n or samples_needed(model, judge, forget, resolve, seed)
    z = original.prior(n, stream(seed, Stream.LATENTS))
    entries = [
        Entry("original", draw_samples(original, z), seed),
        Entry(
            method,
            draw_samples(model, z),
            seed,
            original_recoverable=model.original_recoverable,
            data_used=data_used,
            cost=dict(cost or {}),
        ),
    ]
    second = None
    if target is not None:
        first, second = (target_samples(target, n, seed, k) for k in (0, 1))
        entries.append(Entry("target", first, seed))
    if retrained is not None:
        entries.append(Entry("retrained", draw_samples(retrained, z), seed))
    folder = None if out is None else Path(out)
    floor, rows = audit_family(
        original.family, evidence, entries, second, folder / "samples" if folder else None
    )
    judges = [
        judge_record(
            one,
            guide,
            held_out,
            name=type(one.net).__name__,
            judge_data=data,
            guide_data=guide_data,
            forget=forget,
        )
        for one, data in ((judge, judge_data), (second_judge, second_judge_data))
        if one is not None
    ]
    attacked = {"original": original, method: model}
    if retrained is not None:
        attacked["retrained"] = retrained
    words = {"forget": list(forget), "words": describe(target, forget)}
    result = Audit(
        judges[0],
        {original.family: floor},
        rows,
        words,
        judge.class_names,
        find_notes(rows, *judges),
        judges[1] if len(judges) > 1 else None,
    )
    if folder is not None and strengths:
        at = {0.0: original, **strengths}
        write_series(series(at, entries[0].samples, evidence), original.family, folder / "samples")
    if folder is not None:
        result.write(folder / "audit.json")
    if attacks is None:
        return result
    result = replace(result, attacks=attack(attacked, evidence, attacks, seed))
    if folder is not None:  # once more: the attacks take longest, and what is measured must outlive them
        result.write(folder / "audit.json")
    return result


def describe(target: Target | None, forget: Sequence[int]) -> str:
    """Return the request in words."""
    return target.energy.describe() if target else f"class {' or '.join(map(str, forget))}"


def _check_shapes(model: GenerativeModel, *real: LabelledData) -> None:
    """Raise InputError unless real samples have the shape of what a model draws."""
    for data in real:
        if data.x.shape[1:] != model.sample_shape:
            raise InputError(
                f"got real samples {list(data.x.shape[1:])} ({data.name}) for a model that draws "
                f"{list(model.sample_shape)}; expected one shape: name the data that it was trained on"
            )
