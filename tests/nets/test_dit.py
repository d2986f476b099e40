"""A transformer on patches: derivatives, public checkpoints, the memory it takes, and a class forgotten."""

from __future__ import annotations

import copy
import math
import re
import runpy
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as nnf
import yaml
from dit_memory import DiTMemory, mlp_parameters, saved_bytes, uot_bytes
from jsonargparse import ArgumentParser
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from unflow.commands.arguments import find_recipe
from unflow.commands.cli import main
from unflow.commands.unlearn import add_arguments
from unflow.disk import bundle
from unflow.disk.meanflow_checkpoints import (
    BLOCK_NAMES,
    OUTER_NAMES,
    load_meanflow_checkpoint,
    raw_latents,
    reverse_time,
    save_meanflow_checkpoint,
    to_public_name,
)
from unflow.energies import CallableEnergy, ClassLogOdds, anchoring
from unflow.evidence.reproduce.results import read_paper_rows
from unflow.ground.errors import InputError
from unflow.mathematics.divergences import KL
from unflow.methods import UNLEARNERS, UOT
from unflow.models import FlowMap
from unflow.models.classifier import Classifier
from unflow.nets import DIT_SIZES, MLP, DiT, build_net, initial_weights, net_config, new_net
from unflow.nets.dit import SelfAttention, explicit_attention, has_tangent, wave_features, wave_positions
from unflow.target import Target
from unflow.training.loop import fit
from unflow.training.low_rank import LowRank
from unflow.training.method import Part, Problem
from unflow.training.trained_weights import adapt

GUIDE = Path(__file__).parents[2] / "docs" / "scaling.md"
SHAPE, CLASSES = (4, 8, 8), 5
SMALL: dict[str, Any] = {"patch": 2, "width": 24, "depth": 2, "heads": 3}


