"""The loop: same seed same bits, killed runs continue exactly, two processes give the same curve."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import unflow as uf
from unflow.energies import CallableEnergy
from unflow.ground.errors import InputError, TrainingDivergedError
from unflow.ground.files import read_json_lines
from unflow.ground.streams import stream
from unflow.methods import UOT
from unflow.models import Flow, FlowMap
from unflow.nets import MLP
from unflow.target import Target
from unflow.training.loop import CHECKPOINT, METRICS, Fit, finish, fit
from unflow.training.method import Method, Problem
from unflow.training.originals.flow_matching import FlowMatching
from unflow.training.originals.mean_flow import MeanFlow

STEPS = 24


def left_half(x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.softplus(-4 * x[:, 0])


def small_job(name: str) -> tuple[Method, Problem]:
    """A method on a 2-D problem, the same at every call; "NAME, unused" adds weights that no output needs."""
    name, _, unused = name.partition(", ")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        nets = MLP((2,), 16, 2), MLP((2,), 16, 2, num_times=2)
        flow, flow_map = Flow(nets[0], (2,)), FlowMap(nets[1], (2,))
        for net in nets:
            torch.nn.init.normal_(net.last.weight, std=0.1)
            if unused:
                net.spare = torch.nn.Linear(4, 4)
    data = torch.randn(256, 2, generator=stream(1)) * 0.3 + 1
    if name == "flow_matching":
        return FlowMatching(steps=STEPS, batch_size=32), Problem(model=flow, data=data, held_out=data)
    if name == "mean_flow":
        return MeanFlow(steps=STEPS, batch_size=32), Problem(model=flow_map, data=data)
    target = Target(flow_map, CallableEnergy(left_half, 0.0))
    method = UOT(steps=STEPS, batch_size=32, bank_size=512, width=16, r1=0.1, pool="tilted")
    return method, Problem(model=flow_map, target=target)


JOBS = ("flow_matching", "mean_flow", "uot")


def same_weights(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    first, second = a.state_dict(), b.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


@pytest.mark.parametrize("name", JOBS)
def test_same_seed_same_bits_and_another_seed_other_bits(name: str) -> None:
    method, problem = small_job(name)
    first = fit(method, problem, seed=3).model
    assert same_weights(first, fit(method, problem, seed=3).model)
    assert not same_weights(first, fit(method, problem, seed=4).model)


def test_the_global_random_stream_is_left_alone() -> None:
    method, problem = small_job("uot")
    before = torch.random.get_rng_state()
    fit(method, problem, seed=3)
    assert torch.equal(before, torch.random.get_rng_state())


KILLS = (("flow_matching", 13), ("uot", 3), ("uot", 15), ("mean_flow", 20))
"""Jobs, each with the step after which it is killed."""


def fit_often(name: str, out: Path, on_step: Callable[[int], None] | None = None) -> Fit:
    method, problem = small_job(name)
    return fit(method, problem, out, seed=3, checkpoint_every=5, log_every=2, on_step=on_step)


def kill_at(last: int, step: int) -> None:
    if step == last:
        os.kill(os.getpid(), signal.SIGKILL)


KILLED = """
import os, sys
from functools import partial
from pathlib import Path
sys.path.insert(0, {tests!r})
import lightning_fabric
import torch
torch.set_num_threads(1)
from test_training import KILLS, fit_often, kill_at

