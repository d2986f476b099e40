"""`unflow judge`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser

from unflow.commands.arguments import add_run
from unflow.commands.option_groups import DataOptions
from unflow.commands.run_folders import run_folder
from unflow.commands.sight import Findings


def add_arguments(parser: ArgumentParser, arguments: Sequence[str]) -> list[str]:
    """Add the options."""
    add_run(parser, run)
    return list(arguments)


def run(
    rows: DataOptions,
    out: Path,
    guide: Path | None = None,
    steps: int = 600,
    aside: float = 0.2,
    seed: int = 0,
    device: str = "cpu",
) -> None:
    """Train two judges, calibrate them, and measure how reliable they are.

    Args:
        rows: labelled samples; judges are trained on the part judge of the split and measured on held_out.
        out: folder for first/, second/ and judges.json; `unflow audit --judge` takes it.
        guide: bundle of the request's classifier, to measure how often the judges disagree with it.
        steps: training steps of each judge.
        aside: share of the judges' samples that sets their temperature, in (0, 1).
        seed: random seed of the run, >= 0; the judges' own seeds are far from it.
        device: cpu, cuda or mps.
    """
    import torch

    from unflow.data.confusions import describe_confusions
    from unflow.disk import bundle
    from unflow.evidence.auditing.judge_training import FIRST, SECOND, train_judges
    from unflow.ground.streams import check_seed
    from unflow.training.compute import check_device
    from unflow.training.originals.classification import Classification
    from unflow.unlearning.sight import judge_voter

    torch.set_num_threads(1)
    check_seed(seed)
    check_device(device)
    method = Classification(steps=steps, aside=aside)
    seen, held_out = rows.parts("judge", "held_out")
    known = None if guide is None else bundle.load_classifier(guide)
    record = {
        "command": "judge",
        **rows.record(),
        "guide": None if guide is None else str(guide),
        "steps": steps,
        "aside": aside,
        "seed": seed,
    }
    findings = Findings("judge")
    findings.add_parts({"judge": seen, "held_out": held_out})
    if known is not None:
        findings.add_voter(judge_voter(known, who="guide"), held_out.x, held_out, of="the held-out part")
    with run_folder(out, record):
        found = train_judges(seen, held_out, out, method=method, seed=seed, guide=known, device=device)
    for name in (FIRST, SECOND):
        judge = found[name]
        print(
            f"{name}: {judge['name']}, correct on {judge['accuracy']:.2%} of {judge['n_held_out']} held-out "
            f"samples, calibration error {judge['calibration_error']:.2%}"
        )
        trained = bundle.load_classifier(out / name)
        named = [] if known is None else [("guide", known.class_names)]
        voter = judge_voter(trained, who=f"{name} judge")
        findings.add_voter(voter, held_out.x, held_out, named, of="the held-out part")
        if judge["confusions"]:
            print(f"{name}: confuses most {describe_confusions(judge['confusions'], held_out.class_names)}")
        if judge["disagreement_with_guide"] is not None:
            print(f"{name}: disagrees with the guide on {judge['disagreement_with_guide']:.2%}")
    print(f"the judges disagree with each other on {found['disagreement']:.2%}")
    findings.say()
    print(f"judges: {out}")
