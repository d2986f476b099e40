"""`unflow audit MODEL`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser

from unflow.commands.arguments import add_batch_rows, add_run, flag_first_word
from unflow.commands.option_groups import DataOptions, RequestOptions
from unflow.commands.run_folders import run_folder
from unflow.commands.settings import ATTACKS, settings_class
from unflow.commands.sight import Findings
from unflow.ground.errors import InputError, choose
from unflow.ground.values import split_outside, unquote

if TYPE_CHECKING:  # the help of a command must not wait for torch
    from unflow.data import LabelledData
    from unflow.evidence.auditing import Attacks, Audit
    from unflow.models import GenerativeModel
    from unflow.models.classifier import Classifier
    from unflow.target import Target


_SAME = (
    "parent",
    "architecture",
    "family",
    "method",
    "settings",
    "seed",
    "data",
    "teacher",
    "energy",
    "train_only",
    "adapters",
    "precision",
)
"""What bundles that differ in strength alone have in common, beside the words of the request."""


def add_arguments(parser: ArgumentParser, arguments: Sequence[str]) -> list[str]:
    """Add the options; the first word is the model."""
    add_run(parser, run, settings={"attacks": settings_class(ATTACKS)})
    add_batch_rows(parser)
    return flag_first_word("model", arguments)


def run(
    model: str,
    original: str,
    judge: str,
    request: RequestOptions,
    rows: DataOptions,
    out: Path,
    second_judge: str | None = None,
    retrained: str | None = None,
    autoencoder: Path | None = None,
    strengths: str | None = None,
    n: int | None = None,
    resolve: float = 0.5,
    seed: int = 0,
    extractor: str | None = None,
    attack: bool = True,
    ask: bool = True,
    ask_n: int | None = None,
    *,
    attacks: Attacks,
    fail_if: str | None = None,
    card: bool = False,
) -> int:
    """Measure a model against the original, the exact target and a retrained one.

    Args:
        model: bundle after unlearning, or the specification of a third-party model, as for `unflow unlearn`.
        original: bundle before unlearning, or such a specification.
        judge: bundle of a classifier other than the guide, or the folder of `unflow judge`, or
            classifier:PACKAGE.MODULE:FUNCTION@WEIGHTS,...
        second_judge: another judge; it confirms the findings of the latent search.
        request: what was to be forgotten; an energy adds the exact target to the audit.
        rows: the split data; the statistics use the held-out part.
        out: folder for audit.json, samples/ and report.html.
        retrained: bundle of a model trained without the forgotten classes.
        autoencoder: bundle of the autoencoder, for models of latents.
        strengths: bundles of the same request at other strengths, like a,b; they add a slider to the report.
        n: samples per row, >= 100; by default as many as --resolve asks for.
        resolve: difference of two forget rates that the audit resolves, in percentage points, in (0, 100).
        seed: of latents and rejection, >= 0.
        extractor: imagenet for distances in the features of EfficientNet-Lite0 too (extra imagenet; images).
        attack: whether to run the attacks.
        ask: whether to ask a conditional model for each of its labels.
        ask_n: samples of each label, >= 50; by default the questions cost no more than the rest of the audit.
        attacks: settings of the attacks.
        fail_if: conditions on the model's row, like "forget_rate>0.01,pul<95"; exit code 1 if one holds.
        card: whether to write the audit into the model card, README.md of the model's bundle.
    """
    import torch

    from unflow.disk.bundle import check_local
    from unflow.energies import check_classes
    from unflow.evidence.auditing import Gate, Judges, Provenance, RealData, References, audit, list_failures
    from unflow.evidence.auditing.judge_training import judge_folders
    from unflow.evidence.extractors import EXTRACTORS
    from unflow.foreign import guide_behind, guide_of, lineage_of, load_classifier_for, load_whole
    from unflow.ground.streams import check_seed

    torch.set_num_threads(1)
    check_seed(seed)
    extract = None if extractor is None else choose(EXTRACTORS, extractor, "extractor")()
    if card:
        check_local(model)
    if n is not None and n < 100:
        raise InputError(f"got n={n}; expected 100 or more samples per row")
    if not 0 < resolve < 100:
        raise InputError(f"got --resolve {resolve}; expected points of forget rate in (0, 100), like 0.5")
    if request.forget is None:
        request.require_classes("the judge")
    trust_code = request.trust_code
    gates = [Gate.parse(text) for text in fail_if.split(",")] if fail_if is not None else []
    judge, second_judge = judge_folders(judge, second_judge)
    load = partial(load_whole, autoencoder=autoencoder, trust_code=trust_code)
    before = load(original)
    referee = load_classifier_for(before, judge, trust_code)
    second = None if second_judge is None else load_classifier_for(before, second_judge, trust_code)
    request = request.with_numbers(rows, referee.class_names)
    classes = request.require_classes("the judge")
    check_classes(classes, referee.num_classes)
    after = load(model)
    others = (
        models_by_strength(model, [unquote(each) for each in split_outside(strengths)], load)
        if strengths
        else None
    )
    again = None if retrained is None else load(retrained)
    target = None if request.energy is None else request.target(before)
    guide = None if request.energy is None else guide_of(request.energy)
    lineage = lineage_of(model)
    held_out, training = rows.parts("held_out", "train")
    findings = Findings("audit")
    add_classifiers(findings, before, target, referee, classes, held_out, seed)
    findings.add_parts({"held_out": held_out, "train": training})
    record = {
        "command": "audit",
        "model": str(model),
        "original": str(original),
        "judge": str(judge),
        "second_judge": None if second_judge is None else str(second_judge),
        "strengths": strengths,
        "autoencoder": None if autoencoder is None else str(autoencoder),
        "attack": dataclasses.asdict(attacks) if attack else None,
        "retrained": None if retrained is None else str(retrained),
        **request.record(),
        **rows.record(),
        "n": n,
        "resolve": resolve,
        **({} if extractor is None else {"extractor": extractor}),
        "ask": None if ask else "false",
        "ask_n": ask_n,
        "seed": seed,
    }
    judges = Judges(
        judge=referee,
        second_judge=second,
        guide=guide_behind(None if target is None else target.energy),
        judge_data=data_hash(judge),
        second_judge_data=None if second_judge is None else data_hash(second_judge),
        guide_data=None if guide is None else data_hash(guide),
    )
    provenance = Provenance(
        method=str(lineage.get("method", "unlearned")),
        data_used=lineage.get("data_used") or (),
        cost=cost_of(lineage, after, guide),
    )
    with run_folder(out, record):
        result = audit(
            after,
            references=References(original=before, target=target, retrained=again),
            judges=judges,
            real=RealData(held_out=held_out, training=training),
            forget=classes,
            provenance=provenance,
            n=n,
            resolve=resolve / 100,
            seed=seed,
            out=out,
            extractor=extract,
            attacks=attacks if attack else None,
            strengths=others,
            ask=ask,
            ask_n=ask_n,
        )
        findings.say()
        print_result(result, out, (model, trust_code) if card else None)
        failures = list_failures(gates, result.row())
    for failure in failures:
        print(f"failed: {failure}")
    return 1 if failures else 0


def print_result(result: Audit, out: Path, card: tuple[str, bool] | None) -> None:
    """Print the tables and verdict, and write the report, and the model card of (model, trust_code)."""
    from unflow.evidence.report import write_report
    from unflow.evidence.report.card import write_card
    from unflow.evidence.report.terminal import format_guards, print_audit

    print_audit(result.as_dict())
    sentences = [sentence for sentence in result.verdict() if sentence]
    print("\n".join(["", *format_guards(result.as_dict()), "", *sentences, ""]))
    print(f"audit:  {out / 'audit.json'}")
    print(f"report: {write_report(out)}")
    if card is not None:
        model, trust_code = card
        print(f"card:   {write_card(model, result.as_dict(), trust_code)}")


def add_classifiers(
    findings: Findings,
    model: GenerativeModel,
    target: Target | None,
    judge: Classifier,
    classes: Sequence[int],
    held_out: LabelledData,
    seed: int,
) -> None:
    """Add the classes that the guide and the judge give to the original's samples, and what is wrong.

    Raises:
        InputError: as ``unlearning.sight.inspect`` and ``compare_names``.
    """
    from unflow.energies import ConditionEnergy
    from unflow.models.probe import probe_energy, probe_judge, probe_model
    from unflow.unlearning.sight import draw_for_sight, find_guide, judge_voter

    probe_model(model)
    x = draw_for_sight(model, seed)
    if target is not None and not isinstance(target.energy, ConditionEnergy):  # it reads no sample
        probe_energy(target.energy, x)
    probe_judge(judge, x, "the judge")
    guide = None if target is None else find_guide(target.energy)
    if guide is not None:
        findings.add_voter(guide, x, held_out, of="the original")
    named = [] if guide is None or guide.is_score else [(guide.who, guide.names)]
    findings.add_voter(judge_voter(judge, classes), x, held_out, named, of="the original")


def cost_of(lineage: dict[str, Any], model: GenerativeModel, guide: str | None) -> dict[str, Any]:
    """Return what unlearning has cost, the guide included; nothing for a bundle that no request made."""
    from unflow.evidence.auditing.costs import guided_cost
    from unflow.foreign import lineage_of

    if lineage.get("request") is None or "seconds" not in lineage:
        return {}
    seconds = 0.0 if guide is None else float(lineage_of(guide).get("seconds") or 0.0)
    return guided_cost(lineage, model, seconds)


def models_by_strength(
    model: str, folders: Sequence[str], load: Callable[[str], GenerativeModel]
) -> dict[float, GenerativeModel]:
    """Return the audited model and others by the strengths of their requests.

    Raises:
        InputError: for a bundle that no request made, one that differs in more than the strength, or a
            strength twice.
    """
    from unflow.foreign import lineage_of

    asked, found = lineage_of(model), {}
    for folder in (model, *folders):
        lineage = lineage_of(folder)
        _check_but_strength(folder, lineage, model, asked)
        strength = float(lineage["request"]["strength"])
        if strength in found:
            raise InputError(
                f"got --strengths {folder} of strength {strength:g}, which another bundle has; expected each "
                "strength once, that of the audited model among them: leave it out"
            )
        found[strength] = load(folder)
    return found


def _check_but_strength(
    folder: str, lineage: Mapping[str, Any], model: str, asked: Mapping[str, Any]
) -> None:
    """Raise InputError unless a bundle came about as the audited model did, at any strength."""
    if not lineage.get("request"):
        raise InputError(
            f"got --strengths and {folder}, which no request made; expected what `unflow unlearn` wrote"
        )
    ours, theirs = _but_strength(lineage), _but_strength(asked)
    differing = [name for name in ours if ours[name] != theirs[name]]
    if differing:
        raise InputError(
            f"got --strengths {folder}, which has another {' and another '.join(differing)} than {model}; "
            "expected the same request at another --strength"
        )


def _but_strength(lineage: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was asked of which model, by which method and how."""
    request = {name: value for name, value in lineage["request"].items() if name != "strength"}
    return {name: lineage.get(name) for name in _SAME} | {"request": request}


def data_hash(folder: str) -> str | None:
    """Return the hash of what a classifier's bundle was trained on; None if its lineage does not say."""
    from unflow.foreign import lineage_of

    hashes = sorted((lineage_of(folder).get("data") or {}).values())
    return ",".join(hashes) or None
