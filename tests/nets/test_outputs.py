"""Networks that return probabilities, as networks with logits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import unflow as uf
from unflow.disk import bundle
from unflow.energies import ClassLogOdds
from unflow.ground.errors import InputError
from unflow.nets import OutputsAs, build_net, new_net
from unflow.nets.outputs import Output

X = torch.randn(80, 4, generator=torch.Generator().manual_seed(0))


def linear(outputs: int = 3) -> nn.Linear:
    net = nn.Linear(4, outputs)
    with torch.no_grad():
        net.weight.copy_(torch.randn(outputs, 4, generator=torch.Generator().manual_seed(1)))
        net.bias.zero_()
    return net


@pytest.mark.parametrize(
    ("last", "output", "outputs"),
    [
        (nn.Softmax(1), "probabilities", 3),
        (nn.Softmax(1), "probabilities", 2),
        (nn.Sigmoid(), "sigmoid", 3),
        (nn.Sigmoid(), "sigmoid", 1),
        (nn.Sigmoid(), "probabilities", 1),
        (nn.Identity(), "logits", 3),
    ],
)
def test_the_energy_of_probabilities_is_that_of_their_logits_and_so_is_its_gradient(
    last: nn.Module, output: Output, outputs: int
) -> None:
    net, found = linear(outputs), []
    for part in (net, OutputsAs(nn.Sequential(net, last), output)):
        x = X.clone().requires_grad_()
        F = ClassLogOdds(part, [1], 2.0)(x)
        (gradient,) = torch.autograd.grad(F.sum(), x)
        found.append((F.detach(), gradient))
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-4)


def test_a_saturated_softmax_keeps_its_gradient() -> None:
    x = (30 * X).requires_grad_()
    F = ClassLogOdds(OutputsAs(nn.Sequential(linear(), nn.Softmax(1)), "probabilities"), [1], 2.0)(x)
    (gradient,) = torch.autograd.grad(F.sum(), x)
    assert bool((gradient[F > 10].abs().sum(1) > 0).all())
    assert bool(torch.isfinite(gradient).all())


@pytest.mark.parametrize("last", [nn.Softmax(1), nn.Sigmoid()])
def test_an_energy_of_undeclared_probabilities_is_refused_in_every_evaluation(last: nn.Module) -> None:
    energy = ClassLogOdds(nn.Sequential(linear(), last), [1], 2.0)
    with pytest.raises(InputError, match="expected logits"):
        uf.energies.evaluate(energy, X)


def test_it_is_rebuilt_from_its_description_and_in_a_bundle(tmp_path: Path) -> None:
    net = new_net({"net": "mlp", "shape": [4], "outputs": 3, "width": 8, "depth": 1, "num_times": 0}, 0)
    again = build_net(OutputsAs(net, "sigmoid").config)
    assert isinstance(again, OutputsAs)
    assert again.output == "sigmoid"
    guide = uf.Classifier(OutputsAs(_Softened(net), "probabilities"), ["a", "b", "c"])
    with pytest.raises(InputError):
        bundle.save(guide, tmp_path / "none")  # a network of no description
    plain = uf.Classifier(OutputsAs(net, "logits"), ["a", "b", "c"])
    bundle.save(plain, tmp_path / "guide")
    found = bundle.load_classifier(tmp_path / "guide")
    assert torch.equal(found(X), plain(X))
    assert torch.equal(found.features(X), plain.features(X))


class _Softened(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x)
        return logits.softmax(1)


def test_a_classifier_of_one_logit_has_two_probabilities() -> None:
    judge = uf.Classifier(linear(1), ["no", "yes"])
    p = judge.probabilities(X)
    torch.testing.assert_close(p[:, 1], linear(1)(X)[:, 0].sigmoid())
    torch.testing.assert_close(p.sum(1), torch.ones(len(X)))
