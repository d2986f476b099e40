"""Anchor energies: exact values, what they do not depend on, and what a few images lead to."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import unflow as uf
from unflow.energies import Anchor, AnchorLogOdds, CallableEnergy, Energy, MixtureLogOdds, features_of
from unflow.energies.anchoring import (
    add_threshold,
    cluster_points,
    count_visits,
    find_nearest,
    grow_request,
    make_anchor,
)
from unflow.ground.errors import InputError
from unflow.ground.streams import stream
from unflow.models.classifier import Classifier, Features
from unflow.models.saved_energies import build_energy, describe_energy
from unflow.nets import new_net

FLAT = nn.Flatten()
X = torch.randn(40, 3, generator=stream(0), dtype=torch.float64)
IMAGES = torch.tensor([[4.0, 0.0], [4.5, 0.5]], dtype=torch.float64)


def blobs(n: int = 600) -> tuple[Tensor, Tensor]:
    """Three round clusters in the plane, and which is which; the first has a sixth of the points."""
    which = torch.tensor([0, 1, 1, 2, 2, 2]).repeat(n // 6)
    centres = torch.tensor([[4.0, 0.0], [-4.0, 0.0], [0.0, 6.0]], dtype=torch.float64)
    noise = torch.randn(len(which), 2, generator=stream(3), dtype=torch.float64)
    return centres[which] + 0.5 * noise, which


# Similarity


def test_the_cosine_is_that_of_the_angle_at_the_centre() -> None:
    anchor = Anchor(FLAT, torch.tensor([2.0, 1.0]), centre=torch.tensor([1.0, 1.0]))
    x = torch.tensor([[5.0, 1.0], [1.0, 7.0], [0.0, 1.0], [2.0, 2.0]])
    torch.testing.assert_close(anchor(x), torch.tensor([1.0, 0.0, -1.0, math.sqrt(0.5)]))
    assert anchor.lower_bound == -1.0


def test_the_rbf_kernel_is_one_at_the_anchor_and_falls_by_its_radius() -> None:
    anchor = Anchor(FLAT, torch.tensor([2.0, 1.0]), "rbf", radius=2.0)
    x = torch.tensor([[2.0, 1.0], [4.0, 1.0], [2.0, 5.0]])
    torch.testing.assert_close(anchor(x), torch.tensor([1.0, math.exp(-0.5), math.exp(-2.0)]))
    assert anchor.lower_bound == 0.0


@pytest.mark.parametrize("kernel", ["cosine", "rbf"])
def test_the_similarity_does_not_change_under_shift_scale_and_rotation(kernel: Any) -> None:
    turn, _ = torch.linalg.qr(torch.randn(3, 3, generator=stream(1), dtype=torch.float64))

    def moved(x: Tensor) -> Tensor:
        return 3 * x @ turn + 5

    before = make_anchor(FLAT, X[:4], X, kernel)(X)
    after = make_anchor(FLAT, moved(X[:4]), moved(X), kernel)(moved(X))
    torch.testing.assert_close(after, before)


def test_the_anchor_is_the_mean_feature_in_any_order() -> None:
    anchor = make_anchor(FLAT, X[:5])
    torch.testing.assert_close(anchor.anchor, X[:5].mean(0))
    torch.testing.assert_close(make_anchor(FLAT, X[:5].flip(0))(X), anchor(X))


def test_one_image_is_most_similar_to_itself() -> None:
    for kernel in ("cosine", "rbf"):
        F = make_anchor(FLAT, X[7:8], X, kernel)(X)
        assert int(F.argmax()) == 7
        assert float(F.max()) == pytest.approx(1.0)


# Log-odds of the similarity


def test_the_bounded_similarity_is_its_formula() -> None:
    energy = AnchorLogOdds(CallableEnergy(lambda x: x[:, 0]), threshold=0.5, temperature=0.25, margin=1.0)
    F = energy(torch.tensor([[0.5], [1.0], [0.0]]))
    torch.testing.assert_close(F, torch.tensor([1.0, 3.0, -1.0]).exp().log1p())
    assert energy.lower_bound == 0.0


def test_the_threshold_of_two_equal_normal_laws_is_halfway() -> None:
    """m = -+1, v = 0.04, w = 1/2: threshold 0, temperature v / 2."""
    points = torch.linspace(0.0005, 0.9995, 1000, dtype=torch.float64)
    half = 0.2 * torch.special.ndtri(points)
    s = torch.cat([half - 1, half + 1])
    anchor = Anchor(FLAT, torch.tensor([0.0, 1.0], dtype=torch.float64))
    cosine = s / s.abs().max()
    x = torch.stack([(1 - cosine.square()).clamp(min=0).sqrt(), cosine], dim=1)
    energy = add_threshold(anchor, x)
    scale = 1 / float(s.abs().max())
    assert float(energy.threshold) == pytest.approx(0.0, abs=1e-3)
    assert float(energy.temperature) == pytest.approx(0.02 * scale, rel=0.02)


# What a few images lead to


@pytest.mark.parametrize("k", [1, 2])
def test_the_target_of_a_grown_request_keeps_the_other_clusters_and_no_more(k: int) -> None:
    x, which = blobs()
    weight = torch.exp(-grow_request(FLAT, IMAGES[:k], x, stream(0), share=1 / 6, margin=2.0, parts=4)(x))
    assert float(weight[which == 0].max()) < 0.01
    assert float(weight[which != 0].min()) > 0.99


def test_a_grown_energy_is_found_again_and_does_not_depend_on_the_order_of_the_images() -> None:
    x, _ = blobs()
    first, again = (
        grow_request(FLAT, images, x, stream(0), parts=4)(x) for images in (IMAGES, IMAGES.flip(0))
    )
    torch.testing.assert_close(first, again)


def test_a_walk_does_not_leave_its_cluster_and_conserves_its_mass() -> None:
    x, which = blobs(240)
    visits = count_visits(x, IMAGES)
    assert bool((visits[which == 0] > 0).all())
    assert float(visits[which != 0].abs().sum()) == 0.0


def test_the_nearest_point_of_a_point_is_itself() -> None:
    distance, index = find_nearest(X, X, 2)
    assert torch.equal(index[:, 0], torch.arange(len(X)))
    assert bool((distance[:, 1] > 0).all())


def test_k_means_finds_separate_clusters() -> None:
    x, which = blobs()
    part = cluster_points(x, 6, stream(0))
    for k in part.unique():
        assert len(which[part == k].unique()) == 1


def test_the_mixture_is_the_log_odds_of_its_gaussians() -> None:
    shares = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    means, A = X[:3], torch.randn(3, 3, 3, generator=stream(2), dtype=torch.float64)
    covariances = A @ A.mT + torch.eye(3)
    energy = MixtureLogOdds(FLAT, torch.zeros(3).double(), torch.eye(3).double(), shares, means, covariances)
    laws = torch.distributions.MultivariateNormal(means, covariances)
    density = shares * laws.log_prob(X[:, None]).exp()
    torch.testing.assert_close(torch.exp(-energy(X)), 1 - density[:, 0] / density.sum(1))


def test_the_gradients_are_the_derivatives() -> None:
    x = X[:6].clone().requires_grad_()
    for kernel in ("cosine", "rbf"):
        anchor = make_anchor(FLAT, X[10:13], X, kernel)
        assert torch.autograd.gradcheck(anchor, x)
        assert torch.autograd.gradcheck(AnchorLogOdds(anchor, 0.1, 0.2, 1.0).double(), x)
    points, _ = blobs()
    energy = grow_request(FLAT, IMAGES, points, stream(0), parts=4)
    assert torch.autograd.gradcheck(energy, points[::100].clone().requires_grad_())


# In files


def features_extractor() -> Features:
    config = {"net": "mlp", "shape": (2,), "width": 8, "depth": 1, "num_times": 0, "outputs": 3}
    return Features(Classifier(new_net(config, 0), ["a", "b", "c"]))


def test_the_features_of_a_classifier_have_a_gradient_and_are_its_own() -> None:
    extractor, x = features_extractor(), torch.randn(5, 2, generator=stream(4), requires_grad=True)
    assert torch.equal(extractor(x), extractor.classifier.features(x))
    assert extractor(x).requires_grad


@pytest.mark.parametrize("extractor", [FLAT, features_extractor()], ids=["flatten", "features"])
def test_an_energy_of_images_comes_back_from_its_description_and_weights(extractor: nn.Module) -> None:
    x = blobs()[0].float()
    images = IMAGES.float()
    anchor = make_anchor(extractor, images, x, "rbf")
    for energy in (
        anchor,
        add_threshold(anchor, x, 2.0),
        grow_request(extractor, images, x, stream(0), parts=4),
    ):
        again = build_energy(describe_energy(energy))
        again.load_state_dict(energy.state_dict())
        assert torch.equal(again(x), energy(x))
        assert again.describe() == energy.describe()


def test_a_filter_by_a_few_images_is_a_bundle(tmp_path: Path) -> None:
    x = blobs()[0].float()
    model = uf.Generator(new_net({"net": "mlp", "shape": (2,), "num_times": 0}, 0), (2,))
    filtered = uf.Filtered(model, grow_request(FLAT, IMAGES.float(), x, stream(0), parts=4))
    uf.save(filtered, tmp_path / "filtered")
    again = uf.load(tmp_path / "filtered")
    assert torch.equal(again.sample(50, stream(1)), filtered.sample(50, stream(1)))


def test_another_extractor_cannot_be_described() -> None:
    with pytest.raises(InputError, match=r"behind a Linear.*expected nn.Flatten"):
        describe_energy(make_anchor(nn.Linear(2, 3).double(), IMAGES))


# Bad input


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Anchor(FLAT, X[0], "linear"),  # type: ignore[arg-type]  # refused
            r"got the kernel 'linear'; expected cosine or rbf",
        ),
        (lambda: Anchor(FLAT, X[:2]), r"anchor of shape \[2, 3\]; expected one finite vector"),
        (lambda: Anchor(FLAT, X[0] * math.nan), "expected one finite vector"),
        (lambda: Anchor(FLAT, X[0], centre=X[0, :2]), r"centre of shape \[2\] .*of the same shape"),
        (lambda: Anchor(FLAT, X[0], centre=X[0]), "anchor at the centre of the cosine"),
        (lambda: Anchor(FLAT, X[0], "rbf", radius=0.0), r"radius=0.0; expected a finite number > 0"),
        (lambda: Anchor(FLAT, X[0])(X[:, :2]), "returned 2 features; expected 3"),
        (lambda: features_of(nn.Flatten(0), X), r"shape \[120\] for 40 samples; expected \[40, ...\]"),
        (lambda: AnchorLogOdds(Anchor(FLAT, X[0]), math.inf, 1.0), "threshold=inf; expected a finite"),
        (lambda: AnchorLogOdds(Anchor(FLAT, X[0]), 0.0, 0.0), "temperature=0.0; expected a finite"),
        (lambda: AnchorLogOdds(Anchor(FLAT, X[0]), 0.0, 1.0, -1.0), "margin=-1.0; expected a finite"),
        (lambda: make_anchor(FLAT, X[:0]), "got 0 images; expected 1 or more"),
        (lambda: make_anchor(FLAT, X[:2], X[:0]), "got 0 samples; expected 1 or more"),
        (lambda: make_anchor(FLAT, X[:2] * math.nan), "features of the images are NaN or infinite"),
        (lambda: add_threshold(Anchor(FLAT, X[0]), X[:1].expand(9, 3)), "the same number"),
        (
            lambda: grow_request(FLAT, X[:2], X, stream(0), share=0.0),
            r"share=0.0; expected a number in \(0, 0.5\]",
        ),
        (lambda: grow_request(FLAT, X[:2], X, stream(0), parts=0), "parts=0 and rank=16; expected 1 or more"),
        (
            lambda: grow_request(FLAT, X[:2], X, stream(0)),
            "got 40 samples for 20 parts; expected 400 or more",
        ),
    ],
)
def test_bad_input_is_refused_in_one_sentence(make: object, message: str) -> None:
    assert callable(make)
    with pytest.raises(InputError, match=message):
        make()


def mixture(**changes: Tensor) -> Energy:
    parts: dict[str, Any] = {
        "origin": torch.zeros(3),
        "basis": torch.eye(3),
        "shares": torch.ones(2),
        "means": torch.zeros(2, 3),
        "covariances": torch.eye(3).repeat(2, 1, 1),
    }
    return MixtureLogOdds(FLAT, **{**parts, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shares": torch.ones(3)}, r"got the shapes .*two parts or more"),
        ({"means": torch.zeros(1, 3)}, r"got the shapes .*two parts or more"),
        ({"shares": torch.tensor([1.0, 0.0])}, r"got the shares \[1.0, 0.0\]; expected finite numbers > 0"),
        ({"covariances": torch.zeros(2, 3, 3)}, "2 of 2 covariances that are not positive definite"),
    ],
)
def test_a_mixture_that_does_not_fit_itself_is_refused(changes: dict[str, Tensor], message: str) -> None:
    with pytest.raises(InputError, match=message):
        mixture(**changes)
