"""The linear probe: activations that contain the class, and activations that are independent of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unflow.energies import Region
from unflow.evidence.attacks import ImpossibleAttackError, LinearProbe
from unflow.ground.errors import InputError
from unflow.ground.streams import stream
from unflow.models import Chain, Conditional, Filtered, Flow, FlowMap, GenerativeModel, Generator, Latent
from unflow.models.autoencoder import Autoencoder
from unflow.nets import MLP, AdaptedVelocity, DiT, UNet, new_net

D = 6
PROBE = LinearProbe(images=200, latents=400, times=(0.5, 0.9))


def groups(n: int = 200, gap: float = 0.0, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Points of two classes, which the first entry tells apart by a gap."""
    x, y = (torch.randn(n, D, generator=stream(seed, k)) for k in (0, 1))
    x[:, 0], y[:, 0] = gap + x[:, 0].abs(), -gap - y[:, 0].abs()
    return x, y


class Keeps(nn.Module):
    """Two layers whose hidden activations are some entries of the input."""

    def __init__(self, entries: list[int], first: bool = True) -> None:
        super().__init__()
        self.inside, self.out = nn.Linear(D, len(entries), bias=False), nn.Linear(len(entries), D)
        self.time = nn.Linear(1, D)
        self.inside.weight.data = torch.eye(D)[entries]

    def forward(self, x: Tensor, t: Tensor | None = None) -> Tensor:
        y: Tensor = self.out(self.inside(x))
        return y if t is None else y + self.time(t[:, None])


@pytest.fixture(autouse=True)
def _seeded() -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def test_activations_with_the_class_tell_it_exactly_and_others_not_at_all() -> None:
    points = groups(gap=0.3)
    for entries, low, high in (([0, 1], 0.999, 1.0), ([1, 2, 3], 0.35, 0.65)):
        (name, scores), *rest = PROBE(Generator(Keeps(entries), (D,)), *points, stream(2)).items()
        assert (name, rest) == ("last", [])
        assert low <= scores.auc.auc <= high
    assert scores.auc.interval().low < 0.5 < scores.auc.interval().high


def test_the_interval_of_independent_activations_holds_a_half_as_often_as_promised() -> None:
    held, runs = 0, 60
    for k in range(runs):
        x, y = (torch.randn(80, D, generator=stream(k, j)) for j in (0, 1))
        found = PROBE(Generator(Keeps([1, 2]), (D,)), x, y, stream(k))["last"].auc.interval()
        held += found.low <= 0.5 <= found.high
    assert 0.86 <= held / runs <= 1


def test_a_flow_reads_images_at_noise_and_not_its_time() -> None:
    """At t = 0.9 little noise is left; the layer that reads the time alone is no layer of the image."""
    flow = Flow(Keeps([0, 1]), (D,), steps=2)
    assert PROBE(flow, *groups(gap=2.0), stream(2))["last"].auc.auc > 0.999
    noisy = LinearProbe(images=200, times=(0.0,))(flow, *groups(gap=2.0), stream(2))["last"].auc.interval()
    assert noisy.low < 0.5 < noisy.high


def images(n: int = 40) -> tuple[Tensor, Tensor]:
    x, y = (torch.randn(n, 1, 8, 8, generator=stream(7, k)) for k in (0, 1))
    return x + 1.5, y - 1.5


NETS: dict[str, Any] = {
    "dit": lambda: DiT((1, 8, 8), width=16, depth=2, patch=4, heads=2),
    "mlp": lambda: MLP((1, 8, 8), 16, 2),
    "unet": lambda: UNet((1, 8, 8), widths=(8, 8)),
}


@pytest.mark.parametrize("name", sorted(NETS))
def test_every_network_has_a_middle_and_a_last_layer(name: str) -> None:
    net = NETS[name]()
    found = PROBE(Flow(net, (1, 8, 8), steps=1), *images(), stream(2))
    assert list(found) == ["middle", "last"]
    assert found["middle"].auc.auc > 0.9
    assert not any(part._forward_pre_hooks for part in net.modules())


def test_a_decoder_and_labels_stand_around_the_network_that_is_read() -> None:
    net = new_net({"net": "conv_autoencoder", "shape": [1, 4, 4], "latent": D, "width": 8, "depth": 1}, 0)
    autoencoder = Autoencoder(net)
    x, y = (torch.randn(60, 1, 4, 4, generator=stream(k)) for k in (1, 2))
    flow = Flow(MLP((D,), 16, 2), (D,), steps=1)
    behind = PROBE(Latent(flow, autoencoder), x, y, stream(2))
    assert all(
        torch.equal(each.positive, behind[k].positive)
        for k, each in PROBE(flow, autoencoder.encode(x), autoencoder.encode(y), stream(2)).items()
    )
    labelled = AdaptedVelocity(MLP((D,), 16, 2, num_classes=3), (D,), "x, t, label", label=0, null_label=2)
    asked = Conditional(Flow(labelled, (D,), steps=1), [0.5, 0.5], null=2)
    assert set(PROBE(asked, *groups(), stream(2))) == {"middle", "last"}


def test_the_model_stays_as_it_was_and_the_scores_are_the_same_again() -> None:
    model = FlowMap(MLP((D,), 16, 2, num_times=2), (D,))
    first, again = (PROBE(model, *groups(), stream(2)) for _ in range(2))
    assert all(torch.equal(scores.positive, again[name].positive) for name, scores in first.items())
    assert len(first["last"].positive) == len(first["last"].negative) == 100


def impossible() -> dict[str, tuple[GenerativeModel, str]]:
    flow = Flow(MLP((D,), 16, 2), (D,), steps=1)
    labelled = AdaptedVelocity(MLP((D,), 16, 2, num_classes=2), (D,), "x, t, label", label=0)
    return {
        "chain": (Chain(flow, flow), "a Chain contains the activations of another model"),
        "filter": (Filtered(flow, Region(lambda x: x[:, 0] > 0)), "a Filtered contains"),
        "label": (Conditional(Flow(labelled, (D,), steps=1), [0.5, 0.5]), "it has no null condition"),
        "layer": (Generator(nn.Linear(D, D), (D,)), "fewer than two linear layers or convolutions"),
    }


@pytest.mark.parametrize("kind", ["chain", "filter", "label", "layer"])
def test_where_it_is_impossible_it_says_why(kind: str) -> None:
    model, words = impossible()[kind]
    with pytest.raises(ImpossibleAttackError, match=words):
        PROBE(model, *groups(), stream(2))


def test_too_few_points_and_bad_settings_are_refused() -> None:
    with pytest.raises(ImpossibleAttackError, match="19 points of a group, of 20 or more"):
        PROBE(Generator(Keeps([0]), (D,)), *groups(19), stream(2))
    for options, words in (({"images": 19}, "images=19"), ({"times": (1.0,)}, r"times=\[1\.0\]")):
        with pytest.raises(InputError, match=words):
            LinearProbe(**options)
