"""Energies of classifiers and scores from elsewhere: exact values, where there is a gradient, identity."""

from __future__ import annotations

import copy
import math
import pickle
import socket
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as nnf
from onnx import TensorProto, helper
from PIL import Image
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.multiclass import OneVsRestClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier
from torch import Tensor, nn

import unflow as uf
from onnx_models import FLOAT, linear_onnx, model_of
from unflow.energies import (
    AttributeLogOdds,
    BlackBox,
    CallableEnergy,
    ClassLogOdds,
    Decoded,
    Energy,
    EstimatorLogOdds,
    ImageNetClassifier,
    LinearClassifier,
    OnnxLogOdds,
    Region,
    ScoreLogOdds,
    frozen,
)
from unflow.energies.anchoring import add_threshold, grow_request, make_anchor
from unflow.energies.fingerprint import fingerprint
from unflow.energies.opaque import log_probabilities
from unflow.ground.errors import InputError
from unflow.ground.files import sha256_module
from unflow.ground.plugins import import_optional
from unflow.ground.streams import stream
from unflow.methods import UNLEARNERS, LatentTransport, Reject
from unflow.nets import MLP, new_net
from unflow.training.checks import check_energy
from unflow.training.method import Problem, find_gradient_free

X = torch.randn(60, 4, generator=stream(0))
IMAGES = X.reshape(60, 1, 2, 2).tanh()
ROWS = X.numpy()
LABELS = (X[:, 0] + 0.5 * X[:, 1] > 0).int().numpy() + (X[:, 2] > 0.5).int().numpy()
NAMES = np.array(["cat", "dog", "fox"])[LABELS]
WEIGHT = torch.randn(4, 3, generator=stream(1))


def logistic() -> LogisticRegression:
    return LogisticRegression().fit(ROWS, LABELS)


def odds_of(p: np.ndarray, forget: list[int]) -> Tensor:
    """log p(forget) - log p(rest)."""
    inside = torch.as_tensor(p[:, forget].sum(1))
    return (torch.logit(inside.double())).float()


# scikit-learn


@pytest.mark.parametrize("forget", [[0], [1], [0, 2]])
def test_an_estimator_gives_the_log_odds_of_its_probabilities(forget: list[int]) -> None:
    raw = EstimatorLogOdds(logistic(), forget, margin=None)
    expected = odds_of(logistic().predict_proba(ROWS), forget)
    torch.testing.assert_close(raw(X), expected, rtol=1e-4, atol=1e-4)
    F = EstimatorLogOdds(logistic(), forget, margin=3.0)
    torch.testing.assert_close(F(X), nnf.softplus(raw(X) + 3.0))
    assert (F.lower_bound, raw.lower_bound) == (0.0, -math.inf)


def test_at_margin_zero_a_sample_weighs_by_the_probability_of_the_rest() -> None:
    weight = torch.exp(-EstimatorLogOdds(logistic(), 1)(X))
    torch.testing.assert_close(weight, torch.as_tensor(1 - logistic().predict_proba(ROWS)[:, 1]).float())


def test_an_estimator_is_asked_exactly_as_class_log_odds_asks_a_network() -> None:
    for output in ("predict_proba", "decision_function"):
        F = EstimatorLogOdds(logistic(), [2], 4.0, output)
        torch.testing.assert_close(F(X), ClassLogOdds(LinearClassifier(logistic()), [2], 4.0)(X))


@pytest.mark.parametrize("forget", ["dog", ["dog"], np.array(["dog"])])
def test_classes_are_named_as_the_estimator_names_them(forget: object) -> None:
    named = EstimatorLogOdds(LogisticRegression().fit(ROWS, NAMES), forget, margin=2.0)
    torch.testing.assert_close(named(X), EstimatorLogOdds(logistic(), 1, margin=2.0)(X))
    assert named.describe() == "class dog by a LogisticRegression (margin 2)"
    shifted = EstimatorLogOdds(LogisticRegression().fit(ROWS, LABELS + 1), 2, margin=2.0)
    torch.testing.assert_close(shifted(X), named(X))


def test_the_votes_of_a_tree_stop_at_the_floor() -> None:
    tree = DecisionTreeClassifier(random_state=0).fit(ROWS, LABELS == 1)
    raw = EstimatorLogOdds(tree, True, margin=None, floor=1e-3)(X)
    expected = torch.where(torch.as_tensor(LABELS == 1), math.log(1000), -math.log(1000))
    torch.testing.assert_close(raw, expected.float())


def test_scores_of_two_classes_are_the_logit_of_the_second() -> None:
    svm = LinearSVC().fit(ROWS, LABELS == 1)
    for label, sign in ((True, 1), (False, -1)):
        raw = EstimatorLogOdds(svm, label, None, "decision_function")
        torch.testing.assert_close(raw(X), sign * torch.as_tensor(svm.decision_function(ROWS)).float())