def stream(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def dit(seed: int = 0, **options: Any) -> DiT:
    """A small network whose every weight has a value, also those that start at zero."""
    config = {"net": "dit", "shape": SHAPE, **SMALL, "num_times": 2, "num_classes": CLASSES, **options}
    net, generator = new_net(config, seed), stream(seed)
    for parameter in net.parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
    assert isinstance(net, DiT)
    return net.eval()


def inputs(n: int = 3, seed: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    x = torch.randn(n, *SHAPE, generator=stream(seed))
    s, e = torch.rand(2, n, generator=stream(seed + 1)).sort(0).values
    return x, s, e


# Attention


def test_the_fused_kernel_is_the_explicit_softmax() -> None:
    q, k, v = torch.randn(3, 2, 4, 16, 8, generator=stream(0), dtype=torch.float64)
    fused = nnf.scaled_dot_product_attention(q, k, v)
    torch.testing.assert_close(explicit_attention(q, k, v), fused, rtol=1e-12, atol=1e-12)


def test_attention_is_the_same_inside_a_forward_derivative_and_outside_with_its_gradients() -> None:
    layer = SelfAttention(24, 3).double()
    h, u = torch.randn(2, 2, 16, 24, generator=stream(0), dtype=torch.float64)
    inside, derivative = torch.func.jvp(layer, (h,), (u,))[:2]
    torch.testing.assert_close(inside, layer(h), rtol=1e-12, atol=1e-12)
    step = 1e-5
    quotient = (layer(h + step * u) - layer(h - step * u)) / (2 * step)
    torch.testing.assert_close(derivative, quotient, rtol=1e-6, atol=1e-8)
    grads = [torch.autograd.grad(out.square().sum(), list(layer.parameters())) for out in (inside, layer(h))]
    for explicit, fused in zip(*grads, strict=True):
        torch.testing.assert_close(explicit, fused, rtol=1e-10, atol=1e-10)


def test_a_tangent_is_seen_inside_a_forward_derivative_alone() -> None:
    seen = []

    def watched(x: Tensor) -> Tensor:
        seen.append(has_tangent(x, 2 * x))
        return x.square()

    x = torch.ones(2)
    torch.func.jvp(watched, (x,), (x,))
    watched(x)
    torch.func.grad(lambda x: watched(x).sum())(x)
    assert seen == [True, False, False]


# The network


def test_labels_follow_the_times_by_position_or_by_name_and_the_constructors_label_stands_for_none() -> None:
    net, (x, s, e) = dit(), inputs()
    labels = torch.full((3,), 2)
    by_name = net(x, s, e, labels=labels)
    assert torch.equal(net(x, s, e, labels), by_name)
    assert torch.equal(dit(label=2)(x, s, e), by_name)
    assert not torch.allclose(net(x, s, e), by_name)
    assert torch.equal(net(x, s, e), net(x, s, e, torch.full((3,), CLASSES)))  # the null class


def test_each_sample_has_the_class_of_its_label() -> None:
    net, (x, s, e) = dit(), inputs()
    labels = torch.tensor([0, 4, 1])
    each = [dit(label=int(k))(x[i : i + 1], s[i : i + 1], e[i : i + 1]) for i, k in enumerate(labels)]
    torch.testing.assert_close(net(x, s, e, labels), torch.cat(each), rtol=1e-5, atol=1e-5)


def test_patches_go_back_to_where_they_came_from() -> None:
    """Without blocks or positions a patch of the output is a function of the same patch of the input."""
    net = dit(depth=0)
    net.positions.zero_()
    x, s, e = inputs(1)
    moved = x.clone()
    moved[:, :, 2:4, 6:8] += 1
    changed = (net(moved, s, e) != net(x, s, e)).any(dim=1)[0]
    expected = torch.zeros(8, 8, dtype=torch.bool)
    expected[2:4, 6:8] = True
    assert torch.equal(changed, expected)


def test_positions_are_waves_of_the_column_and_then_of_the_row() -> None:
    positions = wave_positions(3, 5, 16)
    assert positions.shape == (15, 16)
    for row, column in ((0, 0), (1, 4), (2, 3)):
        waves = [
            f(p / 10000 ** (k / 4)) for p in (column, row) for f in (math.sin, math.cos) for k in range(4)
        ]
        torch.testing.assert_close(positions[row * 5 + column], torch.tensor(waves))


def test_checkpointing_changes_neither_values_nor_gradients() -> None:
    x, s, e = inputs()
    found = []
    for checkpoint in (False, True):
        net = dit(checkpoint=checkpoint).train()
        loss = net(x, s, e).square().mean()
        found.append([loss, *torch.autograd.grad(loss, list(net.parameters()))])
    assert all(torch.equal(plain, again) for plain, again in zip(*found, strict=True))


def test_a_forward_derivative_passes_a_checkpointed_net() -> None:
    plain, recomputed = (dit(checkpoint=flag).train() for flag in (False, True))
    x, s, e = inputs()
    tangents = (x, torch.ones_like(s), torch.zeros_like(e))
    for ours, theirs in zip(
        torch.func.jvp(plain, (x, s, e), tangents),
        torch.func.jvp(recomputed, (x, s, e), tangents),
        strict=True,
    ):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"shape": (4, 9, 8)}, r"got shape=\[4, 9, 8\] and patch=2"),
        ({"shape": (4,)}, r"got shape=\[4\] and patch=2"),
        ({"shape": SHAPE, "width": 30, "heads": 3}, "got width=30 and heads=3"),
        ({"shape": SHAPE, "heads": 5}, "got width=384 and heads=5"),
        ({"shape": SHAPE, "num_times": 3}, "got num_times=3"),
        ({"shape": SHAPE, "num_classes": -1}, "got num_classes=-1"),
        ({"shape": SHAPE, "num_classes": 5, "label": 5}, "got label=5 for a DiT of 5 classes"),
        ({"shape": SHAPE, "label": 0}, "got label=0 for a DiT of 0 classes"),
    ],
)
def test_a_dit_that_cannot_be_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=f"{words}.*; expected"):
        DiT(**options)


def test_conditions_that_do_not_fit_are_refused() -> None:
    x, s, e = inputs()
    labels = torch.zeros(3, dtype=torch.long)
    for wrong in ((s,), (), (s, e, labels, labels)):
        with pytest.raises(InputError, match=f"got {len(wrong)} conditions after x; expected 2 times"):
            dit()(x, *wrong)
    with pytest.raises(InputError, match="got 3 conditions after x"):
        dit()(x, s, e, labels, labels=labels)
    with pytest.raises(InputError, match="got labels for a DiT without classes"):
        dit(num_classes=0)(x, s, e, labels)


# Public checkpoints


