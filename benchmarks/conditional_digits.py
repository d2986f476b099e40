"""Conditional digits, asked for the forgotten 3: shares by an independent judge, before and after.

    python benchmarks/conditional_digits.py [--seed 0] [--replace retained] [--methods erfm_resample ...]

The flow is a class-conditional MLP with a null label, the one-step model a class-conditional map that is
regressed on the flow's samples at the same noise. The guide is trained on the same part of scikit-learn's
digits as the flow, the judge on another part. Every share is of 500 samples, of 2,000 for the null label.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace

import torch

import unflow as uf
from unflow.data import LabelledData, load_data, split_data
from unflow.energies import ClassLogOdds
from unflow.ground.streams import stream
from unflow.methods import UNLEARNERS
from unflow.models import Conditional, Flow, FlowMap, GenerativeModel
from unflow.models.classifier import Classifier
from unflow.nets import AdaptedAverageVelocity, AdaptedVelocity, new_net
from unflow.training.loop import fit
from unflow.training.losses import OutputLoss
from unflow.training.method import Problem
from unflow.training.originals import Classification, FlowMatching

K, FORGET, SHAPE = 10, 3, (1, 8, 8)
NET = {"net": "mlp", "shape": [1, 8, 8], "width": 256, "depth": 4, "num_classes": K}
ROWS = ("erfm_resample_prior", "erfm_resample", "latent_transport", "uot_tilted")
METHODS = {
    **UNLEARNERS,
    "esd_faster": replace(UNLEARNERS["esd"], learning_rate=1e-4),  # type: ignore[call-arg]
    "esd_held": replace(UNLEARNERS["esd"], learning_rate=1e-4, steps=300, retain=1.0),  # type: ignore[call-arg]
    "sfd_short": replace(  # type: ignore[call-arg]
        UNLEARNERS["sfd"], steps=3000, learning_rate=1e-4, fake_rate=3e-4, average=0.999
    ),
}
"""Rows of ``UNLEARNERS``, and baselines with settings other than their authors'."""


def train_flow(data: LabelledData, seed: int, steps: int = 8000) -> Conditional:
    """Train the class-conditional flow."""
    net = AdaptedVelocity(new_net({**NET, "num_times": 1}, seed), SHAPE, "x, t, label", label=0, null_label=K)
    model = Conditional(Flow(net, SHAPE), [1 / K] * K)
    problem = Problem(model=model, data=data.x, labels=data.labels)
    found = fit(FlowMatching(steps=steps), problem, seed=seed).model
    assert isinstance(found, Conditional)
    return found.eval()


def regress_map(flow: Conditional, seed: int, steps: int = 5000, bank: int = 16384) -> Conditional:
    """Regress a class-conditional one-step map on the flow's samples at the same noise."""
    net = new_net({**NET, "num_times": 2}, seed)
    adapted = AdaptedAverageVelocity(net, SHAPE, "x, start, end, label", label=0)
    model = Conditional(FlowMap(adapted, SHAPE), [1 / K] * K)
    z = flow.prior(bank, stream(seed, 5))
    y = flow.push_batches(z)
    loss, optimizer = OutputLoss(model), torch.optim.Adam(model.parameters(), 1e-3)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 1e-3 * (1 - step / steps)
        rows = torch.randint(bank, (128,), generator=stream(seed, 6, step))
        optimizer.zero_grad()
        loss(z[rows], y[rows]).backward()
        optimizer.step()
    return model.eval()


def train_classifier(data: LabelledData, net: dict[str, object], seed: int) -> Classifier:
    """Train a guide or a judge."""
    model = Classifier(new_net({"shape": [1, 8, 8], "outputs": K, **net}, seed), data.class_names)
    found = fit(Classification(), Problem(model=model, data=data.x, labels=data.labels), seed=seed).model
    assert isinstance(found, Classifier)
    return found.eval()


@torch.no_grad()
def share(judge: Classifier, x: torch.Tensor, k: int) -> float:
    """Return the percentage of samples that the judge takes for k."""
    return 100 * float((judge(x).argmax(1) == k).double().mean())


def describe(model: GenerativeModel, judge: Classifier) -> str:
    """Return one row of the table."""
    is_flow = model.family == "flow"
    asked = [
        share(judge, model.sample(500, stream(7), label=FORGET, guidance=g), FORGET)
        for g in ((1.0, 2.0, 4.0) if is_flow else (1.0,))
    ]
    null = share(judge, model.sample(2000, stream(8), label="null"), FORGET) if is_flow else None
    own = [share(judge, model.sample(500, stream(9), label=k), k) for k in range(K) if k != FORGET]
    words = " / ".join(f"{value:.1f}" for value in asked)
    return (
        f"{words} | {'–' if null is None else f'{null:.1f}'} | {sum(own) / len(own):.1f} | "
        f"{' '.join(f'{value:.0f}' for value in own)}"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--replace", default="retained")
    parser.add_argument("--methods", nargs="+", default=list(ROWS))
    given = parser.parse_args()
    torch.set_num_threads(1)
    data = load_data("digits")
    split = split_data(data, seed=given.seed)
    train, judging = split.of(data, "train"), split.of(data, "judge")
    guide = train_classifier(train, {"net": "mlp", "width": 128, "depth": 2, "num_times": 0}, given.seed + 1)
    judge = train_classifier(judging, {"net": "convnet"}, given.seed + 2)
    flow = train_flow(train, given.seed)
    models = {True: flow, False: regress_map(flow, given.seed)}
    print(
        "| row | asked for 3: 3 | null label: 3 | others: own | each | seconds |\n|---|---|---|---|---|---|"
    )
    for is_flow, model in models.items():
        print(f"| original {'flow' if is_flow else 'map'} | {describe(model, judge)} | – |", flush=True)
    for name in given.methods:
        method = METHODS[name]
        for model in models.values():
            if model.family not in method.families:
                continue
            target = uf.Target(model, ClassLogOdds(guide, [FORGET], 4.0), replace=given.replace)
            teacher = flow if "teacher" in method.needs else None
            start = time.monotonic()
            result = uf.unlearn(target, method, seed=given.seed, self_measure=0, teacher=teacher)
            seconds = time.monotonic() - start
            words = f"{name}, {model.family}" if len(method.families) == 3 else name
            print(f"| {words} | {describe(result.model, judge)} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