def test_images_are_flattened_or_turned_into_features() -> None:
    flat = EstimatorLogOdds(logistic(), 1)(X)
    torch.testing.assert_close(EstimatorLogOdds(logistic(), 1)(X.reshape(60, 1, 2, 2)), flat)
    for features in (nn.Flatten(), lambda x: x.flatten(1), lambda x: x.flatten(1).double().numpy()):

        def read(x: Tensor, features: Any = features) -> Any:
            return features(x.atanh())

        energy = EstimatorLogOdds(logistic(), 1, features=read)
        torch.testing.assert_close(energy(IMAGES), flat, rtol=1e-4, atol=1e-4)
    network = nn.Sequential(nn.Dropout(0.5), nn.Flatten(), nn.Linear(4, 4))
    energy = EstimatorLogOdds(logistic(), 1, features=network)
    expected = EstimatorLogOdds(logistic(), 1)(network[2](network[1](IMAGES)))
    torch.testing.assert_close(energy(IMAGES), expected)
    assert network[2].weight.requires_grad


@pytest.mark.parametrize(
    "estimator",
    [
        RandomForestClassifier(5, random_state=0),
        KNeighborsClassifier(),
        CalibratedClassifierCV(LinearSVC(), cv=2),
        make_pipeline(StandardScaler(), LogisticRegression()),
    ],
    ids=lambda e: type(e).__name__,
)
def test_any_classifier_is_an_energy_with_an_identity(estimator: Any) -> None:
    energy = EstimatorLogOdds(estimator.fit(ROWS, LABELS), 1, margin=2.0)
    check_energy(energy, X)
    before, F = sha256_module(energy), energy(X)
    assert sha256_module(EstimatorLogOdds(clone(estimator).fit(ROWS, LABELS), 1, margin=2.0)) == before
    estimator.fit(ROWS, (LABELS + 1) % 3)  # the energy keeps its own
    torch.testing.assert_close(energy(X), F)
    assert sha256_module(EstimatorLogOdds(estimator, 1, margin=2.0)) != before


def test_what_changes_an_energy_changes_its_identity() -> None:
    def shifted(x: Tensor, by: float = 0.0) -> Tensor:
        return x + by

    energies = [
        EstimatorLogOdds(logistic(), 1),
        EstimatorLogOdds(logistic(), 1, output="decision_function"),
        EstimatorLogOdds(logistic(), 1, floor=1e-5),
        EstimatorLogOdds(logistic(), 1, features=shifted),
        EstimatorLogOdds(logistic(), 1, features=nn.Linear(4, 4)),
    ]
    assert len({sha256_module(energy) for energy in energies}) == len(energies)
    assert sha256_module(EstimatorLogOdds(logistic(), 1)) == sha256_module(energies[0])


def adding(number: Any) -> Callable[[Tensor], Any]:
    return lambda x: x + number


def test_a_fingerprint_is_that_of_the_contents() -> None:
    record = np.array([(1, 2.0)], dtype=[("a", "i1"), ("b", "f8")])
    contents: list[Any] = [
        None,
        True,
        1,
        1.0,
        "1",
        b"1",
        [1],
        (1,),
        [[1], []],
        [[], [1]],
        {1: 2},
        {2: 1},
        {1, 2},
        {1},
        np.ones(2),
        np.ones((2, 1)),
        np.ones(2, np.float32),
        np.array(["1", None], object),
        np.array(None, object),
        record,
        record["b"],
        torch.ones(2),
        nn.Linear,
        math,
        np.log,
        np.exp,
        torch.ones(2).bfloat16(),
        torch.tensor(1.0),
        adding(1),
        adding(2),
        adding(math),
        adding(nn.ReLU()),
        lambda x: x + 3,
        lambda x: x + 4,
        np.random.default_rng(0),
    ]
    seen = {bytes(fingerprint(each).tolist()) for each in contents}
    assert len(seen) == len(contents)
    copies = copy.deepcopy([each for each in contents if each is not math])
    assert {bytes(fingerprint(each).tolist()) for each in copies} < seen
    assert torch.equal(fingerprint({1: 2, 3: 4}), fingerprint({3: 4, 1: 2}))
    assert torch.equal(fingerprint(np.ones((2, 3)).T), fingerprint(np.ones((3, 2))))
    ring: list[Any] = []
    ring.append(ring)
    assert len(fingerprint(ring)) == 32
    with pytest.raises(InputError, match=r"state cannot be read .*or score by a BlackBox"):
        fingerprint(threading.Lock())


@pytest.mark.parametrize(
    "estimator",
    [
        LogisticRegression().fit(ROWS, LABELS),
        LogisticRegression().fit(ROWS, LABELS == 1),
        LinearDiscriminantAnalysis().fit(ROWS, LABELS),
    ],
    ids=["three classes", "two classes", "discriminant"],
)
def test_a_logistic_regression_is_a_network_with_its_gradient(estimator: Any) -> None:
    network = LinearClassifier(estimator)
    own = torch.as_tensor(estimator.predict_proba(ROWS)).float()
    torch.testing.assert_close(network(X).softmax(1), own, rtol=1e-4, atol=1e-5)
    check_energy(ClassLogOdds(network, [1], margin=2.0), X)
    assert torch.autograd.gradcheck(network, X[:3].double().requires_grad_())


# ONNX


def onnx_file(folder: Path, model: onnx.ModelProto, name: str = "model.onnx", **options: Any) -> Path:
    onnx.save_model(model, folder / name, **options)
    return folder / name