for name, step in KILLS:
    child = os.fork()
    if child == 0:
        fit_often(name, Path(sys.argv[1], f"{{name}}-{{step}}"), partial(kill_at, step))
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def run_script(folder: Path, text: str) -> subprocess.CompletedProcess[str]:
    """Return the finished process of a script that is called with a folder and imports from these tests."""
    script = folder / "script.py"
    script.write_text(text.format(tests=str(Path(__file__).parent)))
    done = subprocess.run(
        [sys.executable, str(script), str(folder)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env=os.environ | {"OMP_WAIT_POLICY": "PASSIVE", "OPENBLAS_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders of all runs that were killed; each was a process of its own."""
    folder = tmp_path_factory.mktemp("killed")
    assert run_script(folder, KILLED).stdout.split() == ["-9"] * len(KILLS)
    return folder


@pytest.mark.parametrize(("name", "step"), KILLS)
def test_a_run_killed_at_any_step_ends_in_the_same_bits(
    name: str, step: int, killed: Path, tmp_path: Path
) -> None:
    """SIGKILL in the middle, then the same training: weights and log as if nothing had happened."""
    whole = fit_often(name, tmp_path)
    out = killed / f"{name}-{step}"
    assert (out / CHECKPOINT).is_file() == (step > 5)
    assert [line["step"] for line in read_json_lines(out / METRICS)][-1] <= step
    again = fit_often(name, out)
    assert same_weights(again.model, whole.model)

    def curve(folder: Path) -> list[dict[str, float]]:
        records = read_json_lines(folder / METRICS)
        return [{k: v for k, v in record.items() if k != "seconds"} for record in records]

    assert curve(out) == curve(tmp_path)


def test_a_resumed_run_does_not_repeat_finished_steps(tmp_path: Path) -> None:
    method, problem = small_job("flow_matching")
    steps: list[int] = []

    class Stopped(Exception):  # noqa: N818
        pass

    def stop(step: int) -> None:
        if step == 17:
            raise Stopped

    with pytest.raises(Stopped):
        fit(method, problem, tmp_path, checkpoint_every=5, on_step=stop)
    fit(method, problem, tmp_path, checkpoint_every=5, on_step=steps.append)
    assert steps == list(range(16, STEPS + 1))
    steps.clear()
    fit(method, problem, tmp_path, checkpoint_every=5, on_step=steps.append)
    assert steps == []
    finish(tmp_path)
    assert not (tmp_path / CHECKPOINT).exists()


SHARED = (*JOBS, *(f"{name}, unused" for name in JOBS))

TWO_PROCESSES = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads(1)
from test_training import SHARED, small_job
from unflow.training.loop import fit

for name in SHARED:
    method, problem = small_job(name)
    micro_batches = 2 if name.startswith("uot") else 1
    fit(method, problem, Path(sys.argv[1], name), seed=3, devices=2, log_every=1, micro_batches=micro_batches)
"""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders of all jobs, which the same two processes trained one after another."""
    folder = tmp_path_factory.mktemp("shared")
    run_script(folder, TWO_PROCESSES)
    return folder


@pytest.mark.parametrize("name", SHARED)
def test_two_processes_give_the_loss_curve_of_one(name: str, shared: Path, tmp_path: Path) -> None:
    """The same global batch, split: equal to float32 rounding, for a plain, a jvp and a two-network loss.

    Of the last, each process takes its rows in two micro-batches.
    """
    method, problem = small_job(name)
    fit(method, problem, tmp_path, seed=3, log_every=1)
    curves = [read_json_lines(folder / METRICS) for folder in (tmp_path, shared / name)]
    assert len(curves[0]) == len(curves[1]) == STEPS
    for one, two in zip(*curves, strict=True):
        for key in one.keys() - {"seconds", "step"}:
            assert two[key] == pytest.approx(one[key], rel=2e-4, abs=2e-5), (one["step"], key)


def test_a_changed_setting_is_refused_and_shown(tmp_path: Path) -> None:
    method, problem = small_job("flow_matching")
    fit(method, problem, tmp_path)
    with pytest.raises(InputError, match=r"batch_size: 32 -> 16"):
        fit(FlowMatching(steps=STEPS, batch_size=16), problem, tmp_path)
    with pytest.raises(InputError, match=r"seed: 0 -> 1"):
        fit(method, problem, tmp_path, seed=1)


def test_a_nan_loss_stops_the_run(tmp_path: Path) -> None:
    method, problem = small_job("flow_matching")
    assert problem.data is not None
    broken = Problem(model=problem.model, data=problem.data * torch.nan)
    with pytest.raises(TrainingDivergedError, match="nan at step"):
        fit(method, broken, tmp_path)
    assert not (tmp_path / CHECKPOINT).exists()


def test_bad_seeds_devices_and_batches_are_refused() -> None:
    method, problem = small_job("flow_matching")
    with pytest.raises(InputError, match="seed=-1"):
        fit(method, problem, seed=-1)
    with pytest.raises(InputError, match="divisor of the batch"):
        fit(method, problem, devices=3)
    for count in (2.0, True, "2"):
        with pytest.raises(InputError, match=f"got {count!r} micro-batches.*whole number"):
            fit(method, problem, micro_batches=count)
    with pytest.raises(InputError, match="batch_size=256 or less"):
        fit(FlowMatching(batch_size=512), problem)


def test_streams_differ_by_seed_and_path_only() -> None:
    draws = [torch.rand(4, generator=stream(*path)) for path in ((0, 1), (0, 2), (1, 1), (0, 1, 0))]
    assert len({tuple(d.tolist()) for d in draws}) == 4
    assert torch.equal(draws[0], torch.rand(4, generator=stream(0, 1)))


def test_the_schedule_rises_then_falls_to_zero() -> None:
    loop = FlowMatching(steps=100)
    rates = [loop.schedule(k) for k in range(100)]
    assert rates[4] == 1.0
    assert all(a <= b for a, b in zip(rates[:4], rates[1:5], strict=True))
    assert all(a >= b for a, b in zip(rates[5:-1], rates[6:], strict=True))
    assert rates[-1] < 0.01


# Precision and loggers


def small_target() -> uf.Target:
    energy = uf.energies.Region(lambda x: x[:, 0] > 0, height=4.0)
    return uf.Target(uf.FlowMap(MLP((2,), width=8, depth=1, num_times=2), (2,)), energy)


def test_bfloat16_trains_nearly_the_same_and_is_another_result(tmp_path: Path) -> None:
    method, target = uf.methods.LatentTransport(steps=20, bank_size=256), small_target()
    full = uf.unlearn(target, method)
    half = uf.unlearn(target, method, tmp_path, precision="bf16-mixed")
    assert half.lineage["precision"] == "bf16-mixed"
    assert "precision" not in full.lineage
    z = target.model.prior(100, stream(0))
    a, b = full.model.push(z), half.model.push(z)
    assert a.dtype == b.dtype == torch.float32
    assert 0 < float((a - b).abs().mean()) < 0.1 * float(a.abs().mean())
    with pytest.raises(InputError, match="precision"):
        uf.unlearn(target, method, tmp_path)


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(InputError, match="bf16-mixed"):
        uf.unlearn(small_target(), uf.methods.LatentTransport(steps=1, bank_size=256), precision="bf16")


def test_loggers_get_the_lines_of_the_log_and_callbacks_every_step(tmp_path: Path) -> None:
    class Kept:
        """What Fabric asks of a logger."""

        def __init__(self) -> None:
            self.lines: list[tuple[int | None, dict[str, float]]] = []

        def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
            self.lines.append((step, dict(metrics)))

    kept, steps = Kept(), list[int]()
    method = uf.methods.LatentTransport(steps=120, bank_size=256)
    uf.unlearn(small_target(), method, tmp_path, loggers=[kept], on_step=steps.append)
    assert steps == list(range(1, 121))
    written = read_json_lines(tmp_path / "metrics.jsonl")
    assert [step for step, _ in kept.lines] == [line["step"] for line in written] == [1, *range(6, 121, 6)]
    assert [values["loss"] for _, values in kept.lines] == [line["loss"] for line in written]


@pytest.mark.parametrize(
    "net",
    [
        {"net": "mlp", "width": 8, "depth": 1, "num_times": 0},
        {"net": "convnet", "width": 8},
        {"net": "resnet", "width": 8, "depth": 2},
    ],
)
def test_a_resumed_run_ends_in_the_same_bits_whatever_the_memory_layout_of_the_weights(
    net: dict[str, object], tmp_path: Path
) -> None:
    """The fused Adam reads memory in order: a ResNet's weights are in another order than a file's."""
    from unflow.models.classifier import Classifier
    from unflow.nets import new_net
    from unflow.training.originals.classification import Classification

    generator = torch.Generator().manual_seed(0)
    x, labels = torch.randn(32, 1, 8, 8, generator=generator), torch.arange(32) % 2
    method = Classification(steps=6, batch_size=8)

    def train(out: Path | None, stop_at: int = -1) -> dict[str, torch.Tensor]:
        def stop(step: int) -> None:
            if step == stop_at:
                raise KeyboardInterrupt

        model = Classifier(new_net({**net, "shape": [1, 8, 8], "outputs": 2}, 0), ["a", "b"])
        problem = Problem(model=model, data=x, labels=labels)
        return fit(method, problem, out, checkpoint_every=1, on_step=stop).model.state_dict()

    expected = train(None)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, stop_at=4)
    again = train(tmp_path)
    assert all(torch.equal(again[name], expected[name]) for name in expected)
