"""Metrics of variants of a method on a finished demo run, with the same target, judge and latents.

    unflow demo --out demo
    python benchmarks/variants.py demo erfm_resample "" "thin=false" "place=prior,thin=false"
    python benchmarks/variants.py demo uot_tilted "" "tau=0" "tau=1" "tau=10" "source=relaxed"
    python benchmarks/variants.py demo fine_tune "" "learning_rate=1.0e-4" --model flow_map
    python benchmarks/variants.py demo latent_transport "" "coupling=flow_redraw" --model gan

Each variant is a comma-separated list of changed hyper-parameters; "" is the default configuration.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import torch
import yaml

import unflow as uf
from unflow.evidence.auditing import AuditRow, Entry, Evidence, FamilyAudit, draw_samples, target_samples
from unflow.methods import UNLEARNERS
from unflow.training.method import Method
from unflow.training.originals.base_models import load_rows
from unflow.unlearning.problems import make_problem, select_real_samples

COLUMNS = (
    "forget_rate",
    "pul",
    "fid_target",
    "fid_retain",
    "c2st_target",
    "retained_share_tv",
    "stayed_share",
    "coverage",
)


def change_settings(method: Method, text: str) -> Method:
    """Return a method with "name=value,..." applied; values are YAML."""
    pairs = (item.split("=", 1) for item in text.split(",") if item)
    return dataclasses.replace(method, **{name: yaml.safe_load(value) for name, value in pairs})


def print_row(name: str, row: AuditRow, seconds: str = "–") -> None:
    """Print one row of the table."""
    numbers = (row.number(c) for c in COLUMNS)
    cells = " | ".join("–" if number is None else f"{number:.3f}" for number in numbers)
    print(f"| {name} | {cells} | {seconds} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("method", choices=sorted(UNLEARNERS))
    parser.add_argument("variants", nargs="*", default=[""])
    parser.add_argument("--model", help="folder within the run; by default the method's first family")
    parser.add_argument("--teacher", action="store_true", help="distil from the run's retrained flow")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    base, config = UNLEARNERS[options.method], yaml.safe_load((options.run / "config.yaml").read_text())
    model = uf.load(options.run / (options.model or min(base.families & {"flow", "flow_map"})))
    teacher = uf.load(options.run / "unlearned" / "flow-retrained") if options.teacher else None
    guide, judge = (uf.load_classifier(options.run / name) for name in ("guide", "judge"))
    energy = uf.energies.ClassLogOdds(guide, config["forget"], config["margin"])
    target = uf.Target(model, energy, config["strength"])
    held_out, train = (
        load_rows("digits", options.run / "split.json", part) for part in ("held_out", "train")
    )
    z = model.prior(config["n"], uf.stream(config["seed"], 99))
    first, second = (target_samples(target, config["n"], config["seed"], k) for k in (0, 1))
    audit = FamilyAudit(
        model.family,
        Evidence(judge, config["forget"], held_out, train, energy),
        draw_samples(model, z),
        (first, second),
        None,
    )
    print("| variant | " + " | ".join(COLUMNS) + " | seconds |")
    print("|---|" + "---|" * (len(COLUMNS) + 1))
    floor = audit.floor()
    print("| floor | " + " | ".join(f"{floor[c]:.3f}" if floor.get(c) else "–" for c in COLUMNS) + " | – |")
    print_row("exact target", audit.row(Entry("target", first)))
    for text in options.variants:
        method = change_settings(base, text)
        real = select_real_samples(method, target, config["forget"], train, teacher=teacher)
        result = uf.fit(method, make_problem(target, real, teacher), seed=options.seed)
        assert isinstance(result.model, uf.GenerativeModel)
        row = audit.row(Entry(options.method, draw_samples(result.model, z)))
        print_row(text or "default", row, f"{result.seconds:.1f}")


if __name__ == "__main__":
    main()