def reference(forget: list[int], margin: float | None) -> Energy:
    net = nn.Linear(4, 3, bias=False)
    net.weight.data = WEIGHT.T.clone()
    return ClassLogOdds(net, forget, margin)


@pytest.mark.parametrize("batch", ["batch", 1, 7, 60, 100])
@pytest.mark.parametrize(("forget", "margin"), [([1], None), ([0, 2], 3.0)])
def test_an_onnx_model_gives_the_log_odds_of_its_network(
    batch: int | str, forget: list[int], margin: float | None, tmp_path: Path
) -> None:
    path = onnx_file(tmp_path, linear_onnx(WEIGHT.numpy(), batch))
    energy = OnnxLogOdds(path, forget, margin, batch_size=16)
    expected = reference(forget, margin)
    close = partial(torch.testing.assert_close, rtol=1e-5, atol=1e-5)
    close(energy(X), expected(X))
    close(energy(X[:1]), expected(X[:1]))
    close(energy(X.double()), expected(X).double())
    assert energy.lower_bound == expected.lower_bound
    assert "model.onnx" in energy.describe()


def test_probabilities_and_logits_of_one_model_are_one_energy(tmp_path: Path) -> None:
    path = onnx_file(tmp_path, linear_onnx(WEIGHT.numpy(), then="Softmax"))
    energy = OnnxLogOdds(path, [1], 2.0, "probabilities")
    torch.testing.assert_close(energy(X), reference([1], 2.0)(X))
    with pytest.raises(InputError, match=r"rows in \[0, 1\] that sum to 1 for 60 .*output=probabil"):
        OnnxLogOdds(path, [1])(X)
    logits = onnx_file(tmp_path, linear_onnx(WEIGHT.numpy()))
    with pytest.raises(InputError, match=r"as probabilities; expected rows in \[0, 1\] that sum to 1"):
        OnnxLogOdds(logits, [1], output="probabilities")(X)


@pytest.mark.parametrize(("then", "output"), [("", "logits"), ("Sigmoid", "probabilities")])
@pytest.mark.parametrize("squeezed", [False, True])
def test_one_number_per_sample_tells_class_one_from_class_zero(
    then: str, output: Any, squeezed: bool, tmp_path: Path
) -> None:
    nodes = [
        helper.make_node("ReduceSum", ["x", "axis"], ["s"], keepdims=int(not squeezed)),
        helper.make_node(then or "Identity", ["s"], ["y"]),
    ]
    path = onnx_file(tmp_path, model_of(nodes, ["n", 4], {"axis": np.array([1])}))
    for forget, sign in ((1, 1), (0, -1)):
        raw = OnnxLogOdds(path, forget, None, output)(X)
        torch.testing.assert_close(raw, sign * X.sum(1), rtol=1e-4, atol=1e-5)


def pixels(x: Tensor) -> Tensor:
    return ((x + 1) * 127.5).round().to(torch.uint8)


def test_a_model_of_pixels_reads_what_the_preprocessing_makes(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["f"], to=FLOAT),
        helper.make_node("Flatten", ["f"], ["v"]),
        helper.make_node("MatMul", ["v", "w"], ["y"]),
    ]
    model = model_of(nodes, [7, 1, 2, "w"], {"w": WEIGHT.numpy() / 255}, input_type=TensorProto.UINT8)
    path = onnx_file(tmp_path, model)
    energy = OnnxLogOdds(path, [1], 2.0, preprocess=pixels)
    expected = reference([1], 2.0)(pixels(IMAGES).flatten(1).float() / 255)
    torch.testing.assert_close(energy(IMAGES), expected)
    message = r"got torch.float32 of shape \[7, 1, 2, 2\] for a model of torch.uint8 .*write preprocess="
    with pytest.raises(InputError, match=message):
        OnnxLogOdds(path, [1])(IMAGES)


@pytest.mark.parametrize("x", [X[:, :3], X[..., None], X.long()], ids=["width", "axes", "integers"])
def test_samples_of_another_shape_or_type_are_refused(x: Tensor, tmp_path: Path) -> None:
    path = onnx_file(tmp_path, linear_onnx(WEIGHT.numpy()))
    with pytest.raises(InputError, match=r"got torch.* for a model of torch.float32 \[60, 4\]; expected"):
        OnnxLogOdds(path, [1])(x)


def test_an_onnx_energy_is_copied_sent_moved_and_outlives_its_file(tmp_path: Path) -> None:
    path = onnx_file(tmp_path, linear_onnx(WEIGHT.numpy()))
    energy = OnnxLogOdds(path, [1], 2.0)
    F, identity = energy(X), sha256_module(energy)
    path.unlink()
    copies: list[Any] = [
        copy.deepcopy(energy),
        frozen(energy),
        energy.to("cpu").double(),
        pickle.loads(pickle.dumps(energy)),
    ]
    for each in copies:
        assert torch.equal(each(X), F)
        assert sha256_module(each) == identity
    check_energy(copies[0] | energy, X)


