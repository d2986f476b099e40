"""A model on disk: what is loaded is what was saved, whole or not at all, and never a pickle."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import unflow as uf
from unflow.disk import bundle
from unflow.ground import files
from unflow.ground.errors import InputError
from unflow.ground.files import sha256_file, sha256_module
from unflow.ground.streams import stream
from unflow.nets import MLP, ConvAutoencoder, ConvNet

uf.nets.trust(f"{__name__}:decoder")


def decoder(width: int) -> nn.Module:
    """A network of one's own, named in its bundle as test_bundle:decoder."""
    return nn.Sequential(nn.Linear(3, width), nn.SiLU(), nn.Linear(width, 2))


def described_decoder(width: int) -> nn.Module:
    net: Any = decoder(width)
    net.config = {"builder": f"{__name__}:decoder", "options": {"width": width}}
    return net


def shaken(module: nn.Module) -> Any:
    """The module with every weight drawn anew (fresh ones hold zeros)."""
    generator = stream(5)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return module.eval()


def models() -> dict[str, Any]:
    flow = uf.Flow(MLP((2,), 8, 1), (2,), integrator="heun", steps=3)
    autoencoder = uf.Autoencoder(ConvAutoencoder((1, 8, 8), latent=2, width=8, depth=1))
    return {
        "flow": flow,
        "flow_map": uf.FlowMap(MLP((2,), 8, 1, num_times=2), (2,), steps=2),
        "chain": uf.Chain(flow, uf.Flow(MLP((2,), 4, 2), (2,), steps=1)),
        "generator": uf.Generator(described_decoder(5), (3,), prior="uniform"),
        "mlp classifier": uf.Classifier(MLP((2,), 8, 1, num_times=0, outputs=3), ["a", "b", "c"]),
        "convnet classifier": uf.Classifier(ConvNet((1, 8, 8), 2, width=8), ["zero", "one"]),
        "autoencoder": autoencoder,
        "latent": uf.Latent(flow, autoencoder),
        "filtered": uf.Filtered(flow, uf.energies.ClassLogOdds(MLP((2,), 8, 1, 0, 3), [1]), 2.0),
    }


LOADERS = {
    uf.Classifier: (uf.load_classifier, "a classifier"),
    uf.Autoencoder: (uf.load_autoencoder, "an autoencoder"),
    uf.GenerativeModel: (uf.load, "a generative model"),
}


def loader_of(model: Any) -> tuple[Any, str]:
    """Return the function that loads such a model, and what it calls one."""
    (own,) = (found for kind, found in LOADERS.items() if isinstance(model, kind))
    return own


NAMES = sorted(models())


@pytest.mark.parametrize("name", NAMES)
def test_what_is_loaded_is_what_was_saved(name: str, tmp_path: Path) -> None:
    model = shaken(models()[name])
    folder = uf.save(model, tmp_path / "bundle")
    again = loader_of(model)[0](folder)
    assert type(again) is type(model)
    assert again.config() == model.config()
    assert sha256_module(again) == sha256_module(model)
    assert not again.training
    if not isinstance(model, uf.GenerativeModel):
        shape = (2,) if name.startswith("mlp") else (1, 8, 8)
        x = torch.randn(5, *shape, generator=stream(1))
        assert getattr(again, "class_names", None) == getattr(model, "class_names", None)
    else:
        x = model.prior(5, stream(1))
        assert torch.equal(again.prior(5, stream(1)), x)
        assert again.original_recoverable == model.original_recoverable
    with torch.no_grad():
        assert torch.equal(again(x), model(x))


@pytest.mark.parametrize("name", NAMES)
def test_a_bundle_holds_four_files_and_no_pickle(name: str, tmp_path: Path) -> None:
    folder = uf.save(models()[name], tmp_path)
    assert sorted(p.name for p in folder.iterdir()) == sorted(
        (bundle.CARD, bundle.CONFIG, bundle.LINEAGE, bundle.WEIGHTS)
    )
    assert set(load_file(folder / bundle.WEIGHTS)) == set(models()[name].state_dict())
    for file in folder.iterdir():
        assert not zipfile.is_zipfile(file)


def test_the_card_and_the_lineage_tell_the_request(tmp_path: Path) -> None:
    request = {"words": "class 3 (margin 4)", "strength": 2.0}
    lineage = {"request": request, "method": "erfm", "parent": "0" * 64}
    model = models()["flow"]
    uf.save(model, tmp_path, lineage)
    card = (tmp_path / bundle.CARD).read_text()
    assert card.startswith("---\nlibrary_name: unflow\n")
    assert "asked to forget class 3 (margin 4)" in card
    assert "Made by `erfm`" in card
    assert f"{sum(p.numel() for p in model.parameters()):,} parameters" in card
    written = bundle.read_lineage(tmp_path)
    assert {k: written[k] for k in lineage} == lineage
    assert written["weights_sha256"] == sha256_module(model)
    assert written["sha256"] == sha256_file(tmp_path / bundle.WEIGHTS)
    assert written["versions"]["torch"] == torch.__version__


def test_same_weights_same_bytes(tmp_path: Path) -> None:
    model = shaken(models()["chain"])
    first, second = (uf.save(model, tmp_path / name) for name in "ab")
    for file in first.iterdir():
        assert file.read_bytes() == (second / file.name).read_bytes()


WRITES = ("model.safetensors", "lineage.json", "README.md", "config.json")


