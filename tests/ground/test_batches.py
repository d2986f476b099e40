"""Rows at once: fewer of them give the same results, and no pass sees more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import unflow as uf
from unflow.commands.cli import main
from unflow.energies import ClassLogOdds, evaluate
from unflow.ground.batches import in_batches
from unflow.ground.errors import InputError
from unflow.methods import ERFM, UNLEARNERS, LatentTransport
from unflow.models.autoencoder import Autoencoder
from unflow.models.classifier import Classifier
from unflow.nets import new_net


class Watched(nn.Module):
    """A network that remembers the most rows it was given at once, where no gradient is kept."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.seen = net, [0]

    def __deepcopy__(self, memo: object) -> Watched:
        copy = Watched(nn.Sequential(nn.Linear(2, 2)))
        copy.net.load_state_dict(self.net.state_dict())
        copy.seen = self.seen  # copies tell the same list
        return copy

    def forward(self, x: Tensor, *_: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            self.seen[0] = max(self.seen[0], len(x))
        return self.net(x)


def linear(seed: int) -> nn.Sequential:
    layer = nn.Linear(2, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(2) + 0.3 * torch.randn(2, 2, generator=uf.stream(seed)))
        layer.bias.zero_()
    return nn.Sequential(layer)


def shaken(net: nn.Module) -> nn.Module:
    """The network with weights drawn anew: a fresh one returns zeros."""
    with torch.no_grad():
        for weight in net.parameters():
            weight.copy_(0.3 * torch.randn(weight.shape, generator=uf.stream(4)))
    return net


def test_rows_are_split_into_no_more_than_both_allow() -> None:
    x = torch.arange(10)
    assert [len(part) for part in in_batches(x, 4)] == [4, 4, 2]
    with uf.batch_rows(3):
        assert [len(part) for part in in_batches(x, 4)] == [3, 3, 3, 1]
        assert [len(part) for part in in_batches(x, 2)] == [2] * 5
        with uf.batch_rows(None):
            assert len(in_batches(x, 4)[0]) == 3
        with uf.batch_rows(5):
            assert len(in_batches(x, 9)[0]) == 5
        assert len(in_batches(x, 4)[0]) == 3
    assert len(in_batches(x, 4)[0]) == 4
    for wrong in (0, -1):
        with pytest.raises(InputError, match="batch_rows"), uf.batch_rows(wrong):
            pass


def test_samples_latents_features_and_energies_do_not_depend_on_the_rows_at_once() -> None:
    net = {"net": "mlp", "shape": [1, 8, 8], "width": 8, "depth": 1}
    flow = uf.Flow(shaken(new_net(net, 0)), (1, 8, 8), steps=2)
    guide = Classifier(shaken(new_net({**net, "num_times": 0, "outputs": 4}, 1)), list("abcd"))
    room = Autoencoder(new_net({**net, "net": "conv_autoencoder", "latent": 3}, 2)).eval()
    energy = ClassLogOdds(guide, [1], 2.0)

    def results() -> list[Tensor]:
        x = flow.sample(50, uf.stream(0))
        codes = room.encode(x)
        return [
            x,
            evaluate(energy, x),
            guide.features(x),
            guide.probabilities(x),
            codes,
            room.decode_batches(codes),
        ]

    whole = results()
    with uf.batch_rows(7):
        parts = results()
    for a, b in zip(whole, parts, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["latent_transport", "uot", "reject", "erfm_resample"])
def test_unlearning_sees_no_more_rows_and_ends_in_the_same_model(name: str) -> None:
    """Banks are drawn, scored and coupled in parts; the batches of a training, 32 rows here, are its own."""
    inner, guide = Watched(linear(0)), Watched(linear(1))
    model = uf.Flow(inner, (2,), "euler", 2) if name == "erfm_resample" else uf.Generator(inner, (2,))
    inner.config = {"builder": "torch.nn:Linear", "options": {"in_features": 2, "out_features": 2}}  # type: ignore[assignment]
    target = uf.Target(model, ClassLogOdds(guide, [1], 0.0))
    small: dict[str, Any] = {"steps": 1, "bank_size": 128, "batch_size": 32}
    methods = {
        "latent_transport": LatentTransport(**small),
        "uot": uf.methods.UOT(**small),
        "reject": UNLEARNERS["reject"],
        "erfm_resample": ERFM(
            **small, weighting="resample", block_size=64, place="prior", coupling="independent"
        ),
    }

    def result() -> Tensor:
        inner.seen[0] = guide.seen[0] = 0
        made = uf.unlearn(target, methods[name])
        return made.model.push_batches(model.prior(64, uf.stream(3)))

    whole, most = result(), (inner.seen[0], guide.seen[0])
    assert min(most) > 40
    with uf.batch_rows(40):
        parts = result()
    assert max(inner.seen[0], guide.seen[0]) <= 40
    torch.testing.assert_close(whole, parts, rtol=1e-4, atol=1e-4)


def test_the_command_line_takes_them_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    uf.save(uf.Flow(new_net({"net": "mlp", "shape": [2], "width": 4, "depth": 1}, 0), (2,)), "flow")
    seen: list[int] = []
    push = uf.Flow.push

    def counted(self: uf.Flow, z: Tensor) -> Tensor:
        seen.append(len(z))
        return push(self, z)

    monkeypatch.setattr(uf.Flow, "push", counted)
    assert main(["sample", "flow", "--n", "10", "--batch_rows", "4", "--out", "drawn"]) == 0
    assert seen == [4, 4, 2]
    assert main(["sample", "flow", "--n", "10", "--out", "drawn"]) == 0  # the same run
    assert main(["sample", "flow", "--batch-rows", "0", "--out", "other"]) == 2
    assert "got batch_rows=0; expected 1 sample at once" in capsys.readouterr().err
    assert not Path("other").exists()