def test_weights_beside_the_file_belong_to_the_model(tmp_path: Path) -> None:
    weight = torch.cat([WEIGHT, torch.zeros(96, 3)]).numpy()
    x = torch.cat([X, torch.zeros(60, 96)], dim=1)
    inside = OnnxLogOdds(onnx_file(tmp_path, linear_onnx(weight), "inside.onnx"), [1])
    options: dict[str, Any] = {"save_as_external_data": True, "location": "weights.data", "size_threshold": 0}
    path = onnx_file(tmp_path, linear_onnx(weight), **options)
    beside = OnnxLogOdds(path, [1])
    assert torch.equal(beside(x), inside(x))
    data = tmp_path / "weights.data"
    data.write_bytes(data.read_bytes()[::-1])
    assert sha256_module(OnnxLogOdds(path, [1])) != sha256_module(beside)
    data.unlink()
    with pytest.raises(InputError, match=r"cannot be read as an ONNX model.*its weights in it or beside it"):
        OnnxLogOdds(path, [1])


def test_the_energys_identity_is_that_of_the_files_content(tmp_path: Path) -> None:
    first = onnx_file(tmp_path, linear_onnx(WEIGHT.numpy()))
    same = onnx_file(tmp_path, linear_onnx(WEIGHT.numpy()), "same.onnx")
    weight = WEIGHT.clone()
    weight[0, 0] += 1e-6
    other = onnx_file(tmp_path, linear_onnx(weight.numpy()), "other.onnx")
    identity = sha256_module(OnnxLogOdds(first, [1]))
    assert sha256_module(OnnxLogOdds(same, [1])) == identity
    assert sha256_module(OnnxLogOdds(other, [1])) != identity
    assert sha256_module(OnnxLogOdds(first, [1], preprocess=lambda x: x + 1)) != identity
    assert sha256_module(OnnxLogOdds(first, [1], preprocess=nn.Linear(4, 4))) != identity


def several(path: Path) -> Path:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["scores"]),
        helper.make_node("ArgMax", ["scores"], ["label"], axis=1, keepdims=0),
        helper.make_node("SequenceConstruct", ["scores"], ["maps"]),
    ]
    outputs: dict[str, int] = {"label": TensorProto.INT64, "scores": FLOAT}
    model = model_of(nodes, ["n", 4], {"w": WEIGHT.numpy()}, outputs)
    maps = helper.make_sequence_type_proto(helper.make_tensor_type_proto(FLOAT, None))
    model.graph.output.append(helper.make_value_info("maps", maps))
    return onnx_file(path, model)


def test_one_of_several_outputs_is_named(tmp_path: Path) -> None:
    path = several(tmp_path)
    energy = OnnxLogOdds(path, [1], 2.0, output_name="scores")
    torch.testing.assert_close(energy(X), reference([1], 2.0)(X))
    with pytest.raises(InputError, match="the outputs label, scores, maps; expected one: write output_name="):
        OnnxLogOdds(path, [1])
    for name in ("maps", "score"):
        with pytest.raises(InputError, match=f"got the output '{name}' of a model.*zipmap=False"):
            OnnxLogOdds(path, [1], output_name=name)


def test_what_is_no_model_of_samples_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"got no file .*missing.onnx; expected an ONNX model"):
        OnnxLogOdds(tmp_path / "missing.onnx", [1])
    (tmp_path / "noise.onnx").write_bytes(bytes(range(200, 256)))
    with pytest.raises(InputError, match=r"noise.onnx cannot be read as an ONNX model"):
        OnnxLogOdds(tmp_path / "noise.onnx", [1])
    unknown = model_of([helper.make_node("Unheard", ["x"], ["y"])], ["n", 4])
    with pytest.raises(InputError, match=r"onnxruntime cannot run model.onnx"):
        OnnxLogOdds(onnx_file(tmp_path, unknown), [1])
    two = linear_onnx(WEIGHT.numpy())
    two.graph.input.append(helper.make_tensor_value_info("z", FLOAT, ["n", 4]))
    with pytest.raises(InputError, match=r"inputs x tensor\(float\) .*, z .*expected one tensor \[batch"):
        OnnxLogOdds(onnx_file(tmp_path, two), [1])
    summed = model_of([helper.make_node("ReduceSum", ["x"], ["y"])], ["n", 4])
    with pytest.raises(InputError, match=r"model.onnx returned shape \[1, 1\] for 60 samples"):
        OnnxLogOdds(onnx_file(tmp_path, summed), [1])(X)


def test_a_package_that_is_not_there_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("onnx", "efficientnet_lite_pytorch"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=r"package onnx is not installed.*pip install 'unflow\[onnx\]'"):
        OnnxLogOdds("model.onnx", [1])
    with pytest.raises(InputError, match=r"pip install 'unflow\[imagenet\]'"):
        ImageNetClassifier()


def test_a_package_that_is_broken_inside_says_so_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_inside.py").write_text("import not_there_at_all")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="not_there_at_all"):
        import_optional("broken_inside", "onnx")


# Any function


def chance(rows: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-rows.reshape(len(rows), -1).sum(1)))