@pytest.mark.parametrize("last", WRITES)
def test_a_crash_between_or_within_files_leaves_no_whole_bundle(
    last: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process dies after half of ``last`` is on disk: the bundle is refused, and saving mends it."""

    class Crash(BaseException):
        pass

    rename = Path.replace

    def crash(self: Path, target: Path) -> Path:
        if Path(target).name == last:
            self.write_bytes(self.read_bytes()[: self.stat().st_size // 2])
            raise Crash
        return rename(self, target)

    model = shaken(models()["flow"])
    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", crash)
        with pytest.raises(Crash):
            uf.save(model, tmp_path)
    assert not (tmp_path / last).exists()
    assert not bundle.is_complete(tmp_path)
    with pytest.raises(InputError, match="not a complete bundle"):
        uf.load(tmp_path)
    uf.save(model, tmp_path)
    assert not list(tmp_path.glob("*.partial")) + list(tmp_path.glob(".*.partial"))
    assert sha256_module(uf.load(tmp_path)) == sha256_module(model)


def test_the_old_file_stays_until_the_new_one_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file.json"
    files.write_json(path, {"old": 1})
    with pytest.raises(ValueError, match="JSON compliant"):
        files.write_json(path, {"new": float("nan")})

    def full(*_: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="no space"):
        files.write_json(path, {"new": 2})
    assert json.loads(path.read_text()) == {"old": 1}


def test_weights_of_another_bundle_are_refused(tmp_path: Path) -> None:
    """The same architecture, other weights: only the hash can tell."""
    one, two = (
        uf.save(model, tmp_path / n) for n, model in (("1", models()["flow"]), ("2", models()["flow"]))
    )
    uf.save(shaken(models()["flow"]), two)
    (one / bundle.WEIGHTS).write_bytes((two / bundle.WEIGHTS).read_bytes())
    with pytest.raises(InputError, match="does not match the hash in config"):
        uf.load(one)


@pytest.mark.parametrize("name", ["flow", "latent", "mlp classifier", "autoencoder"])
def test_each_loader_refuses_the_other_kinds(name: str, tmp_path: Path) -> None:
    model = models()[name]
    own, held = loader_of(model)
    uf.save(model, tmp_path)
    others = [(load, expected) for load, expected in LOADERS.values() if load is not own]
    assert len(others) == 2
    for load, expected in others:
        with pytest.raises(InputError, match=f"holds {held}; expected {expected}"):
            load(tmp_path)


def test_the_running_statistics_of_an_autoencoder_are_kept(tmp_path: Path) -> None:
    model = models()["autoencoder"]
    model.net.standardise.running_mean.fill_(0.25)
    model.net.standardise.running_var.fill_(4.0)
    again = uf.load_autoencoder(uf.save(model.eval(), tmp_path))
    x = torch.randn(5, 1, 8, 8, generator=stream(1))
    assert torch.equal(again.encode(x), model.encode(x))
    assert float(again.net.standardise.running_var[0]) == 4.0


def test_a_network_that_cannot_be_described_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    model = uf.Generator(decoder(4), (3,))
    with pytest.raises(InputError, match=r"Sequential that cannot be described.*net.config ="):
        uf.save(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"net": {"builder": "no_such_module:make", "options": {}}}, "no_such_module:make"),
        ({"net": {"net": "mlp", "shape": [2], "widht": 3}}, "widht"),
        ({"model": "diffusion"}, "'diffusion'"),
        ({"stepps": 3}, "stepps"),
    ],
)
def test_a_config_that_describes_no_model_names_the_bundle(
    change: dict[str, Any], words: str, tmp_path: Path
) -> None:
    uf.save(models()["flow"], tmp_path)
    config = json.loads((tmp_path / bundle.CONFIG).read_text()) | change
    (tmp_path / bundle.CONFIG).write_text(json.dumps(config))
    with pytest.raises(InputError, match=words) as caught:
        uf.load(tmp_path)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("width", [8, 9, 10, 11])
def test_a_cut_file_is_never_called_a_pickle(width: int, tmp_path: Path) -> None:
    """A safetensors file starts with the length of its header, which may read like a pickle's first bytes."""
    path = tmp_path / bundle.WEIGHTS
    for padding in range(0, 128, 8):
        files.write_tensors(path, {"x" * width: torch.zeros(3)}, "p" * (480 + padding))
        path.write_bytes(path.read_bytes()[:-4])
        with pytest.raises(InputError, match="is truncated or damaged"):
            files.read_tensors(path)
    torch.save({"x": torch.zeros(3)}, path)
    with pytest.raises(InputError, match="is a pickle"):
        files.read_tensors(path)
    torch.save({"x": torch.zeros(3)}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(InputError, match="is a pickle"):
        files.read_tensors(path)


def test_weights_of_half_precision_have_hashes_of_their_own() -> None:
    x = torch.tensor([1.0, -2.5, 0.0])
    kinds = (torch.float32, torch.float16, torch.bfloat16, torch.int16)
    hashes = {files.sha256_tensors(x.to(kind)) for kind in kinds}
    assert len(hashes) == len(kinds)
    same = files.sha256_tensors(x.bfloat16())
    assert same == files.sha256_tensors(x.bfloat16().clone()) != files.sha256_tensors((2 * x).bfloat16())
    bits = x.bfloat16().view(torch.int16)
    assert same != files.sha256_tensors(bits)