def public_weights(seed: int = 3, classes: int = CLASSES, patches: int = 4) -> dict[str, Tensor]:
    """A random checkpoint in the public layout: names and shapes as the docs list them."""
    generator, D, depth = stream(seed), SMALL["width"], SMALL["depth"]

    def layer(name: str, *shape: int) -> dict[str, Tensor]:
        weight = torch.randn(shape, generator=generator) / math.prod(shape[1:]) ** 0.5
        return {f"{name}.weight": weight, f"{name}.bias": 0.3 * torch.randn(shape[0], generator=generator)}

    weights = {"pos_embed": wave_positions(patches, patches, D)[None]}
    weights |= layer("x_embedder.proj", D, 4, 2, 2)
    for time in ("t", "r"):
        weights |= layer(f"{time}_embedder.mlp.0", D, 256) | layer(f"{time}_embedder.mlp.2", D, D)
    weights["y_embedder.embedding_table.weight"] = torch.randn(classes + 1, D, generator=generator)
    for i in range(depth):
        weights |= layer(f"blocks.{i}.attn.qkv", 3 * D, D) | layer(f"blocks.{i}.attn.proj", D, D)
        weights |= layer(f"blocks.{i}.mlp.fc1", 4 * D, D) | layer(f"blocks.{i}.mlp.fc2", D, 4 * D)
        weights |= layer(f"blocks.{i}.adaLN_modulation.1", 6 * D, D)
    weights |= layer("final_layer.adaLN_modulation.1", 2 * D, D)
    return weights | layer("final_layer.linear", 16, D)