def test_a_score_in_zero_to_one_is_forgotten_by_its_log_odds() -> None:
    raw = ScoreLogOdds(BlackBox(chance), margin=None)
    torch.testing.assert_close(raw(X), X.sum(1), rtol=1e-4, atol=1e-4)
    F = ScoreLogOdds(BlackBox(chance), margin=2.0)
    torch.testing.assert_close(torch.exp(-F(X)), torch.sigmoid(-X.sum(1) - 2), rtol=1e-4, atol=1e-6)
    assert (F.lower_bound, F.describe()) == (0.0, "score chance (margin 2)")
    sure = ScoreLogOdds(lambda x: (x[:, 0] > 0).float(), margin=None, floor=1e-2)(X)
    torch.testing.assert_close(sure.abs(), torch.full((60,), math.log(100)))
    assert torch.equal(sure > 0, X[:, 0] > 0)


def test_a_module_as_a_score_is_frozen() -> None:
    linear = nn.Linear(4, 1)
    net = nn.Sequential(linear, nn.Sigmoid(), nn.Dropout(0.5), nn.Flatten(0))
    energy = ScoreLogOdds(net, margin=1.0)
    check_energy(energy, X)
    before, F = sha256_module(energy), energy(X)
    nn.init.zeros_(linear.weight)
    assert torch.equal(energy(X), F)
    assert net.training
    assert sha256_module(ScoreLogOdds(net, margin=1.0)) != before


@pytest.mark.parametrize("reads", ["array", "tensor", "uint8"])
@pytest.mark.parametrize("answers", ["array", "list", "column", "gradient", "single"])
def test_a_function_is_given_what_it_reads_and_may_answer_as_it_likes(reads: Any, answers: str) -> None:
    given = []

    def mean(images: Any) -> Any:
        given.append(images)
        m = images.mean((1, 2, 3))
        ways: dict[str, Callable[[], Any]] = {
            "array": lambda: np.asarray(m),
            "list": m.tolist,
            "column": lambda: m[:, None],
            "gradient": lambda: torch.as_tensor(m).requires_grad_(),
            "single": lambda: np.float32(m),
        }
        return ways[answers]()

    images = torch.rand(5, 3, 4, 6, generator=stream(2)) * 2.2 - 1.1
    F = CallableEnergy(BlackBox(mean, reads, batch_size=2), 0.0, differentiable=False)(images)
    if reads == "uint8":
        expected = ((images + 1) / 2).clamp(0, 1).mul(255).round()
        assert [g.shape for g in given] == [(2, 4, 6, 3), (2, 4, 6, 3), (1, 4, 6, 3)]
        assert given[0].dtype == np.uint8
        assert np.array_equal(given[0][1, :, :, 2], expected[1, 2].numpy())
    else:
        expected = images
        assert [tuple(g.shape) for g in given] == [(2, 3, 4, 6), (2, 3, 4, 6), (1, 3, 4, 6)]
    torch.testing.assert_close(F, expected.mean((1, 2, 3)), rtol=1e-5, atol=1e-5)
    assert F.dtype == images.dtype


def test_no_sample_is_scored_twice() -> None:
    box = BlackBox(chance, batch_size=25)
    energy = ScoreLogOdds(box, margin=1.0)
    F = energy(X)
    assert (box.calls, box.scored) == (3, 60)
    assert torch.equal(energy(X.flip(0)).flip(0), F)
    assert torch.equal(copy.deepcopy(energy)(X[7:9]), F[7:9])
    assert (box.calls, box.scored) == (3, 60)
    energy(torch.cat([X[:5], X[:2] + 1, X[:2] + 1]))
    assert (box.calls, box.scored) == (4, 62)


def test_a_function_without_memory_is_asked_again() -> None:
    box = BlackBox(chance, remembers=False)
    assert torch.equal(box(X), box(X))
    assert (box.calls, box.scored) == (2, 120)


def test_a_function_that_cannot_be_copied_is_shared() -> None:
    held = socket.socket()
    with held:
        box = BlackBox(lambda rows: chance(rows) + 0 * held.fileno(), name="a service, version 2")
        energy: Any = frozen(ScoreLogOdds(box))
    assert "a service, version 2" in energy.describe()


# Attributes


FLAT = nn.Flatten()


def test_a_probe_finds_the_log_odds_of_two_normal_laws() -> None:
    """N(m, I) and N(-m, I) have the log-odds 2 <m, x>."""
    m, noise = torch.tensor([1.0, -0.5, 0.0, 0.25]), torch.randn(20000, 4, generator=stream(3))
    energy = AttributeLogOdds.fitted(FLAT, noise[:10000] + m, noise[10000:] - m)
    torch.testing.assert_close(energy.weight, 2 * m, rtol=0.06, atol=0.06)
    assert abs(float(energy.bias)) < 0.06


def test_a_probe_is_the_softplus_of_a_linear_function_of_features() -> None:
    energy = AttributeLogOdds(FLAT, torch.tensor([1.0, 0.0, 0.0, -2.0]), 0.5, margin=3.0, name="smiling")
    torch.testing.assert_close(energy(X), nnf.softplus(X[:, 0] - 2 * X[:, 3] + 3.5))
    assert (energy.lower_bound, energy.differentiable) == (0.0, True)
    assert energy.describe() == "smiling (linear probe, margin 3)"


