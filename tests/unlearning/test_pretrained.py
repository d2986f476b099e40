"""Bundles as Hugging Face keeps them: a folder or a repository, and back, with nothing lost or added."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import ModelCard
from torch import nn

import unflow as uf
from unflow.commands.cli import main
from unflow.disk import bundle
from unflow.disk.card import Audited, model_card
from unflow.foreign import family_of, lineage_of, load_classifier, load_energy, load_model, load_whole
from unflow.ground.errors import InputError
from unflow.ground.files import sha256_file, sha256_module
from unflow.models.components import SavedModel
from unflow.nets import ConvAutoencoder, new_net
from unflow.unlearning.unlearn import Unlearned

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def flow(shape: tuple[int, ...] = (2,)) -> uf.Flow:
    return uf.Flow(new_net({"net": "mlp", "shape": list(shape), "width": 4, "depth": 1}, 0), shape, steps=2)


def classifier() -> uf.Classifier:
    net = {"net": "mlp", "shape": [2], "width": 4, "depth": 1, "num_times": 0, "outputs": 2}
    return uf.Classifier(new_net(net, 0), ["no", "yes"])


def autoencoder() -> uf.Autoencoder:
    return uf.Autoencoder(ConvAutoencoder((1, 8, 8), latent=2, width=8, depth=1))


MODELS: dict[str, Callable[[], SavedModel]] = {
    "flow": flow,
    "classifier": classifier,
    "autoencoder": autoencoder,
}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the Hub, without a network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "cache"


def put(cache: Path, repo_id: str, folder: Path, revision: str = "main") -> Path:
    """Lay a folder into the cache as a download does: blobs by their hash, and links to them."""
    home = cache / f"models--{repo_id.replace('/', '--')}"
    snapshot = home / "snapshots" / COMMIT
    for made in (home / "blobs", home / "refs", snapshot):
        made.mkdir(parents=True)
    (home / "refs" / revision).write_text(COMMIT)
    for file in folder.iterdir():
        blob = home / "blobs" / sha256_file(file)
        shutil.copy(file, blob)
        (snapshot / file.name).symlink_to(Path("../../blobs") / blob.name)
    return snapshot


# Folders


@pytest.mark.parametrize("name", MODELS)
def test_what_is_loaded_from_a_folder_is_what_was_saved(name: str, tmp_path: Path) -> None:
    model = MODELS[name]()
    again = uf.from_pretrained(uf.save_pretrained(model, tmp_path / "bundle"))
    assert type(again) is type(model)
    assert sha256_module(again) == sha256_module(model)
    assert not again.training


def test_what_unlearn_returned_keeps_its_lineage(tmp_path: Path) -> None:
    target = uf.Target(flow(), uf.energies.CallableEnergy(lambda x: x[:, 0].square(), lower_bound=0.0))
    result = uf.unlearn(target, uf.methods.Reject(), seed=3)
    assert isinstance(result, Unlearned)
    result = Unlearned(flow(), result.lineage)  # a model that a file can describe
    written = bundle.read_lineage(uf.save_pretrained(result, tmp_path))
    assert written["seed"] == 3
    assert {name: written[name] for name in result.lineage} == result.lineage


def test_what_is_no_model_of_unflow_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"got a Linear; expected a model of unflow: write uf.Generator"):
        uf.save_pretrained(nn.Linear(2, 2), tmp_path / "out")  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_a_folder_has_no_revisions(tmp_path: Path) -> None:
    uf.save(flow(), tmp_path)
    with pytest.raises(InputError, match="got revision='main' for the local folder"):
        uf.from_pretrained(tmp_path, revision="main")


# Repositories


@pytest.mark.parametrize("name", MODELS)
def test_a_cached_snapshot_of_links_into_blobs_is_a_bundle(name: str, cache: Path, tmp_path: Path) -> None:
    model = MODELS[name]()
    put(cache, "org/name", uf.save(model, tmp_path / "bundle"))
    again = uf.from_pretrained("org/name")
    assert sha256_module(again) == sha256_module(model)
    assert sha256_module(uf.from_pretrained("org/name", revision=COMMIT)) == sha256_module(model)


def test_a_name_with_a_prefix_is_taken_wherever_a_bundle_is(cache: Path, tmp_path: Path) -> None:
    for name, make in MODELS.items():
        put(cache, f"org/{name}", uf.save(make(), tmp_path / name, {"method": name}), "v1.0")
    assert sha256_module(load_model("pretrained:org/flow@v1.0")) == sha256_module(flow())
    assert isinstance(load_classifier("pretrained:org/classifier@v1.0"), uf.Classifier)
    assert isinstance(uf.load_autoencoder("pretrained:org/autoencoder@v1.0"), uf.Autoencoder)
    assert lineage_of("pretrained:org/flow@v1.0")["method"] == "flow"
    assert lineage_of(Path("pretrained:org/flow@v1.0"))["method"] == "flow"
    assert family_of("pretrained:org/flow@v1.0") == "flow"
    energy = load_energy("classifier:pretrained:org/classifier@v1.0", (1,), 4.0, flow())
    assert isinstance(energy, uf.energies.ClassLogOdds)
    latent = uf.save(flow((2,)), tmp_path / "latent")
    whole = load_whole(latent, Path("pretrained:org/autoencoder@v1.0"))
    assert whole.sample_shape == (1, 8, 8)
    with pytest.raises(InputError, match="holds a generative model; expected a classifier"):
        load_classifier("pretrained:org/flow@v1.0")


def test_the_shell_draws_from_a_repository(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(cache, "org/flow", uf.save(flow(), tmp_path / "flow"))
    assert main(shlex.split(f"sample pretrained:org/flow --n 5 --out {tmp_path}/out")) == 0
    assert (tmp_path / "out" / "samples.npz").is_file()
    capsys.readouterr()
    assert main(shlex.split(f"sample pretrained:org/other --out {tmp_path}/none")) == 2
    assert "the Hugging Face Hub does not give org/other" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_a_third_party_network_needs_consent_from_the_hub_too(cache: Path, tmp_path: Path) -> None:
    net = nn.Linear(2, 2)
    net.config = {"builder": "unknown_package.nets:build", "options": {}}  # type: ignore[assignment]
    put(cache, "org/foreign", uf.save(uf.Generator(net, (2,)), tmp_path / "bundle"))
    with pytest.raises(
        InputError, match=r"unknown_package.nets:build, which is not part of unflow.*--trust_code"
    ):
        uf.from_pretrained("org/foreign")
    with pytest.raises(InputError, match=r"unknown_package.nets:build.* can be imported"):
        uf.from_pretrained("org/foreign", trust_code=True)


def test_only_the_files_of_a_bundle_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uf.save(flow(), tmp_path / "remote")
    (tmp_path / "remote" / "train.py").touch()
    asked: dict[str, Any] = {}

    def fetch(repo_id: str, revision: str | None, allow_patterns: list[str]) -> Path:
        asked.update(repo_id=repo_id, revision=revision)
        others = [p.name for p in (tmp_path / "remote").iterdir() if p.name not in allow_patterns]
        return shutil.copytree(
            tmp_path / "remote", tmp_path / "local", ignore=shutil.ignore_patterns(*others)
        )

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    model = uf.load("pretrained:org/name@refs/pr/1")
    assert asked == {"repo_id": "org/name", "revision": "refs/pr/1"}
    assert sha256_module(model) == sha256_module(flow())
    assert {p.name for p in (tmp_path / "local").iterdir()} == set(bundle.FILES)


# What the Hub refuses


def hub_error(name: str) -> Exception:
    """Return the error as its class makes it, but for the response that it wants to hold."""
    kind = getattr(huggingface_hub.errors, name)
    return kind.__new__(kind, "what happened\n\nand where")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("RepositoryNotFoundError", "it does not exist, or it is private: run hf auth login"),
        ("GatedRepoError", "its owner must grant you access"),
        ("RevisionNotFoundError", "it has no such revision"),
        ("LocalEntryNotFoundError", "the Hub cannot be reached, and the cache does not hold it"),
        ("IncompleteSnapshotError", "the Hub cannot be reached, and the cache does not hold it"),
        ("OfflineModeIsEnabled", "HF_HUB_OFFLINE is set"),
        ("HFValidationError", r"HFValidationError: what happened\)"),
    ],
)
def test_a_refusal_of_the_hub_is_one_sentence(name: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(*_: Any, **__: Any) -> str:
        raise hub_error(name)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    with pytest.raises(InputError, match=words) as caught:
        uf.from_pretrained("org/name", revision="v2")
    assert str(caught.value).startswith("the Hugging Face Hub does not give org/name@v2 (")
    assert "\n" not in str(caught.value)


def test_offline_without_the_repository_in_the_cache_is_one_sentence(cache: Path) -> None:
    with pytest.raises(InputError, match=r"org/name \(the Hub cannot be reached, and the cache"):
        uf.load("pretrained:org/name")


def test_without_the_package_the_sentence_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError, match=r"huggingface_hub is not installed .*pip install 'unflow\[hub\]'"):
        uf.from_pretrained("org/name")


@pytest.mark.parametrize("name", ["nowhere", "a/b/c", "../up", "org/na me", ""])
def test_what_is_neither_folder_nor_repository_is_refused(
    name: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError):
        uf.from_pretrained(name or "pretrained:")


# To the Hub


@pytest.fixture
def uploads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """What the client of the Hub was asked to do."""
    asked: list[tuple[str, dict[str, Any]]] = []

    def create(repo_id: str, **options: Any) -> None:
        asked.append((repo_id, options))

    def upload(*, repo_id: str, **options: Any) -> str:
        asked.append((repo_id, options))
        return f"https://huggingface.co/{repo_id}/commit/1"

    monkeypatch.setattr(huggingface_hub, "create_repo", create)
    monkeypatch.setattr(huggingface_hub, "upload_folder", upload)
    return asked


def test_a_bundle_is_uploaded_and_nothing_else_of_its_folder(
    uploads: list[tuple[str, dict[str, Any]]], tmp_path: Path
) -> None:
    uf.save(flow(), tmp_path)
    (tmp_path / "metrics.jsonl").touch()
    assert uf.push_to_hub(tmp_path, "org/name", private=True) == "https://huggingface.co/org/name/commit/1"
    (made, how), (sent, what) = uploads
    assert made == sent == "org/name"
    assert how == {"private": True, "exist_ok": True}
    assert what == {"folder_path": tmp_path, "allow_patterns": list(bundle.FILES), "revision": None}


def test_what_is_no_whole_bundle_is_not_uploaded(
    uploads: list[tuple[str, dict[str, Any]]], tmp_path: Path
) -> None:
    with pytest.raises(
        InputError, match="holds no complete bundle; expected one: write it with save_pretrained"
    ):
        uf.push_to_hub(tmp_path, "org/name")
    uf.save(flow(), tmp_path)
    with pytest.raises(InputError, match="write org/name"):
        uf.push_to_hub(tmp_path, "name")
    assert uploads == []


def test_the_card_of_a_repository_is_not_written(cache: Path) -> None:
    with pytest.raises(
        InputError, match="got pretrained:org/name, whose model card is on the Hugging Face Hub"
    ):
        bundle.write_card("pretrained:org/name", Audited({}, []))
    words = "audit pretrained:org/name --original a --judge b --forget 3 --split c --out d --card true"
    assert main(shlex.split(words)) == 2
    assert not Path("d").exists()


# The card


def test_the_hub_reads_the_card_as_it_was_meant(tmp_path: Path) -> None:
    images = flow((1, 8, 8))
    cards = [model_card(model, "load", {}) for model in (images, flow(), classifier())]
    data: list[Any] = [ModelCard(card).data for card in cards]
    assert [each.library_name for each in data] == ["unflow"] * 3
    assert [each.pipeline_tag for each in data] == ["unconditional-image-generation", None, None]
    assert [each.license for each in data] == [None] * 3  # the owner's to say
    assert data[0].tags == ["machine-unlearning", "generative-model", "flow"]
