"""Autoencoders: standard latents and back, their training, and their bundle."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from unflow.data import LabelledData
from unflow.disk import bundle
from unflow.ground.errors import InputError
from unflow.ground.files import sha256_module
from unflow.ground.streams import stream
from unflow.models import Flow
from unflow.models.autoencoder import Autoencoder
from unflow.models.classifier import Classifier
from unflow.nets import MLP, ConvNet, new_net
from unflow.training.loop import fit
from unflow.training.method import Method, Problem
from unflow.training.originals import base_models
from unflow.training.originals.autoencoding import Autoencoding
from unflow.training.originals.base_models import new_model, train_model
from unflow.training.originals.classification import Classification
from unflow.training.originals.flow_matching import FlowMatching
from unflow.training.originals.reconstruction import FrozenCritic, ReconstructionLoss, mix_latents

NET = {"net": "conv_autoencoder", "latent": 3, "width": 8, "depth": 1}


def autoencoder() -> Autoencoder:
    """An autoencoder whose statistics are not those of a fresh one."""
    model = Autoencoder(new_net({**NET, "shape": [1, 4, 4]}, 0))
    model.net.standardise.running_mean.fill_(0.2)
    model.net.standardise.running_var.fill_(0.5)
    return model


def images(n: int = 10, seed: int = 0) -> Tensor:
    return torch.randn(n, 1, 4, 4, generator=stream(seed)).tanh()


# Encoding and decoding


def test_shapes_are_those_of_the_network() -> None:
    model = autoencoder()
    assert (model.sample_shape, model.latent_shape) == ((1, 4, 4), (3,))
    assert model.encode(images()).shape == (10, 3)
    assert model.decode(torch.zeros(4, 3)).shape == (4, 1, 4, 4)
    assert model.encode(images(0)).shape == (0, 3)


@pytest.mark.parametrize("training", [True, False])
def test_encoding_is_in_evaluation_mode_one_image_at_a_time_and_changes_nothing(training: bool) -> None:
    model = autoencoder().train(training)
    model.net.encoder.train(not training)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [part.training for part in model.modules()]
    x = images().requires_grad_()
    z = model.encode(x)
    assert not z.requires_grad
    torch.testing.assert_close(z, torch.cat([model.encode(row) for row in x.split(1)]))
    torch.testing.assert_close(z, model.encode(x, batch_size=3))
    torch.testing.assert_close(z, (model.net.encoder(x) - 0.2) / (0.5 + 1e-5) ** 0.5)
    assert [part.training for part in model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_decoding_lets_gradients_pass_and_in_batches_does_not() -> None:
    model = autoencoder()
    z = torch.randn(7, 3, generator=stream(1)).requires_grad_()
    decoded = model.decode(z)
    decoded.sum().backward()
    assert z.grad is not None
    assert float(z.grad.abs().min()) > 0
    many = model.decode_batches(z, batch_size=2)
    torch.testing.assert_close(many, decoded)
    assert not many.requires_grad


def test_reconstructing_is_encoding_and_decoding() -> None:
    model = autoencoder().eval()
    torch.testing.assert_close(model(images()), model.decode(model.encode(images())))


def test_an_autoencoder_is_rebuilt_from_its_config() -> None:
    model = autoencoder().eval()
    again = Autoencoder.from_config(json.loads(json.dumps(model.config())))
    again.load_state_dict(model.state_dict())
    assert again.config() == model.config()
    assert torch.equal(again.eval()(images()), model(images()))


def test_another_network_is_no_autoencoder() -> None:
    with pytest.raises(InputError, match=r"got a MLP as autoencoder; expected a nets\.ConvAutoencoder"):
        Autoencoder(MLP((1, 4, 4), 8, 1))


# Training


def test_the_loss_is_the_squared_error_of_an_entry() -> None:
    net, x = autoencoder().eval().net, images(4)
    noise = torch.randn(4, 3, generator=stream(1))
    expected = (net.decode(net.encode(x) + noise) - x).square().mean()
    torch.testing.assert_close(ReconstructionLoss(net)(x, noise), expected)


def critic(depth: int = 2) -> Classifier:
    """A small classifier of the images here, with statistics of its own."""
    net = new_net({"net": "resnet", "shape": [1, 4, 4], "outputs": 2, "width": 4, "depth": depth}, 5)
    return Classifier(net.eval(), ["even", "odd"])


def test_the_weighted_terms_are_added() -> None:
    net, x = autoencoder().eval().net, images(4)
    noise, label = torch.zeros(4, 3), torch.tensor([0, 1, 1, 0])
    reader, eye = nn.Linear(3, 2), FrozenCritic(critic())
    far, turn = torch.randn(4, 3, generator=stream(2)), torch.zeros(4, 4)  # it does not turn its head
    z, y = net.encode(x), net(x)
    expected = (y - x).square().mean() + 2 * eye.distance(y, x) + 3 * nnf.cross_entropy(reader(z), label)
    loss = ReconstructionLoss(net, eye, reader, perceptual=2.0, labels=3.0)
    torch.testing.assert_close(loss(x, noise, label), expected)
    out = torch.stack([z[0], z[1], (z[0] + z[2]) / 2**0.5, (z[1] + z[3]) / 2**0.5]) + far
    seen, read = critic()(net.decode(out)), reader(out).argmax(1)
    expected = expected + 4 * nnf.cross_entropy(seen, read)
    loss = ReconstructionLoss(net, eye, reader, perceptual=2.0, labels=3.0, consistency=4.0)
    torch.testing.assert_close(loss(x, noise, label, far, turn), expected)


def test_consistency_trains_the_decoder_alone() -> None:
    net, x, eye, reader = autoencoder().eval().net, images(4), FrozenCritic(critic()), nn.Linear(3, 2)
    zeros = torch.zeros(4, 3), torch.tensor([0, 1, 1, 0]), torch.zeros(4, 3), torch.zeros(4, 4)
    gradients = []
    for consistency in (0.0, 1.0):
        net.zero_grad()
        ReconstructionLoss(net, eye, reader, labels=1.0, consistency=consistency)(x, *zeros).backward()
        gradients.append({name: weight.grad.clone() for name, weight in net.named_parameters()})
    changed = {name for name, grad in gradients[0].items() if not torch.equal(grad, gradients[1][name])}
    assert changed == {name for name in gradients[0] if name.startswith(("decoder", "from_latent"))}


def test_latents_between_two_keep_the_variance_of_independent_ones() -> None:
    z = torch.randn(4001, 3, generator=stream(3))
    mixed = mix_latents(z)
    assert mixed.shape == z.shape
    assert torch.equal(mixed[:2001], z[:2001])
    torch.testing.assert_close(mixed[2001:].std(0), torch.ones(3), rtol=0, atol=0.05)


def test_the_perceptual_distance_compares_directions_of_maps_place_by_place() -> None:
    model, (x, y) = critic(), images(6).chunk(2)
    net: Any = model.net
    eye = FrozenCritic(model)
    assert float(eye.distance(x, x)) == 0
    torch.testing.assert_close(eye.distance(x, y), eye.distance(y, x))
    expected = torch.zeros(())
    for a, b in zip(net.maps(x), net.maps(y), strict=True):
        cosine = nnf.cosine_similarity(a, b, dim=1)
        lengths = [m.square().sum(1) / (m.square().sum(1) + 1e-3) for m in (a, b)]
        expected = expected + (sum(lengths) - 2 * cosine * (lengths[0] * lengths[1]).sqrt()).mean()
    torch.testing.assert_close(eye.distance(x, y), expected)


def test_the_critic_is_copied_and_its_images_get_gradients() -> None:
    model, x = critic().train(), images(4).requires_grad_()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    eye = FrozenCritic(model).train()
    (eye.distance(x, images(4, 1)) + eye(x).sum()).backward()
    assert x.grad is not None
    assert float(x.grad.abs().sum()) > 0
    for net in (model.net, eye.net):
        after = net.state_dict()
        assert all(torch.equal(value, before[f"net.{name}"]) for name, value in after.items())
    assert not any(parameter.requires_grad for parameter in eye.parameters())


def test_latents_trained_with_labels_tell_them_linearly() -> None:
    """The label is a sign that hardly changes the image: squared error alone would drop it."""
    x, label = stripes(600, 1), torch.arange(600) % 2
    x = x + 0.02 * (2 * label[:, None, None, None] - 1) * torch.eye(4)

    def accuracy(method: Autoencoding) -> float:
        net = new_net({**NET, "latent": 4, "shape": [1, 4, 4]}, 0)
        result = fit(method, Problem(model=Autoencoder(net), data=x, labels=label)).model
        assert isinstance(result, Autoencoder)
        z = torch.cat([result.encode(x), torch.ones(600, 1)], 1)
        plane = torch.linalg.lstsq(z, 2.0 * label[:, None] - 1).solution
        return float(((z @ plane)[:, 0] > 0).eq(label == 1).float().mean())

    method = Autoencoding(steps=300, batch_size=64, learning_rate=5e-3)
    assert accuracy(method) < 0.8
    assert accuracy(dataclasses.replace(method, labels=1.0)) > 0.95


def prepared(x: Tensor) -> dict[str, Tensor]:
    return Autoencoding(batch_size=8).prepare(Problem(model=autoencoder(), data=x), stream(0))


def same_images(a: Tensor, b: Tensor) -> Tensor:
    """Return which images of a are which of b, [len(a), len(b)]."""
    return (a.flatten(1)[:, None] == b.flatten(1)).all(2)


def test_a_batch_has_images_as_they_are_and_noise_of_the_stated_size() -> None:
    x = images(50)
    batch = Autoencoding(batch_size=4000, noise=0.3).draw(prepared(x), stream(2))
    assert batch["noise"].shape == (4000, 3)
    assert float(batch["noise"].std()) == pytest.approx(0.3, rel=0.03)
    found = same_images(batch["x"], x)
    assert bool(found.any(1).all())
    assert bool(found.any(0).all())


def test_half_of_the_images_are_mirrored_if_asked() -> None:
    x = images(50)
    batch = Autoencoding(batch_size=2000, flip=True).draw(prepared(x), stream(2))["x"]
    same, mirrored = (same_images(batch, y).any(1) for y in (x, x.flip(3)))
    assert bool((same ^ mirrored).all())
    assert float(mirrored.float().mean()) == pytest.approx(0.5, abs=0.05)


def stripes(n: int, seed: int) -> Tensor:
    """Images that three numbers decide: each is a mixture of three patterns, within [-0.9, 0.9]."""
    patterns = torch.tensor([[1, 1, -1, -1], [1, -1, -1, 1], [1, -1, 1, -1]]).float()[:, None, :, None]
    amounts = 0.6 * torch.rand(n, 3, generator=stream(seed)) - 0.3
    return (amounts[:, :, None, None, None] * patterns).sum(1).expand(n, 1, 4, 4).contiguous()


def test_a_short_training_finds_the_three_numbers_behind_images() -> None:
    """New images lose under a fifth of their variance, where two numbers would lose a third."""
    model = Autoencoder(new_net({**NET, "shape": [1, 4, 4]}, 0))
    method = Autoencoding(steps=500, batch_size=64, learning_rate=5e-3, noise=0.05)
    result = fit(method, Problem(model=model, data=stripes(1000, 1))).model
    assert isinstance(result, Autoencoder)
    assert not result.training
    x = stripes(1000, 2)
    lost = float((result(x) - x).square().mean() / x.var())
    assert lost < 0.2
    z = result.encode(x)
    torch.testing.assert_close(z.mean(0), torch.zeros(3), rtol=0, atol=0.15)
    torch.testing.assert_close(z.std(0), torch.ones(3), rtol=0, atol=0.15)


def test_what_is_no_autoencoder_and_a_batch_larger_than_the_data_are_refused() -> None:
    with pytest.raises(InputError, match="got a Flow to train; expected an Autoencoder"):
        Autoencoding().check(Problem(model=Flow(MLP((2,), 8, 1), (2,)), data=images()))
    with pytest.raises(InputError, match="Autoencoding needs data"):
        Autoencoding().check(Problem(model=autoencoder()))
    with pytest.raises(InputError, match=r"batch_size=128 for 10 images"):
        fit(Autoencoding(), Problem(model=autoencoder(), data=images()))


def test_terms_without_what_they_need_are_refused() -> None:
    problem = Problem(model=autoencoder(), data=images())
    with pytest.raises(InputError, match="Autoencoding needs critic and labels"):
        Autoencoding(perceptual=1.0, labels=1.0).check(problem)
    blind = Classifier(ConvNet((1, 4, 4), 2, width=8), ["even", "odd"])
    with pytest.raises(InputError, match="got a ConvNet as critic; expected a classifier of net: resnet"):
        Autoencoding(perceptual=1.0).check(dataclasses.replace(problem, critic=blind))
    with pytest.raises(InputError, match=r"got labels=-1\.0; expected a number >= 0"):
        Autoencoding(labels=-1.0)
    with pytest.raises(InputError, match=r"got consistency > 0 and labels=0; .* write labels=1\.0"):
        Autoencoding(consistency=1.0)


# Into a bundle


def labelled() -> LabelledData:
    return LabelledData("stripes", stripes(64, 1), torch.arange(64) % 2, ["even", "odd"])


def test_a_trained_autoencoder_is_a_bundle_that_is_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, eye = Autoencoding(steps=3, batch_size=16, perceptual=1.0, labels=1.0, consistency=1.0), critic()

    def train(seed: int, eye: Classifier | None = None) -> Any:
        return train_model("autoencoder", NET, method, labelled(), tmp_path, seed=seed, critic=eye)

    model = train(1, eye)
    assert isinstance(model, Autoencoder)
    assert bundle.read_lineage(tmp_path)["kind"] == "autoencoder"
    assert not list(tmp_path.glob("checkpoint*"))

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(base_models, "fit", refuse)
    again = train(1, eye)
    assert isinstance(again, Autoencoder)
    assert sha256_module(again) == sha256_module(model) == sha256_module(bundle.load_autoencoder(tmp_path))
    with pytest.raises(InputError, match="seed: 1 -> 2"):
        train(2, eye)
    with pytest.raises(InputError, match="critic: "):
        train(1, critic(depth=1))


def test_the_network_takes_its_shape_from_the_data_and_its_weights_from_the_seed() -> None:
    one, two, other = (new_model("autoencoder", NET, labelled(), seed) for seed in (1, 1, 2))
    assert one.sample_shape == (1, 4, 4)
    assert sha256_module(one) == sha256_module(two) != sha256_module(other)
    with pytest.raises(InputError, match="got a MLP as autoencoder"):
        new_model("autoencoder", {"net": "mlp"}, labelled(), 0)


@pytest.mark.parametrize(
    ("kind", "method", "words"),
    [
        (
            "autoencoder",
            FlowMatching(),
            "FlowMatching does not train the kind autoencoder; expected autoencoding",
        ),
        ("autoencoder", Classification(), "the kind autoencoder; expected autoencoding"),
        ("flow", Autoencoding(), "the kind flow; expected flow_matching, mean_flow or distill"),
        ("classifier", Autoencoding(), "the kind classifier; expected classification"),
    ],
)
def test_a_method_that_does_not_train_the_kind_is_refused(
    kind: str, method: Method, words: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=words):
        train_model(kind, NET, method, labelled(), tmp_path / "out")
    assert not (tmp_path / "out").exists()