def probe_inputs() -> tuple[Tensor, Tensor]:
    return X[LABELS == 1].double(), X[LABELS != 1].double()


def test_neither_the_sizes_of_the_sets_nor_scale_shift_and_the_rest_of_the_features_matter() -> None:
    positive, negative = probe_inputs()
    fitted = AttributeLogOdds.fitted(FLAT, positive, negative, C=1e6)
    many = AttributeLogOdds.fitted(FLAT, positive.repeat(7, 1), negative, C=1e6)
    torch.testing.assert_close(many(X.double()), fitted(X.double()), rtol=1e-3, atol=1e-3)
    wide = AttributeLogOdds.fitted(Widened(), positive, negative, C=1e6)
    torch.testing.assert_close(wide(X.double()), fitted(X.double()), rtol=1e-3, atol=1e-3)


class Widened(nn.Module):
    """The same samples in other units, and a feature that says nothing."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([1000 * x + 5, torch.ones_like(x[:, :1])], dim=1)


def test_the_share_of_the_attribute_shifts_the_log_odds() -> None:
    positive, negative = probe_inputs()
    half, tenth = (AttributeLogOdds.fitted(FLAT, positive, negative, share=s) for s in (0.5, 0.1))
    torch.testing.assert_close(tenth.weight, half.weight)
    assert float(tenth.bias - half.bias) == pytest.approx(math.log(1 / 9))


def test_the_gradient_of_an_attribute_goes_through_the_extractor() -> None:
    extractor = foreign_extractor()
    energy = AttributeLogOdds.fitted(extractor, IMAGES[LABELS == 1], IMAGES[LABELS != 1], margin=2.0)
    check_energy(energy, IMAGES)
    x = IMAGES[:4].double().requires_grad_()
    assert torch.autograd.gradcheck(copy.deepcopy(energy).double(), x)
    assert extractor.training
    assert all(p.requires_grad for p in extractor.parameters())


# ImageNet


@pytest.fixture(scope="module")
def imagenet() -> ImageNetClassifier:
    return ImageNetClassifier()


def portrait() -> Tensor:
    """Grace Hopper in uniform, [1, 3, 600, 512], which comes with matplotlib."""
    file = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    return torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)[None] / 127.5 - 1


def test_a_uniform_is_seen_in_a_portrait(imagenet: ImageNetClassifier) -> None:
    logits = imagenet(portrait())
    assert logits.shape == (1, 1000)
    assert int(logits.argmax()) == 652  # military uniform


def test_the_weights_come_without_network_torchvision_or_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setitem(sys.modules, "torchvision", None)  # to import it is an error
    before = torch.random.get_rng_state()
    net = ImageNetClassifier()
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not net.training
    assert not any(p.requires_grad for p in net.parameters())


def test_the_energy_of_imagenet_has_a_gradient_and_its_features_are_below_the_logits(
    imagenet: ImageNetClassifier,
) -> None:
    x = portrait()[:, :, 100:400:4, 100:400:4].requires_grad_()
    energy = ClassLogOdds(imagenet, [652, 1], margin=2.0)
    (slope,) = torch.autograd.grad(energy(x).sum(), x)
    step = 0.05 * slope / slope.norm()
    with torch.no_grad():
        below, above = energy(x - step), energy(x + step)
    torch.testing.assert_close(above - below, 0.1 * slope.norm()[None], rtol=0.1, atol=0.0)
    features = imagenet.features(x)
    assert features.shape == (1, 1280)
    torch.testing.assert_close(imagenet.last(features), imagenet(x))
    judge = uf.Classifier(imagenet, [str(k) for k in range(1000)])
    assert torch.equal(judge.features(x), features.detach())
    with pytest.raises(InputError, match=r"samples of shape \[1, 8, 8\] for ImageNet; expected images \[3"):
        imagenet(torch.zeros(2, 1, 8, 8))


# Any extractor


def foreign_extractor() -> nn.Module:
    """A trunk as anybody writes it, in training mode, with three axes of features."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        trunk = nn.Sequential(nn.Conv2d(1, 6, 2, padding=1), nn.BatchNorm2d(6), nn.Tanh(), nn.Dropout(0.5))
    return trunk.train()


def test_anchors_take_any_module_as_an_extractor() -> None:
    extractor = foreign_extractor()
    before = sha256_module(extractor)
    near = IMAGES[:1] * 0.9
    anchor = make_anchor(extractor, near, IMAGES)
    assert int(anchor(IMAGES).argmax()) == 0
    for energy in (
        anchor,
        add_threshold(anchor, IMAGES, 1.0),
        grow_request(extractor, near, IMAGES, stream(0), parts=2),
    ):
        check_energy(energy, IMAGES)
        assert energy.differentiable
    assert sha256_module(extractor) == before
    assert extractor.training


# All of them


def one_step_model() -> uf.Generator:
    """x = z."""
    return uf.Generator(nn.Identity(), (4,)).eval()