def public_velocity(
    w: dict[str, Tensor], z: Tensor, r: Tensor, t: Tensor, y: Tensor, heads: int = 3
) -> Tensor:
    """u(z, r, t | y) of a public checkpoint, from its formulas: noise at t = 1, data at t = 0."""

    def linear(name: str, h: Tensor) -> Tensor:
        return h @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def time(name: str, value: Tensor) -> Tensor:
        angle = value[:, None] * 10000 ** (-torch.arange(128) / 128)
        h = linear(f"{name}.mlp.0", torch.cat([torch.cos(angle), torch.sin(angle)], 1))
        return linear(f"{name}.mlp.2", h * torch.sigmoid(h))

    def norm(h: Tensor) -> Tensor:
        return (h - h.mean(2, keepdim=True)) / (h.var(2, correction=0, keepdim=True) + 1e-6).sqrt()

    def attention(name: str, h: Tensor) -> Tensor:
        n, tokens, D = h.shape
        qkv = linear(f"{name}.qkv", h).reshape(n, tokens, 3, heads, D // heads)
        scores = torch.einsum("nihd,njhd->nhij", qkv[:, :, 0], qkv[:, :, 1]) * (D // heads) ** -0.5
        mixed = torch.einsum("nhij,njhd->nihd", scores.softmax(3), qkv[:, :, 2])
        return linear(f"{name}.proj", mixed.reshape(n, tokens, D))

    n, channels, height, width = z.shape
    tiles = z.reshape(n, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(n, -1, 16)
    kernel = w["x_embedder.proj.weight"].reshape(-1, 16)
    h = tiles @ kernel.T + w["x_embedder.proj.bias"] + w["pos_embed"]
    c = time("t_embedder", t) + time("r_embedder", t - r) + w["y_embedder.embedding_table.weight"][y]
    c = (c * torch.sigmoid(c))[:, None]
    for i in range(sum(name.endswith("attn.qkv.weight") for name in w)):
        a, b, gate, a2, b2, gate2 = linear(f"blocks.{i}.adaLN_modulation.1", c).chunk(6, 2)
        h = h + gate * attention(f"blocks.{i}.attn", norm(h) * (1 + b) + a)
        inner = nnf.gelu(linear(f"blocks.{i}.mlp.fc1", norm(h) * (1 + b2) + a2), approximate="tanh")
        h = h + gate2 * linear(f"blocks.{i}.mlp.fc2", inner)
    a, b = linear("final_layer.adaLN_modulation.1", c).chunk(2, 2)
    out = linear("final_layer.linear", norm(h) * (1 + b) + a)
    out = out.reshape(n, height // 2, width // 2, 2, 2, channels)
    return torch.einsum("nhwpqc->nchpwq", out).reshape(z.shape)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "0080000.pt"
    content = {"model": public_weights(seed=9), "ema": public_weights(), "steps": 80000}
    torch.save(content, path)
    return path


def test_a_public_checkpoint_gives_what_its_formulas_give_in_our_time(checkpoint: Path) -> None:
    net = dit()
    assert load_meanflow_checkpoint(net, checkpoint) == "ema"
    x, s, e = inputs(6)
    labels = torch.randint(CLASSES + 1, (6,), generator=stream(5))
    u = public_velocity(public_weights(), x, 1 - e, 1 - s, labels)
    assert float(u.std()) > 0.1
    torch.testing.assert_close(net(x, s, e, labels), -u, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("steps", [1, 3])
def test_a_flow_map_of_a_public_checkpoint_draws_its_samples(checkpoint: Path, steps: int) -> None:
    net = dit(label=1)
    load_meanflow_checkpoint(net, checkpoint)
    z = torch.randn(4, *SHAPE, generator=stream(6))
    x, times = z, torch.linspace(1, 0, steps + 1)
    for t, r in zip(times[:-1], times[1:], strict=True):
        u = public_velocity(public_weights(), x, r.expand(4), t.expand(4), torch.full((4,), 1))
        x = x - (t - r) * u
    torch.testing.assert_close(FlowMap(net, SHAPE, steps).push(z), x, rtol=1e-4, atol=1e-5)


def test_all_of_a_checkpoint_is_read_and_a_saved_one_is_the_one_that_was_read(
    checkpoint: Path, tmp_path: Path
) -> None:
    net = dit()
    load_meanflow_checkpoint(net, checkpoint, ema=False)
    assert {to_public_name(name) for name in net.state_dict()} == set(public_weights())
    save_meanflow_checkpoint(net, tmp_path / "back.safetensors")
    back = load_file(tmp_path / "back.safetensors")
    for name, tensor in public_weights(seed=9).items():
        torch.testing.assert_close(back[name], tensor, rtol=1e-6, atol=1e-6)
    again = dit(seed=7)
    load_meanflow_checkpoint(again, tmp_path / "back.safetensors")
    torch.testing.assert_close(dict(again.state_dict()), dict(net.state_dict()), rtol=1e-6, atol=1e-6)


def test_a_first_layer_in_reversed_time_reads_one_minus_t() -> None:
    weight = torch.randn(7, 256, generator=stream(0), dtype=torch.float64)
    t = torch.linspace(-1, 2, 13, dtype=torch.float64)
    expected = wave_features(1 - t) @ weight.T
    torch.testing.assert_close(wave_features(t) @ reverse_time(weight).T, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(reverse_time(reverse_time(weight)), weight, rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"blocks.1.mlp.fc1.weight": None}, "blocks.1.mlp.fc1.weight is missing"),
        ({"r_embedder.mlp.2.bias": None}, "r_embedder.mlp.2.bias is missing"),
        ({"blocks.2.attn.qkv.bias": torch.zeros(72)}, "blocks.2.attn.qkv.bias is unknown"),
        (
            {"final_layer.linear.weight": torch.zeros(32, 24)},
            r"final_layer.linear.weight is \[32, 24\], not \[16, 24\]",
        ),
    ],
)
def test_a_checkpoint_with_other_names_or_shapes_is_refused_in_its_own_names(
    change: dict[str, Tensor | None], words: str, tmp_path: Path
) -> None:
    weights = {name: tensor for name, tensor in (public_weights() | change).items() if tensor is not None}
    save_file(weights, tmp_path / "w.safetensors")
    net = dit()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with pytest.raises(InputError, match=f"does not fit a DiT of width 24 and depth 2: {words}; expected"):
        load_meanflow_checkpoint(net, tmp_path / "w.safetensors")
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


@pytest.mark.parametrize("options", [{"num_times": 1}, {"num_classes": 0}])
def test_a_dit_that_is_no_public_one_is_refused(
    options: dict[str, int], checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"got a DiT of \d times and \d classes for a public MeanFlow"):
        load_meanflow_checkpoint(dit(**options), checkpoint)
    with pytest.raises(InputError, match="expected num_times=2"):
        save_meanflow_checkpoint(dit(**options), tmp_path / "w.safetensors")


def test_standardised_latents_have_half_a_standard_deviation() -> None:
    mean, std = torch.tensor([0.86488, -0.27787343]), torch.tensor([4.85503674, 5.31922414])
    x = torch.zeros(2, 4, 3, 3)
    x[1] = 0.5
    raw = raw_latents(x)
    torch.testing.assert_close(raw[0, :2, 1, 2], mean)
    torch.testing.assert_close(raw[1, :2, 0, 0], mean + std)


def test_the_guides_example_makes_a_bundle_of_a_public_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (example,) = re.findall(r"^```python\n(.*?)^```", GUIDE.read_text(), re.DOTALL | re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(DIT_SIZES, "XL/2", SMALL)
    weights = public_weights(classes=1000, patches=16)
    torch.save({"ema": weights}, "meanflow-xl-2.pt")
    exec(compile(example, GUIDE.name, "exec", dont_inherit=True), {"__name__": "example"})
    model = bundle.load("runs/imagenet256")
    z = torch.randn(2, 4, 32, 32, generator=stream(0))
    zero, one, null = torch.zeros(2), torch.ones(2), torch.full((2,), 1000)
    expected = z - public_velocity(weights, z, zero, one, null)
    torch.testing.assert_close(model.push(z), expected, rtol=1e-4, atol=1e-5)


def test_the_guide_lists_every_name_of_the_layout() -> None:
    text = GUIDE.read_text()
    for ours, theirs in [*OUTER_NAMES.items(), *BLOCK_NAMES.items()]:
        for name in (ours, theirs):
            layer = re.sub(r"\.(weight|bias)$", "", name)
            assert re.search(rf"`(blocks\.i\.)?{re.escape(layer)}[`.]", text), name


# Memory


def on_meta(**options: Any) -> DiT:
    with torch.device("meta"):
        net = build_net({"net": "dit", "shape": [4, 32, 32], "num_times": 2, "num_classes": 1000, **options})
    assert isinstance(net, DiT)
    return net


def num_parameters(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


@pytest.mark.parametrize(("size", "millions"), [("B/2", 131), ("L/2", 459), ("XL/2", 676)])
def test_the_formula_counts_the_parameters_of_the_published_sizes(size: str, millions: int) -> None:
    """In millions, as arXiv 2505.13447 states them."""
    net = on_meta(**DIT_SIZES[size])
    memory = DiTMemory.of(net_config(net))
    assert memory.parameters == num_parameters(net)
    assert memory.block_parameters == num_parameters(net.blocks[0])
    assert round(memory.parameters / 1e6) == millions


@pytest.mark.parametrize(
    "options",
    [
        {**DIT_SIZES["XL/2"], "depth": 2},
        {"patch": 4, "width": 64, "depth": 3, "heads": 2, "num_times": 1, "num_classes": 0},
        {"shape": [1, 8, 12], "patch": 1, "width": 32, "depth": 0, "heads": 4, "num_classes": 10},
    ],
    ids=["reduced depth", "velocity", "no blocks"],
)
def test_the_formula_counts_the_parameters_of_other_sizes(options: dict[str, Any]) -> None:
    net = on_meta(**options)
    assert DiTMemory.of(net_config(net)).parameters == num_parameters(net)


@pytest.mark.parametrize("sizes", [(4096, 256, 2, 1), (7, 5, 0, 3)])
def test_the_formula_counts_the_parameters_of_a_potential(sizes: tuple[int, int, int, int]) -> None:
    inputs, width, depth, outputs = sizes
    net = MLP([inputs], width, depth, num_times=0, outputs=outputs)
    assert mlp_parameters(inputs, width, depth, outputs) == num_parameters(net)


@pytest.mark.parametrize("checkpoint", [False, True])
@pytest.mark.parametrize(
    "options", [{}, {"depth": 5}, {"num_times": 1, "num_classes": 0}, {"patch": 1, "width": 32, "heads": 4}]
)
@pytest.mark.parametrize("rows", [1, 3])
def test_the_formula_counts_what_a_forward_pass_keeps(
    options: dict[str, Any], checkpoint: bool, rows: int
) -> None:
    net = dit(checkpoint=checkpoint, **options).train()
    x, s, e = inputs(rows)
    memory = DiTMemory.of(net_config(net))
    assert saved_bytes(net, x, *(s, e)[: net.num_times]) == 4 * rows * memory.activations


def test_a_checkpointed_net_has_one_whole_block_at_a_time() -> None:
    plain, again = (DiTMemory.of(net_config(dit(checkpoint=flag, depth=6))) for flag in (False, True))
    assert plain.peak_activations == plain.activations
    assert again.peak_activations == again.activations + plain.block_activations
    assert again.peak_activations < plain.peak_activations / 2


def test_mixed_precision_keeps_48_bytes_per_token_and_feature_of_a_block_in_place_of_80() -> None:
    """Beside the rounded weights, norms, and what comes once per sample."""

    def of_a_block(mixed: bool) -> int:
        kept = []
        for depth in (1, 2):
            net, (x, s, e) = dit(depth=depth, width=240).train(), inputs(2)
            with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
                kept.append(saved_bytes(net, x, s, e))
        return kept[1] - kept[0]

    entries, rounded = 2 * 16 * 240, 2 * 18 * 240**2
    assert of_a_block(mixed=False) / entries == pytest.approx(80, rel=0.03)
    assert (of_a_block(mixed=True) - rounded) / entries == pytest.approx(48, rel=0.03)


def test_what_uot_keeps_is_what_the_formula_says() -> None:
    model = FlowMap(dit(), SHAPE)
    method = UOT(batch_size=8, bank_size=64, network="mlp", width=16, depth=1)
    target = Target(model, CallableEnergy(lambda x: x.flatten(1).mean(1).sigmoid(), 0.0))
    problem = Problem(model=model, target=target)
    prepared = method.prepare(problem, stream(0))
    parts = method.init(problem, prepared, seed=0)

    class Descent:
        def __call__(self, name: str, /, *args: Any) -> Tensor:
            loss = parts[name].loss(*args)
            loss.backward()
            parts[name].optimizer.step()
            return loss.detach()

        def with_outputs(self, name: str, /, *args: Any) -> tuple[Tensor, ...]:
            loss, *outputs = parts[name].loss(*args)
            loss.backward()
            parts[name].optimizer.step()
            return loss.detach(), *outputs

    method.step(parts, method.draw(prepared, stream(1)), Descent(), 0.0)
    generator, potential = parts["generator"], parts["potential"]

    def moments(part: Part) -> int:
        states = part.optimizer.state_dict()["state"].values()
        return sum(m.nbytes for state in states for m in (state["exp_avg"], state["exp_avg_sq"]))

    def weights(net: nn.Module) -> int:
        return sum(parameter.nbytes for parameter in net.parameters())

    found = uot_bytes(
        DiTMemory.of(net_config(model.net)), 8, 64, potential=mlp_parameters(math.prod(SHAPE), 16, 1)
    )
    assert found["original"] == found["generator"] == found["average"] == weights(generator.average)
    assert found["gradients"] == sum(p.grad.nbytes for p in generator.net.parameters() if p.grad is not None)
    assert found["moments"] == moments(generator)
    assert found["potential"] == 2 * weights(potential.net) + moments(potential)
    assert found["banks"] == sum(prepared[name].nbytes for name in ("z", "origin", "pool"))


def test_a_share_of_the_weights_and_several_devices_need_less() -> None:
    memory = DiTMemory(shape=[4, 32, 32], **DIT_SIZES["XL/2"], num_classes=1000)
    whole, part = uot_bytes(memory, 1), uot_bytes(memory, 1, trained=4 * memory.block_parameters)
    assert part["gradients"] == 16 * memory.block_parameters
    assert part["original"] == whole["original"] == whole["average"]
    assert part["average"] == part["gradients"]
    shared = uot_bytes(memory, 1, devices=8)
    assert shared["moments"] == memory.parameters
    assert shared["activations"] == whole["activations"]


def adapted(net: nn.Module, rank: int) -> Part:
    part = Part(net, net, 1e-3, decay=0.9)
    adapt({"net": part}, [copy.deepcopy(net)], LowRank(rank), None, stream(0))
    return part


@pytest.mark.parametrize("checkpoint", [False, True])
@pytest.mark.parametrize("options", [{}, {"depth": 5}, {"num_times": 1, "patch": 1}])
def test_the_formula_counts_adapters_and_the_sums_that_a_pass_keeps(
    options: dict[str, Any], checkpoint: bool
) -> None:
    """Beside the activations; with ``checkpoint`` a block makes its own in its turn."""
    net = dit(num_classes=0, checkpoint=checkpoint, **options).train()
    memory, (x, s, e) = DiTMemory.of(net_config(net)), inputs(3)
    part = adapted(net, 2)
    trained = [weight for weight in part.net.parameters() if weight.requires_grad]
    assert sum(weight.numel() for weight in trained) == memory.low_rank(2)
    sums = memory.kept_sums - (memory.block_matrix if checkpoint else 0)
    found = saved_bytes(part.net, x, *(s, e)[: net.num_times])
    assert found == 4 * (3 * memory.activations + sums)


def test_with_adapters_all_but_two_copies_of_the_weights_is_small() -> None:
    net = DiTMemory(shape=[4, 32, 32], **DIT_SIZES["XL/2"], num_classes=1000, checkpoint=True)
    low, rank = uot_bytes(net, 1, rank=8), net.low_rank(8)
    assert low["gradients"] == low["average"] == low["moments"] / 2 == 4 * rank
    assert low["generator"] == 4 * (net.parameters + rank)
    assert rank < 0.01 * net.parameters
    assert low["sums"] == 4 * net.kept_sums < 0.1 * low["original"]


def test_the_tables_of_the_guide_are_what_the_formulas_say() -> None:
    text = GUIDE.read_text()
    potential = mlp_parameters(4096, 256, 2)
    for size, options in DIT_SIZES.items():
        plain, again = (
            DiTMemory(shape=[4, 32, 32], **options, num_classes=1000, checkpoint=flag)
            for flag in (False, True)
        )
        state = uot_bytes(plain, 0, 8192, potential=potential)
        mib = [4 * m.peak_activations / 2**20 for m in (plain, again)]
        gib = [sum(uot_bytes(m, 32, 8192, potential=potential).values()) / 2**30 for m in (plain, again)]
        row = f"| {size} | {plain.parameters:,} | {sum(state.values()) / 2**30:.1f} |"
        row += "".join(f" {x:.0f} |" for x in mib) + "".join(f" {x:.1f} |" for x in gib)
        assert row in text, row


def test_the_benchmark_prints_the_table_of_the_guide(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(GUIDE.parents[1] / "benchmarks" / "scaling.py"))["memory"]()
    table = capsys.readouterr().out.split("\n", 1)[1]
    assert table.count("|") > 20
    assert table in GUIDE.read_text()


# Forgetting a class


def test_no_label_of_a_class_is_the_target_of_its_exact_log_odds() -> None:
    """sum over y != k of p(y) p(x | y), normalised, is q0 exp(-F)/Z for Bayes' classifier, margin 0."""
    generator = stream(0)
    prior = torch.rand(CLASSES, generator=generator, dtype=torch.float64)
    prior /= prior.sum()
    given = torch.rand(CLASSES, 40, generator=generator, dtype=torch.float64).softmax(1)
    q0 = prior @ given
    kept = prior.clone()
    kept[1] = 0
    without = (kept / kept.sum()) @ given
    bayes = nn.Linear(40, CLASSES, bias=False).double()
    bayes.weight.data = (prior[:, None] * given).log()
    F = ClassLogOdds(bayes, [1], margin=0.0)(torch.eye(40, dtype=torch.float64)).detach()
    divergence = KL()
    ratio = divergence.tilt(divergence.multiplier(F, q0) - F)
    torch.testing.assert_close(q0 * ratio, without)


class LabelOfLatent(nn.Module):
    """A class-conditional model whose label is drawn with the latent: 1 where its first entry is positive."""

    def __init__(self, net: DiT) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, start: Tensor, end: Tensor) -> Tensor:
        return self.net(x, start, end, first_is_positive(x).long())


def first_is_positive(z: Tensor) -> Tensor:
    return z[:, 0, 0, 0] > 0


def test_a_label_forgets_its_class_by_an_energy_of_features_and_the_other_moves_less() -> None:
    """Eight samples of the class show what it is, to features that never saw a label."""
    net = dit(num_classes=2)
    assert net.classes is not None
    net.classes.weight.data *= 5
    model = FlowMap(LabelOfLatent(net), SHAPE)
    z = model.prior(1000, stream(0))
    x, forgotten = model.push_batches(z), first_is_positive(z)
    with initial_weights(0):
        extractor = nn.Sequential(nn.Conv2d(4, 16, 3, stride=2), nn.SiLU(), nn.Flatten())
    energy = anchoring.add_threshold(anchoring.make_anchor(extractor, x[forgotten][:8], x), x, margin=2.0)
    sizes: dict[str, Any] = {
        "batch_size": 32,
        "bank_size": 1024,
        "width": 32,
        "learning_rate": 2e-3,
        "average": 0.9,
    }
    method = UOT(pool="tilted", share=0.3, steps=40, **sizes)
    result = fit(method, Problem(model=model, target=Target(model, energy)), seed=0).model
    assert isinstance(result, FlowMap)
    y = result.push_batches(z)
    distance = (y - x).flatten(1).norm(dim=1)
    assert float(energy(y)[forgotten].mean()) < 0.1 * float(energy(x)[forgotten].mean())
    assert float(distance[~forgotten].mean()) < 0.7 * float(distance[forgotten].mean())


def test_the_papers_row_is_the_bound_that_its_digest_states() -> None:
    (row,) = read_paper_rows("uot_unlearn.csv", ["imagenet256-goldfish"])
    assert (row["method"], row["source"]) == ("uot", "paper")
    assert row["as_in_paper"] == {"pul_at_least": 90.0}


UNLEARN_RECIPES = sorted(
    entry.name.removesuffix(".yaml")
    for entry in files("unflow.commands.recipes").iterdir()
    if entry.name.endswith(".yaml") and "kind" not in yaml.safe_load(entry.read_text())
)
GIVEN = ("--model", "m", "--energy", "classifier:g", "--out", "o")


def parsed(name: str, *words: str) -> Any:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    rest = add_arguments(parser, [name, *words])
    values = parser.instantiate(parser.parse_args(rest))
    values.settings = values.settings.make()
    return values


@pytest.mark.parametrize("name", UNLEARN_RECIPES)
def test_a_recipe_is_a_whole_request_and_every_setting_reaches_the_method(name: str) -> None:
    values, recipe = parsed(name, *GIVEN), yaml.safe_load(Path(find_recipe(name)).read_text())
    assert type(values.settings) is type(UNLEARNERS[recipe["method"]])
    assert values.forget == recipe["forget"]
    default = asdict(UNLEARNERS[recipe["method"]])
    assert asdict(values.settings) == default | recipe["settings"]


def test_the_papers_request_is_goldfish() -> None:
    assert UNLEARN_RECIPES == ["uot-imagenet256"]
    values = parsed("uot-imagenet256", *GIVEN)
    assert (values.forget, values.method) == ("1", "uot_tilted")


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A flow map of latents [4, 8, 8], two blocks of attention; and a guide of five classes."""
    folder = tmp_path_factory.mktemp("imagenet")
    for name, checkpoint in (("model", False), ("checkpointed", True)):
        bundle.save(FlowMap(dit(checkpoint=checkpoint, label=1), SHAPE), folder / name)
    guide = new_net({"net": "convnet", "shape": SHAPE, "outputs": CLASSES, "width": 8, "depth": 2}, 0)
    bundle.save(Classifier(guide, [f"class {k}" for k in range(CLASSES)]), folder / "guide")
    return folder


def unlearn(bundles: Path, model: str, how: str = "") -> FlowMap:
    out = bundles / f"{model}-unlearned{''.join(how.split())}"
    words = (
        f"unlearn uot-imagenet256 --model {bundles / model} --energy classifier:{bundles / 'guide'} "
        f"--out {out} --device cpu --settings.steps 4 --settings.batch_size 16 --settings.bank_size 64 "
        f"--settings.learning_rate 1e-3 --one_label true {how}"
    )
    assert main(words.split()) == 0
    changed = bundle.load(out)
    assert isinstance(changed, FlowMap)
    return changed


def test_the_recipe_runs_at_reduced_depth_and_recomputed_blocks_end_in_the_same_weights(
    bundles: Path,
) -> None:
    before = bundle.load(bundles / "model").state_dict()
    plain, recomputed = (unlearn(bundles, name) for name in ("model", "checkpointed"))
    after = plain.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in recomputed.state_dict().items())
    moved = {name for name in after if not torch.equal(after[name], before[name])}
    assert moved >= {f"net.blocks.{i}.attention.qkv.weight" for i in range(2)} | {"net.last.weight"}
    assert "net.positions" not in moved
    assert torch.isfinite(plain.sample(4, stream(0))).all()


def test_rank_and_micro_batches_reach_the_training_from_the_shell(bundles: Path) -> None:
    before = bundle.load(bundles / "model").state_dict()
    whole, parts = (
        unlearn(bundles, "model", f"--rank 2 --train_only attention --micro_batches {k}").state_dict()
        for k in (1, 4)
    )
    change = {name: tensor - before[name] for name, tensor in whole.items()}
    kinds = ("qkv", "out")
    chosen = {f"net.blocks.{i}.attention.{kind}.weight" for i in range(2) for kind in kinds}
    assert {name for name, each in change.items() if each.any()} == chosen
    for name in chosen:
        sizes = torch.linalg.svdvals(change[name].double())
        assert float(sizes[2]) < 1e-3 * float(sizes[0])
        torch.testing.assert_close(parts[name], whole[name], rtol=1e-3, atol=1e-4)


def test_the_shell_compiles_where_it_is_told_to() -> None:
    assert parsed("uot-imagenet256", *GIVEN).compile is False
    assert parsed("uot-imagenet256", *GIVEN, "--compile", "true").compile is True


def test_a_rank_of_nothing_is_refused_from_the_shell_and_leaves_no_folder(
    bundles: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = f"unlearn --model {bundles / 'model'} --energy classifier:{bundles / 'guide'} --forget 1"
    assert main([*words.split(), "--rank", "0", "--out", str(bundles / "none")]) == 2
    assert "got rank=0; expected 1 or more" in capsys.readouterr().err
    assert not (bundles / "none").exists()
