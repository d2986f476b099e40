"""Assembles an audit: original, unlearned, retrained and exact target, measured by an independent judge."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from unflow.data import LabelledData
from unflow.disk.bundle import collect_versions
from unflow.energies import ConditionEnergy, Energy
from unflow.evidence.auditing.asked import Questions, ask_models, plan_questions
from unflow.evidence.auditing.attacked import Attacks, attack, list_attack_shares
from unflow.evidence.auditing.evidence import Entry, Evidence, Samples, draw_samples, target_samples
from unflow.evidence.auditing.family import audit_family
from unflow.evidence.auditing.guards import guards
from unflow.evidence.auditing.judges import is_same_judge, judge_record
from unflow.evidence.auditing.notes import find_notes
from unflow.evidence.auditing.resolution import differences, samples_needed
from unflow.evidence.auditing.scored import add_scores
from unflow.evidence.auditing.searched import add_searches
from unflow.evidence.auditing.series import series, write_series
from unflow.evidence.auditing.verdict import Verdict, add_answers, verdicts
from unflow.evidence.extractors import Extractor
from unflow.evidence.row import SCHEMA, AuditRow
from unflow.ground.errors import InputError, choose
from unflow.ground.files import write_json
from unflow.ground.locks import locks_output
from unflow.ground.records import gathers
from unflow.ground.streams import Stream, stream
from unflow.models import GenerativeModel
from unflow.models.classifier import Classifier
from unflow.models.probe import probe_judge, probe_model
from unflow.target import Target

MIN_SAMPLES = 100


@dataclass(frozen=True)
class Audit:
    """The content of audit.json (schema 1).

    Attributes:
        judge: record of the judge.
        floor: family -> distances between two sets of exact target samples.
        rows: with their verdicts.
        request: "forget" (classes), "words" (description) and other settings.
        class_names: that the judge knows.
        second_judge: record of the second judge; None without one.
        attacks: results of the attacks; None without attacks.
        questions: what conditional models were asked for, or why they were not; None for other models.
    """

    judge: dict[str, Any]
    floor: Mapping[str, Mapping[str, float | None]]
    rows: list[AuditRow]
    request: dict[str, Any]
    class_names: list[str]
    second_judge: dict[str, Any] | None = None
    attacks: dict[str, Any] | None = None
    questions: Questions | None = None

    @property
    def notes(self) -> list[str]:
        """Findings that should make a reader suspicious."""
        return find_notes(
            self.rows, *(judge for judge in (self.judge, self.second_judge) if judge is not None)
        )

    def as_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "schema": SCHEMA,
            "judge": self.judge,
            "second_judge": self.second_judge,
            "floor": self.floor,
            "rows": [row.as_dict() for row in self.rows],
            "request": self.request,
            "class_names": self.class_names,
            "differences": differences(self.rows),
            "notes": self.notes,
            "attacks": self.attacks,
            "questions": None if self.questions is None else self.questions.as_dict(),
            "versions": collect_versions(),
            "guards": guards(self.rows, self.request, self.judge),
            "verdicts": self._verdicts(),
        }

    def row(self, method: str | None = None) -> AuditRow:
        """Return the row of a method; None: of the first that is no reference.

        Raises:
            InputError: for a method that was not audited.
        """
        judged = {row.method: row for row in self.rows if not row.is_reference}
        return next(iter(judged.values())) if method is None else choose(judged, method, "row")

    def verdict(self, method: str | None = None) -> Verdict:
        """Return sentences about a row: forgotten or not, at what cost, and what could undo it.

        A conditional model has two more: what it draws when it is asked for the forgotten labels, and how
        its neighbours fared.

        Args:
            method: as in ``row``.

        Raises:
            InputError: as ``row``.
        """
        return Verdict(*self._verdicts()[self.row(method).key])

    def _verdicts(self) -> dict[str, list[str]]:
        names = [str(self.class_names[k]) for k in self.request["forget"]]
        found = verdicts(self.rows, self.floor, names, self.attacks, self.second_judge is not None)
        found = add_scores(found, self.rows, self.attacks)
        if self.questions is None:
            return found
        found = add_answers(found, self.rows, self.questions, self.request["forget"], self.class_names)
        return add_searches(found, self.rows, self.attacks)

    def write(self, path: Path) -> Path:
        """Write audit.json; NaN is refused."""
        write_json(path, self.as_dict())
        return path


@dataclass(frozen=True)
class Family:
    """The part of an audit that one model family makes up.

    Attributes:
        name: flow, flow_map or generator.
        entries: rows to be measured, "original" among them.
        second_target: exact target samples that are independent of the entry "target".
        draw_floor: further such sets, for a floor with its spread; None: the floor of one pair.
    """

    name: str
    entries: Sequence[Entry]
    second_target: Samples | None = None
    draw_floor: Callable[[int], Samples] | None = None


def assemble_audit(
    families: Sequence[Family],
    evidence: Evidence,
    judges: Sequence[dict[str, Any]],
    request: dict[str, Any],
    class_names: Sequence[str],
    out: Path | None = None,
    further: Callable[[Entry, AuditRow], Mapping[str, Any]] | None = None,
) -> Audit:
    """Measure every row and return the audit; ``unflow audit``, the demo and the reproduced papers call it.

    Args:
        families: in the order of the audit.
        evidence: what all rows are measured against.
        judges: record of the judge, and of the second judge if there is one.
        request: as in ``Audit``.
        class_names: that the judge knows.
        out: folder for audit.json and samples/; None writes nothing.
        further: what an experiment records of a row beyond an audit's fields.
    """
    floors, rows = {}, []
    for family in families:
        floors[family.name], found = audit_family(
            family.name,
            evidence,
            family.entries,
            family.second_target,
            None if out is None else out / "samples",
            family.draw_floor,
        )
        if further is not None:
            found = [
                replace(row, further=further(entry, row))
                for entry, row in zip(family.entries, found, strict=True)
            ]
        rows += found
    second = judges[1] if len(judges) > 1 else None
    result = Audit(judges[0], floors, rows, request, list(class_names), second)
    if out is not None:
        result.write(out / "audit.json")
    return result


# One model


@dataclass(frozen=True, kw_only=True)
class References:
    """The models and the law that an audited model is compared with.

    Attributes:
        original: before unlearning; shares its latents with the audited model.
        target: the request, for exact samples of q* by rejection; None without an energy.
        retrained: a model trained without the forgotten classes.
    """

    original: GenerativeModel
    target: Target | None = None
    retrained: GenerativeModel | None = None


@dataclass(frozen=True, kw_only=True)
class Judges:
    """The classifiers of an audit, and hashes of the data that each was trained on, where they are known.

    Attributes:
        judge: a classifier that had no part in the request.
        second_judge: another one, so that no verdict depends on the first one's errors.
        guide: the classifier behind the energy, for the record of independence.
        judge_data: hash of the judge's training samples.
        second_judge_data: hash of the second judge's.
        guide_data: hash of the guide's.
    """

    judge: Classifier
    second_judge: Classifier | None = None
    guide: Classifier | None = None
    judge_data: str | None = None
    second_judge_data: str | None = None
    guide_data: str | None = None

    def check(self, held_out: LabelledData) -> None:
        """Raise InputError for a second judge that is the first."""
        if self.second_judge is not None and is_same_judge(self.judge, self.second_judge, held_out.x):
            raise InputError(
                "got a second judge with the weights of the first; expected one that was trained apart: name "
                "another, or leave it out"
            )

    def records(self, held_out: LabelledData, forget: Sequence[int]) -> list[dict[str, Any]]:
        """Return the record of the judge, and of the second judge if there is one."""
        named = ((self.judge, self.judge_data), (self.second_judge, self.second_judge_data))
        return [
            judge_record(
                one,
                self.guide,
                held_out,
                name=type(one.net).__name__,
                judge_data=data,
                guide_data=self.guide_data,
                forget=forget,
            )
            for one, data in named
            if one is not None
        ]


@dataclass(frozen=True, kw_only=True)
class RealData:
    """Real labelled samples of an audit.

    Attributes:
        held_out: for statistics; neither generator, guide nor judge has seen them.
        training: that the generators were trained on, for ``off_data``.
    """

    held_out: LabelledData
    training: LabelledData


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """How the audited model came about.

    Attributes:
        method: name of the row.
        data_used: real data that unlearning has seen.
        cost: of unlearning, by the keys of ``measures.COSTS`` without "cost.".
    """

    method: str = "unlearned"
    data_used: Sequence[str] = ()
    cost: Mapping[str, float | int | None] = field(default_factory=dict)


@gathers(references=References, judges=Judges, real=RealData, provenance=Provenance)
@locks_output
def audit(
    model: GenerativeModel,
    *,
    references: References,
    judges: Judges,
    real: RealData,
    forget: Sequence[int],
    provenance: Provenance = Provenance(),
    n: int | None = None,
    resolve: float = 0.005,
    seed: int = 0,
    repeats: int = 50,
    extractor: Extractor | None = None,
    attacks: Attacks | None = None,
    strengths: Mapping[float, GenerativeModel] | None = None,
    ask: bool = True,
    ask_n: int | None = None,
    out: str | Path | None = None,
) -> Audit:
    """Compare a model with the original, and with the exact target and a retrained model if given.

    The fields of the four records may also be given as keywords: ``audit(model, original=..., judge=...,
    held_out=..., training=..., forget=[3])``.

    Args:
        model: after unlearning.
        references: what it is compared with.
        judges: who judges it.
        real: real samples.
        forget: forgotten classes.
        provenance: how it came about.
        n: samples per row; None: as many as tell forget rates apart that differ by ``resolve``.
        resolve: a difference of shares, in (0, 1); 0.005 is half a point.
        seed: of latents and rejection.
        repeats: resamples behind the interval of each distance, which is then known to a tenth; 0: none.
        extractor: of features that neither guide nor judge has shaped, for two more distances; None: none.
        attacks: on the model, the original and the retrained one; None: none.
        strengths: models of the same request at other strengths, for the report's slider.
        ask: whether to ask conditional models for each of their labels.
        ask_n: samples of each label, >= 50; None: as many as make the question cost no more than a row.
        out: folder for audit.json and samples/; None writes nothing.

    Raises:
        InputError: before anything is written, for unknown classes, n under 100, a difference out of range,
            real samples of another shape than the model's, and a second judge that is the first.
    """
    original, target, judge = references.original, references.target, judges.judge
    _check_original(model, original)
    if n is not None and n < MIN_SAMPLES:
        raise InputError(f"got n={n} samples to audit; expected {MIN_SAMPLES} or more")
    _check_shapes(model, real.held_out, real.training)
    judges.check(real.held_out)
    _probe_networks(model, references, judges, real.held_out.x)
    evidence = Evidence(
        judge,
        forget,
        real.held_out,
        real.training,
        _find_energy(target),
        second=judges.second_judge,
        repeats=repeats,
        second_extractor=extractor,
    )
    if extractor is not None:
        extractor.check(model.sample_shape)
    n = n or samples_needed(model, judge, forget, resolve, seed)
    questions = plan_questions(original, model, evidence, n, ask=ask, n=ask_n)
    family = _draw_family(model, references, provenance, n, seed)
    folder = None if out is None else Path(out)
    if folder is not None and strengths:
        at = series({0.0: original, **strengths}, family.entries[0].samples, evidence)
        write_series(at, original.family, folder / "samples")
    request = {"forget": list(forget), "words": describe(target, forget)}
    records = judges.records(real.held_out, forget)
    result = assemble_audit([family], evidence, records, request, judge.class_names, folder)
    models = {"original": original, provenance.method: model}
    if references.retrained is not None:
        models["retrained"] = references.retrained
    if questions is not None:
        result = _add_answers(result, questions, models, target, evidence, seed, folder)
    if attacks is None:
        return result
    mismatch = result.questions.obstacle if result.questions is not None and ask else None
    found = attack(models, evidence, attacks, seed, target, mismatch)
    rows = [replace(row, attacked=list_attack_shares(found, row.method)) for row in result.rows]
    result = replace(result, attacks=found, rows=rows)
    if folder is not None:  # again: attacks take longest, and a kill during them must not lose the measures
        result.write(folder / "audit.json")
    return result


def _find_energy(target: Target | None) -> Energy | None:
    """Return the energy of a request that reads samples."""
    return None if target is None or isinstance(target.energy, ConditionEnergy) else target.energy


def _add_answers(
    result: Audit,
    questions: Questions,
    models: Mapping[str, GenerativeModel],
    target: Target | None,
    evidence: Evidence,
    seed: int,
    folder: Path | None,
) -> Audit:
    """Return an audit whose rows have the answers of conditional models."""
    records: dict[str, dict[str, Any]] = {}
    if questions.obstacle is None:
        samples = None if folder is None else folder / "samples"
        questions, records = ask_models(questions, models, target, evidence, seed, samples)
    rows = [replace(row, asked=records.get(row.method)) for row in result.rows]
    result = replace(result, rows=rows, questions=questions)
    if folder is not None:
        result.write(folder / "audit.json")
    return result


def _probe_networks(model: GenerativeModel, references: References, judges: Judges, x: Tensor) -> None:
    """Raise InputError for a model or classifier of an audit that misbehaves on a few samples."""
    for each in (references.original, model, references.retrained):
        if each is not None:
            probe_model(each)
    for name in ("judge", "second_judge", "guide"):
        probe_judge(getattr(judges, name), x, f"the {name.replace('_', ' ')}")


def _draw_family(
    model: GenerativeModel, references: References, provenance: Provenance, n: int, seed: int
) -> Family:
    """Return the rows of one model and its references; original and model are drawn from the same latents."""
    original, target, retrained = references.original, references.target, references.retrained
    z = original.prior(n, stream(seed, Stream.LATENTS))
    entries = [
        Entry("original", draw_samples(original, z), seed),
        Entry(
            provenance.method,
            draw_samples(model, z),
            seed,
            original_recoverable=model.original_recoverable,
            data_used=provenance.data_used,
            cost=dict(provenance.cost),
        ),
    ]
    second = None
    if target is not None:
        first, second = (target_samples(target, n, seed, k) for k in (0, 1))
        entries.append(Entry("target", first, seed))
    if retrained is not None:
        own = original.prior(n, stream(seed, Stream.RETRAINED, 0))  # independent of the rows beside it
        entries.append(Entry("retrained", draw_samples(retrained, own), seed))
    return Family(original.family, entries, second)


def _check_original(model: GenerativeModel, original: GenerativeModel) -> None:
    """Raise InputError unless a model could have been made from an original."""
    if (model.family, model.prior_shape) != (original.family, original.prior_shape):
        raise InputError(
            f"got a {model.family} with latents {list(model.prior_shape)} to audit against a "
            f"{original.family} with latents {list(original.prior_shape)}; expected the model that it was "
            "made from as original"
        )


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