def network(num_times: int) -> nn.Module:
    net = new_net({"net": "mlp", "shape": (4,), "width": 8, "depth": 1, "num_times": num_times}, 0)
    assert isinstance(net, MLP)
    nn.init.normal_(net.last.weight, generator=stream(4))
    return net


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Energy]:
    path = onnx_file(tmp_path_factory.mktemp("onnx"), linear_onnx(WEIGHT.numpy(), 7))
    first, second = (x.float() for x in probe_inputs())
    return {
        "estimator": EstimatorLogOdds(logistic(), 1, margin=2.0),
        "onnx": OnnxLogOdds(path, [1], margin=2.0),
        "score": ScoreLogOdds(BlackBox(chance), margin=2.0),
        "callable": CallableEnergy(BlackBox(chance), 0.0, differentiable=False),
        "attribute": AttributeLogOdds.fitted(FLAT, first, second, margin=2.0),
        "linear": ClassLogOdds(LinearClassifier(logistic()), [1], margin=2.0),
    }


KINDS = ("estimator", "onnx", "score", "callable", "attribute", "linear")
OPAQUE = KINDS[:4]


@pytest.mark.parametrize("name", KINDS)
def test_the_algebra_holds_for_all_of_them(name: str, foreign: dict[str, Energy]) -> None:
    A, B = foreign[name], foreign["attribute"]
    region = Region(lambda x: x[:, 0] > 0, 3.0)
    torch.testing.assert_close((A | B)(X), A(X) + B(X))
    torch.testing.assert_close((A & region)(X), torch.minimum(A(X), region(X)))
    torch.testing.assert_close((-A)(X), -A(X))
    torch.testing.assert_close((2 * A)(X), 2 * A(X))
    assert A.differentiable == (A | B).differentiable == (2 * -A).differentiable == (name not in OPAQUE)
    check_energy(2 * (A | B), X)
    decoded = Decoded(A, Halved())
    torch.testing.assert_close(decoded(2 * X), A(X))
    assert decoded.differentiable == A.differentiable


class Halved(nn.Module):
    """A decoder."""

    def decode(self, latents: Tensor) -> Tensor:
        return latents / 2


def test_the_methods_that_take_any_energy_are_named_and_do(foreign: dict[str, Energy]) -> None:
    models = {"one-step models": one_step_model(), "flows": uf.Flow(network(1), (4,))}
    assert models.keys() == find_gradient_free().keys()
    for kind, methods in find_gradient_free().items():
        model = models[kind]
        for name in OPAQUE:
            problem = Problem(model=model, target=uf.Target(model, foreign[name]))
            for method in methods:
                UNLEARNERS[method].check(problem)


@pytest.mark.parametrize("method", ["uot", "uot_tilted", "latent_transport_uot", "gradient_ascent"])
@pytest.mark.parametrize("name", OPAQUE)
def test_methods_that_follow_a_gradient_refuse_before_training_and_name_others(
    name: str, method: str, foreign: dict[str, Energy], tmp_path: Path
) -> None:
    model = one_step_model()
    with pytest.raises(InputError, match=r"this energy has none .*takes any energy: write one of") as refused:
        uf.unlearn(uf.Target(model, foreign[name]), UNLEARNERS[method], tmp_path)
    assert list(tmp_path.iterdir()) == []
    for methods in find_gradient_free().values():
        assert all(free in str(refused.value) for free in methods)


@pytest.mark.parametrize("name", KINDS)
def test_rejection_by_any_of_them_draws_from_its_target(name: str, foreign: dict[str, Energy]) -> None:
    """E_q*[F] = E_q0[exp(-F) F] / E_q0[exp(-F)], within four standard errors of 800 samples."""
    model, energy = one_step_model(), foreign[name]
    F = energy(model.sample(20000, stream(6)))
    expected = (torch.exp(-F) * F).sum() / torch.exp(-F).sum()
    made = uf.unlearn(uf.Target(model, energy), Reject(bank_size=200), seed=0).model
    found = energy(made.sample(800, stream(5)))
    error = float(found.std()) / math.sqrt(800)
    assert float((found.mean() - expected).abs()) < 4 * error
    assert float(F.mean() - expected) > 8 * error


def test_another_file_under_the_same_name_is_another_run(tmp_path: Path) -> None:
    model, runs = uf.Generator(network(0), (4,)), tmp_path / "runs"
    short = LatentTransport(steps=2, batch_size=8, bank_size=64)
    path = onnx_file(tmp_path, linear_onnx(WEIGHT.numpy()))
    first = uf.unlearn(uf.Target(model, OnnxLogOdds(path, [1], 1.0)), short, runs)
    again = uf.unlearn(uf.Target(model, OnnxLogOdds(path, [1], 1.0)), short, runs)
    assert again.lineage["energy"] == first.lineage["energy"]
    onnx_file(tmp_path, linear_onnx(WEIGHT.flip(1).contiguous().numpy()))
    with pytest.raises(InputError, match="energy"):
        uf.unlearn(uf.Target(model, OnnxLogOdds(path, [1], 1.0)), short, runs)


def test_what_cannot_be_described_is_refused_as_a_file(foreign: dict[str, Energy], tmp_path: Path) -> None:
    for name in OPAQUE:
        with pytest.raises(InputError, match="an energy that cannot be described in a file"):
            uf.save(uf.Filtered(uf.Generator(network(0), (4,)), foreign[name]), tmp_path)


