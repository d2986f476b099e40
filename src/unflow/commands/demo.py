"""`unflow demo`."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from unflow.commands.arguments import parse_classes
from unflow.commands.run_folders import run_folder
from unflow.ground.errors import InputError
from unflow.ground.files import write_bytes, write_json

if TYPE_CHECKING:  # the help of a command must not wait for torch
    from unflow.evidence.auditing import Audit
    from unflow.evidence.reproduce.demo import Demo


def run(
    out: Path = Path("demo"),
    forget: str = "3",
    seed: int = 0,
    seeds: int = 1,
    margin: float = 4.0,
    strength: float = 1.0,
    divergence: Literal["kl", "softplus", "chi2"] = "kl",
    flow_map: Literal["distill", "mean_flow"] = "distill",
    n: int = 4000,
    full: bool = False,
    device: str = "cpu",
) -> None:
    """Train, forget, audit and report on 1,797 handwritten digits.

    Args:
        out: run folder; the same command continues a run that was stopped.
        forget: digits to forget, like 3 or 3,5.
        seed: of all random numbers.
        seeds: number of runs, with seed, seed+1, ...; for several, one folder each, table.json and table.md.
        margin: of the energy, >= 0.
        strength: lam, >= 0.
        divergence: between the target and the original.
        flow_map: training of the one-step model.
        n: samples per audited row, >= 100.
        full: retrain the one-step model as well.
        device: cpu, cuda or mps.
    """
    if seeds < 1:
        raise InputError(f"got seeds={seeds}; expected 1 or more")
    import torch

    from unflow.evidence.report.terminal import format_mean_table, print_mean_table, summarise
    from unflow.evidence.reproduce.demo import Demo, DemoConfig

    torch.set_num_threads(1)
    configs = [
        DemoConfig(
            forget=parse_classes(forget),
            seed=seed + k,
            margin=margin,
            strength=strength,
            divergence=divergence,
            flow_map=flow_map,
            n=n,
            full=full,
            device=device,
        )
        for k in range(seeds)
    ]
    folders = [out if seeds == 1 else out / f"seed-{config.seed}" for config in configs]
    demos = [Demo(config, folder) for config, folder in zip(configs, folders, strict=True)]
    record: dict[str, Any] = {
        "command": "demo",
        "forget": list(configs[0].forget),
        "seed": seed,
        "margin": margin,
        "strength": strength,
        "divergence": divergence,
        "flow_map": flow_map,
        "n": n,
        "full": full,
    }
    if seeds == 1:
        _run_demo(demos[0], record)
        return
    with run_folder(out, record | {"seeds": seeds}):
        audits = [_run_demo(demo, record | {"seed": demo.config.seed}) for demo in demos]
        summary = summarise([audit.as_dict() for audit in audits])
        write_json(out / "table.json", summary)
        write_bytes(out / "table.md", format_mean_table(summary).encode())
        print_mean_table(summary)
        print(f"table: {out / 'table.json'}, {out / 'table.md'}")


def list_conditional(out: Path) -> list[str]:
    """Return the commands that train a flow and its one-step model which are asked for a digit.

    The demo does not train them, which would double its time.

    Args:
        out: folder of the demo, for its split.
    """
    flow, one_step = (f"{out}-conditional/{name}" for name in ("flow", "flow_map"))
    common = ["--conditional", "true", "--split", f"{out / 'split.json'}"]
    return [
        shlex.join(["unflow", "train", "digits-flow", *common, "--out", flow]),
        shlex.join(["unflow", "train", "digits-flow-map", *common, "--teacher", flow, "--out", one_step]),
    ]


def _run_demo(demo: Demo, record: dict[str, Any]) -> Audit:
    from unflow.evidence.report import write_report
    from unflow.evidence.report.poster import write_poster
    from unflow.evidence.report.terminal import print_audit

    started = time.perf_counter()
    with run_folder(demo.out, record):
        audit = demo.run()
        print_audit(audit.as_dict())
        report = write_report(demo.out)
        print(f"audit:   {demo.out / 'audit.json'}")
        print(f"samples: {demo.out / 'samples'}")
        print(f"picture: {write_poster(demo.out)}")
        print(f"report:  {report}")
        print(f"conditional pair: {' && '.join(list_conditional(demo.out))}")
    print(f"done in {time.perf_counter() - started:.0f} s")
    return audit
