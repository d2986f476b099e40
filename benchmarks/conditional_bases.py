"""Conditional models of digits, label by label: base models, models retrained without 3, a withdrawn label.

    python benchmarks/conditional_bases.py [--seed 0] [--rows flow mean_flow ...]

Base models are trained by the recipes of `unflow train` with their default steps: `digits-flow`,
`digits-mean-flow` and `digits-flow-map`, with `--conditional true` and the guidance in the name of the row.
The last two rows unlearn the flow by the default method: it forgets 3 and 5, then 5 is withdrawn. Guide and
judge are those of ``conditional_digits``. Every share is of 500 samples of a label, of 2,000 for null.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch
from conditional_digits import FORGET, K, share, train_classifier

import unflow as uf
from unflow.data import LabelledData, load_data, split_data
from unflow.energies import ClassLogOdds
from unflow.energies.unread import Unread
from unflow.ground.streams import stream
from unflow.methods import UNLEARNERS, Distill, FlowMatching, MeanFlow
from unflow.models import Conditional
from unflow.models.classifier import Classifier
from unflow.training.method import Method
from unflow.training.originals.base_models import train_model
from unflow.unlearning.problems import select_real_samples

NET = {"net": "mlp", "depth": 4}
"""The network of the recipes."""
BASES: dict[str, Method] = {
    "flow": FlowMatching(),
    "mean_flow": MeanFlow(),
    "mean_flow, guidance 2": MeanFlow(guidance=2.0),
    "distill": Distill(),
    "distill, guidance 2": Distill(guidance=2.0),
}
RETRAINED = ("retrained", "retrained_mixture")
REQUESTS = {"forgot 3 and 5": (FORGET, 5), "5 withdrawn": (FORGET,)}


def train_base(name: str, data: LabelledData, seed: int, teacher: Conditional | None) -> Conditional:
    """Train one row of ``BASES`` as `unflow train` does."""
    method = BASES[name]
    kind = "flow" if name == "flow" else "flow_map"
    given = teacher if isinstance(method, Distill) else None
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "model"
        model = train_model(kind, NET, method, data, out, seed=seed, teacher=given, conditional=True)
    assert isinstance(model, Conditional)
    return model.eval()


def retrain(name: str, flow: Conditional, data: LabelledData, seed: int) -> Conditional:
    """Retrain a flow without the forgotten class."""
    target, method = uf.Target(flow, Unread(f"class {FORGET}")), UNLEARNERS[name]
    samples = select_real_samples(method, target, (FORGET,), data)
    model = uf.unlearn(target, method, seed=seed, data=samples, self_measure=0).model
    assert isinstance(model, Conditional)
    return model.eval()


def forget(classes: tuple[int, ...], flow: Conditional, data: LabelledData, seed: int) -> Conditional:
    """Unlearn classes of the flow by the default method."""
    guide = train_classifier(data, {"net": "mlp", "width": 128, "depth": 2, "num_times": 0}, seed + 1)
    model = uf.unlearn(uf.Target(flow, ClassLogOdds(guide, classes, 4.0)), seed=seed, self_measure=0).model
    assert isinstance(model, Conditional)
    return model.eval()


@torch.no_grad()
def describe(model: Conditional, judge: Classifier, forgotten: tuple[int, ...] = (FORGET,)) -> str:
    """Return the cells of one row: asked for 3, the null label, and the share of each label's own class."""
    scales = (1.0, 2.0, 4.0) if model.family == "flow" else (1.0,)
    asked = [share(judge, model.sample(500, stream(7), label=FORGET, guidance=g), FORGET) for g in scales]
    null = share(judge, model.sample(2000, stream(8), label="null"), FORGET)
    own = [share(judge, model.sample(500, stream(9), label=k), k) for k in range(K)]
    drawn = judge(model.sample(500, stream(7), label=FORGET)).argmax(1).bincount(minlength=K)
    others = [value for k, value in enumerate(own) if k not in forgotten]
    return " | ".join(
        [
            " / ".join(f"{value:.1f}" for value in asked),
            " ".join(f"{100 * int(n) / 500:.0f}" for n in drawn),
            f"{null:.1f}",
            f"{sum(others) / len(others):.1f}",
            " ".join(f"{value:.0f}" for value in own),
        ]
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rows", nargs="+", default=[*BASES, *RETRAINED, *REQUESTS])
    given = parser.parse_args()
    torch.set_num_threads(1)
    data = load_data("digits")
    split = split_data(data, seed=given.seed)
    train, judging = split.of(data, "train"), split.of(data, "judge")
    judge = train_classifier(judging, {"net": "convnet"}, given.seed + 2)
    flow = train_base("flow", train, given.seed, None)
    print(
        "| row | asked for 3: 3 | asked for 3: 0 to 9 | null label: 3 | others: own | own, 0 to 9 | seconds |"
    )
    print("|---|---|---|---|---|---|---|")
    for name in given.rows:
        start = time.monotonic()
        if name in RETRAINED:
            model = retrain(name, flow, train, given.seed)
        elif name in REQUESTS:
            model = forget(REQUESTS[name], flow, train, given.seed)
        else:
            model = train_base(name, train, given.seed, flow)
        seconds = time.monotonic() - start
        print(
            f"| {name} | {describe(model, judge, REQUESTS.get(name, (FORGET,)))} | {seconds:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