# Bad input

NOT_FITTED, SVM = LogisticRegression(), LinearSVC().fit(ROWS, LABELS)
ONE_VS_REST = OneVsRestClassifier(LogisticRegression()).fit(ROWS, LABELS)
HINGES = SGDClassifier(loss="log_loss", random_state=0).fit(ROWS, LABELS)


class ThreeColumns(LogisticRegression):
    """An estimator that forgets a column."""

    def predict_proba(self, x: np.ndarray) -> np.ndarray:
        return super().predict_proba(x)[:, :2]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EstimatorLogOdds(NOT_FITTED, 1), "LogisticRegression without classes_.*call its fit"),
        (lambda: EstimatorLogOdds(SVM, 1), "LinearSVC without predict_proba.*output=decision_function"),
        (
            lambda: EstimatorLogOdds(logistic(), 1, output="predict"),  # type: ignore[arg-type]  # refused
            "output='predict'; expected predict_pr",
        ),
        (lambda: EstimatorLogOdds(logistic(), 5), r"got class 5 to forget; expected some of \[0, 1, 2\]"),
        (lambda: EstimatorLogOdds(logistic(), [0, 1, 2]), r"all classes \[0, 1, 2\] to forget.*name fewer"),
        (lambda: EstimatorLogOdds(logistic(), []), "at least one class"),
        (lambda: EstimatorLogOdds(logistic(), [1, 1]), "none twice"),
        (lambda: EstimatorLogOdds(logistic(), 1, margin=-1.0), "margin=-1.0"),
        (lambda: EstimatorLogOdds(logistic(), 1, floor=0.0), r"floor=0.0; expected a number in \(0, 0.5\)"),
        (lambda: EstimatorLogOdds(logistic(), 1)(X[:, :3]), r"got \[60, 3\] features .*write features="),
        (
            lambda: EstimatorLogOdds(ThreeColumns().fit(ROWS, LABELS), 1)(X),
            r"predict_proba returned shape \[60, 2\] for 60 samples; expected \[60, 3\]",
        ),
        (lambda: LinearClassifier(NOT_FITTED), "got a LogisticRegression; expected a fitted LogisticReg"),
        (lambda: LinearClassifier(SVM), "got a LinearSVC; expected a fitted LogisticRegression"),
        (lambda: LinearClassifier(HINGES), "SGDClassifier whose probabilities are not the softmax"),
        (lambda: LinearClassifier(logistic())(X[:, :3]), "3 numbers per sample for a linear classifier of 4"),
        (
            lambda: OnnxLogOdds("m.onnx", [1], output="labels"),  # type: ignore[arg-type]  # refused
            "output='labels'; expected logits or prob",
        ),
        (lambda: OnnxLogOdds("m.onnx", [1], batch_size=0), "batch_size=0; expected 1 or more"),
        (
            lambda: BlackBox(chance, reads="images"),  # type: ignore[arg-type]  # refused
            "reads='images'; expected array, uint8 or tensor",
        ),
        (lambda: BlackBox(chance, batch_size=0), "batch_size=0; expected 1 or more"),
        (lambda: BlackBox(chance, "uint8")(X), r"shape \[4\] to read as uint8; expected images"),
        (lambda: BlackBox(lambda x: "many")(X), "<lambda> returned a str; expected 60 numbers"),
        (lambda: BlackBox(lambda x: x)(X), r"shape \[60, 4\] for 60 samples; expected \[60\]"),
        (lambda: ScoreLogOdds(lambda x: x)(X), r"score returned shape \[60, 4\] for 60 samples"),
        (lambda: ScoreLogOdds(lambda x: x[:, 0])(X), r"scores from -.* expected numbers in \[0, 1\]"),
        (lambda: ScoreLogOdds(lambda x: x[:, 0] * math.nan)(X), r"NaN for \d+ of \d+ samples"),
        (lambda: AttributeLogOdds(FLAT, X, 0.0), r"probe of shape \[60, 4\] .*expected one finite vector"),
        (lambda: AttributeLogOdds(FLAT, X[0], math.nan), "with bias nan"),
        (lambda: AttributeLogOdds(FLAT, X[0, :3], 0.0)(X), "returned 4 features; expected 3"),
        (lambda: AttributeLogOdds.fitted(FLAT, X[:0], X), "got 0 images with the attribute and 60 without"),
        (lambda: AttributeLogOdds.fitted(FLAT, X, X, share=1.0), "share=1.0 and C=1.0; expected a share in"),
        (lambda: AttributeLogOdds.fitted(FLAT, X, X * math.nan), "images are NaN or infinite"),
        (lambda: log_probabilities(torch.ones(3)), r"outputs of shape \[3\] from 1 to 1 as probabilities"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(make: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


def test_an_unknown_provider_is_refused(tmp_path: Path) -> None:
    path = onnx_file(tmp_path, linear_onnx(WEIGHT.numpy()))
    with pytest.raises(InputError, match=r"providers \['Abacus'\]; expected some of .*CPUExecutionProvider"):
        OnnxLogOdds(path, [1], providers=["Abacus"])
