"""Models of diffusers: what is loaded draws what diffusers draws; what is written is loaded there again."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

import unflow as uf
from unflow.disk import diffusers as folders_of_diffusers
from unflow.disk.bundle import read_lineage
from unflow.disk.diffusers import save_diffusers, unet
from unflow.energies import CallableEnergy
from unflow.ground.errors import InputError
from unflow.ground.streams import stream
from unflow.methods import ERFM, UOT, FineTune
from unflow.nets import MLP, build_net
from unflow.training.method import Method


def load_diffusers(folder: Path, **options: Any) -> Any:
    """Load a model whose type depends on the folder."""
    return folders_of_diffusers.load_diffusers(folder, **options)


UNET = {
    "sample_size": 8,
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "attention_head_dim": 8,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
}
VAE = {
    "sample_size": 64,
    "in_channels": 1,
    "out_channels": 1,
    "latent_channels": 3,
    "block_out_channels": (4, 8),
    "norm_num_groups": 4,
    "scaling_factor": 0.5,
    "shift_factor": 0.25,
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
}


def shaken(module: Any) -> Any:
    """The module with every weight drawn anew, so that no two parts of it say the same."""
    generator = stream(5)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.15 * torch.randn(parameter.shape, generator=generator))
    return module.eval()


def new_unet(**options: Any) -> Any:
    return shaken(diffusers.UNet2DModel(**{**UNET, **options}))


def new_vae(**options: Any) -> Any:
    return shaken(diffusers.AutoencoderKL(**{**VAE, **options}))


def flow_scheduler(**options: Any) -> Any:
    return diffusers.FlowMatchEulerDiscreteScheduler(**options)


def consistency_scheduler(**options: Any) -> Any:
    return diffusers.CMStochasticIterativeScheduler(**options)


MAKE = {
    "flow": lambda: diffusers.DDPMPipeline(new_unet(), flow_scheduler(shift=3.0)),
    "consistency": lambda: diffusers.ConsistencyModelPipeline(
        new_unet(), consistency_scheduler(sigma_max=40.0)
    ),
    "latent": lambda: diffusers.LDMPipeline(new_vae(), new_unet(), flow_scheduler()),
    "autoencoder": lambda: new_vae(sample_size=16),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("diffusers")
    for name, make in MAKE.items():
        make().save_pretrained(root / name)
    return {name: root / name for name in MAKE}


def noise(n: int = 3, shape: tuple[int, ...] = (3, 8, 8)) -> Tensor:
    return torch.randn(n, *shape, generator=stream(1))


def same(x: Tensor, y: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(x, y, rtol=0, atol=tolerance)


def output(model: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x)


# A U-Net as the velocity of a flow


def euler_samples(unet: Any, scheduler: Any, z: Tensor, steps: int) -> Tensor:
    """Draw by diffusers' own loop, in equal steps of sigma from 1 to 0."""
    scheduler.set_timesteps(sigmas=[1 - i / steps for i in range(steps)])
    x = z
    for t in scheduler.timesteps:
        with torch.no_grad():
            x = scheduler.step(unet(x, t, return_dict=False)[0], t, x, return_dict=False)[0]
    return x


@pytest.mark.parametrize("times", [1000, 100])
def test_a_flow_draws_what_the_euler_scheduler_draws_from_the_same_noise(times: int, tmp_path: Path) -> None:
    unet, scheduler = new_unet(), flow_scheduler(num_train_timesteps=times)
    pipeline: Any = diffusers.DDPMPipeline(unet, scheduler)
    pipeline.save_pretrained(tmp_path)
    flow = load_diffusers(tmp_path)
    assert isinstance(flow, uf.Flow)
    assert not flow.training
    assert flow.sample_shape == (3, 8, 8)
    flow.integrator, flow.steps = "euler", 4
    drawn = output(flow, noise())
    same(drawn, euler_samples(unet, scheduler, noise(), 4))
    assert float((drawn - noise()).abs().mean()) > 0.05


def test_the_shift_of_a_scheduler_moves_its_steps_and_not_the_velocity(folders: dict[str, Path]) -> None:
    flow = load_diffusers(folders["flow"])
    assert json.loads((folders["flow"] / "scheduler/scheduler_config.json").read_text())["shift"] == 3.0
    t = torch.tensor([0.0, 0.3, 1.0])
    with torch.no_grad():
        expected = -new_unet()(noise(), 1000 * (1 - t)).sample
        same(flow.net(noise(), t), expected)


def test_gradients_of_a_flow_are_its_slopes() -> None:
    """Also through normalisation and attention, in training mode, where the net has dropout of its own."""
    config = {"unet": {**UNET, "dropout": 0.5}, "scheduler": {"num_train_timesteps": 1000}}
    net = shaken(build_net({"builder": "unflow.hub:FlowUNet", "options": config})).double().train()
    x, t = noise(2).double().requires_grad_(), torch.tensor([0.2, 0.7]).double()
    weight, direction = net.net.unet.mid_block.attentions[0].to_q.weight, noise(2).double().flip(0)
    loss = net(x, t).square().sum()
    loss.backward()
    with torch.no_grad():
        ahead, behind = (net(x + h * direction, t).square().sum() for h in (1e-5, -1e-5))
    assert x.grad is not None
    torch.testing.assert_close((x.grad * direction).sum(), (ahead - behind) / 2e-5, rtol=1e-5, atol=0)
    assert float(weight.grad.abs().max()) > 0


def test_a_fresh_velocity_is_zero_and_leaves_the_global_stream_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    config = {"unet": UNET, "scheduler": {"num_train_timesteps": 1000}}
    net = build_net({"builder": "unflow.hub:FlowUNet", "options": config})
    assert torch.equal(torch.rand(2), expected)
    assert not net(noise(), torch.rand(3, generator=stream(2))).any()


# A consistency model as a one-step generator


@pytest.mark.parametrize(
    ("options", "label"),
    [
        ({}, None),
        ({"clip_denoised": False, "sigma_max": 3.0, "sigma_min": 0.1, "sigma_data": 0.7}, None),
        ({"sigma_max": 10.0, "num_train_timesteps": 18}, 2),
    ],
)
def test_a_generator_draws_what_the_consistency_pipeline_draws_in_one_step(
    options: dict[str, Any], label: int | None, tmp_path: Path
) -> None:
    unet = new_unet(num_class_embeds=None if label is None else 4)
    with torch.no_grad():
        unet.conv_out.weight.mul_(20)  # some values are to be clipped
    pipeline: Any = diffusers.ConsistencyModelPipeline(unet, consistency_scheduler(**options))
    pipeline.save_pretrained(tmp_path)
    pipeline.set_progress_bar_config(disable=True)
    model = load_diffusers(tmp_path, label=label)
    assert isinstance(model, uf.Generator)
    labels = None if label is None else torch.full((3,), label)
    images = pipeline(3, labels, 1, latents=noise(), output_type="pt").images
    drawn = output(model, noise())
    same((drawn / 2 + 0.5).clamp(0, 1), images, 1e-4)
    assert float(images.std()) > 0.1
    assert bool((drawn.abs() <= 1).all()) == pipeline.scheduler.config.clip_denoised


def test_what_is_not_clipped_is_what_the_scheduler_returns(tmp_path: Path) -> None:
    options = {"clip_denoised": False, "sigma_max": 0.8, "sigma_min": 0.1, "sigma_data": 2.0}
    unet, scheduler = new_unet(), consistency_scheduler(**options)
    pipeline: Any = diffusers.ConsistencyModelPipeline(unet, scheduler)
    pipeline.save_pretrained(tmp_path)
    scheduler.set_timesteps(1)
    (t,), y = scheduler.timesteps, 0.8 * noise()
    with torch.no_grad():
        out = unet(scheduler.scale_model_input(y, t), t, return_dict=False)[0]
    drawn = output(load_diffusers(tmp_path), noise())
    same(drawn, scheduler.step(out, t, y).prev_sample)
    assert float(drawn.abs().max()) > 1


def test_another_label_draws_another_class(tmp_path: Path) -> None:
    pipeline: Any = diffusers.DDPMPipeline(new_unet(num_class_embeds=2), flow_scheduler())
    pipeline.save_pretrained(tmp_path)
    one, two = (output(load_diffusers(tmp_path, label=label), noise()) for label in (0, 1))
    assert float((one - two).abs().max()) > 1e-3


# An AutoencoderKL as the room of latent models


def test_an_autoencoder_scales_and_shifts_the_mean_as_diffusers_does(folders: dict[str, Path]) -> None:
    model, vae = load_diffusers(folders["autoencoder"]), new_vae(sample_size=16)
    assert isinstance(model, uf.Autoencoder)
    assert (model.sample_shape, model.latent_shape) == ((1, 16, 16), (3, 8, 8))
    x = noise(5, (1, 16, 16)).tanh()
    with torch.no_grad():
        z = 0.5 * (vae.encode(x).latent_dist.mean - 0.25)
        images = vae.decode(z / 0.5 + 0.25).sample
    same(model.encode(x, batch_size=2), z)
    same(model.decode_batches(z), images)
    same(output(model, x), images)


def test_gradients_pass_through_the_decoder(folders: dict[str, Path]) -> None:
    model = load_diffusers(folders["autoencoder"])
    z, direction = noise().double().requires_grad_(), noise().double().flip(0)

    def energy(latents: Tensor) -> Tensor:
        return model.double().decode(latents).square().sum()

    energy(z).backward()
    slope = (energy(z + 1e-5 * direction) - energy(z - 1e-5 * direction)) / 2e-5
    assert z.grad is not None
    torch.testing.assert_close((z.grad * direction).sum(), slope.detach(), rtol=1e-5, atol=0)


def test_the_unet_of_a_pipeline_says_how_large_images_are(folders: dict[str, Path]) -> None:
    """Not the AutoencoderKL, whose config.json names the size that it was trained at (64 here)."""
    model = load_diffusers(folders["latent"])
    assert isinstance(model, uf.Latent)
    assert (model.prior_shape, model.sample_shape) == ((3, 8, 8), (1, 16, 16))
    with torch.no_grad():
        expected = new_vae().decode(model.inner(noise()) / 0.5 + 0.25).sample
    same(output(model, noise()), expected)


def test_large_images_are_pushed_a_few_at_a_time(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_diffusers(folders["latent"])
    whole, seen = output(model, noise(5)), []
    monkeypatch.setattr(unet, "PIXELS", 2 * 16 * 16)
    for part in (model.inner.net.net.unet.conv_in, model.autoencoder.net.vae.decoder.conv_in):
        part.register_forward_pre_hook(lambda _, x: seen.append(len(x[0])))
    same(output(model, noise(5)), whole)
    assert max(seen[:-3]) == 5  # of 64 pixels, under the limit of 512
    assert seen[-3:] == [2, 2, 1]


def test_images_of_another_size_can_be_asked_for(folders: dict[str, Path]) -> None:
    assert load_diffusers(folders["flow"], sample_size=(4, 16)).sample(2, stream(0)).shape == (2, 3, 4, 16)
    assert load_diffusers(folders["latent"], sample_size=4).sample_shape == (1, 8, 8)
    assert load_diffusers(folders["autoencoder"], sample_size=8).latent_shape == (3, 4, 4)


# Folders


def test_a_folder_of_one_network_says_by_its_scheduler_or_by_kind_what_it_is(tmp_path: Path) -> None:
    new_unet().save_pretrained(tmp_path)
    with pytest.raises(
        InputError,
        match=r"without scheduler_config.json, which names the kind of model.*write kind='flow' or",
    ):
        load_diffusers(tmp_path)
    assert isinstance(load_diffusers(tmp_path, kind="flow"), uf.Flow)
    assert isinstance(load_diffusers(tmp_path, kind="consistency"), uf.Generator)
    consistency_scheduler().save_pretrained(tmp_path)
    assert isinstance(load_diffusers(tmp_path), uf.Generator)
    with pytest.raises(InputError, match="got kind='flow' for a model with CMStochasticIterativeScheduler"):
        load_diffusers(tmp_path, kind="flow")


def test_half_precision_weights_are_loaded_in_single_precision(tmp_path: Path) -> None:
    new_unet().half().save_pretrained(tmp_path)
    flow = load_diffusers(tmp_path, kind="flow")
    assert flow.dtype == torch.float32
    same(flow.net.net.unet.conv_in.weight, new_unet().conv_in.weight, 1e-3)


REFUSED: dict[str, tuple[Any, dict[str, Any], str]] = {
    "diffusion": (
        lambda: diffusers.DDPMPipeline(new_unet(), diffusers.DDPMScheduler()),
        {},
        r"a DDPMPipeline \(scheduler: DDPMScheduler, unet: UNet2DModel\); expected a UNet2DModel with Flow",
    ),
    "another network": (
        lambda: diffusers.UNet1DModel(block_out_channels=(8, 8, 16), extra_in_channels=16),
        {},
        "holds a UNet1DModel; expected a UNet2DModel with FlowMatchEulerDiscreteScheduler",
    ),
    "a scheduler alone": (flow_scheduler, {}, r"found: scheduler_config.json\); expected model_index.json"),
    "no label": (lambda: new_unet(num_class_embeds=4), {"kind": "flow"}, "label=None for .* of 4 classes"),
    "unknown label": (
        lambda: new_unet(num_class_embeds=4),
        {"kind": "flow", "label": 4},
        "write label=0 to label=3",
    ),
    "label of nothing": (new_unet, {"kind": "flow", "label": 1}, "for a network without classes"),
    "a variance": (lambda: new_unet(out_channels=6), {"kind": "flow"}, "3 channels in and 6 out"),
    "continuous times": (
        lambda: new_unet(time_embedding_type="fourier"),
        {"kind": "consistency"},
        "embedding_type=fourier",
    ),
    "no size": (lambda: new_unet(sample_size=None), {"kind": "flow"}, "no sample_size; .* write sample_size"),
    "odd size": (new_unet, {"kind": "flow", "sample_size": 9}, "sample_size=9 for .* multiples of that"),
    "unknown kind": (new_unet, {"kind": "diffusion"}, "expected one of flow, consistency"),
    "label of a decoder": (new_vae, {"label": 3}, "got kind=None and label=3 for an AutoencoderKL"),
    "standardised latents": (lambda: new_vae(latents_mean=[0.0] * 3), {}, "latents of one scaling_factor"),
    "inverted times": (
        lambda: diffusers.DDPMPipeline(new_unet(), flow_scheduler(invert_sigmas=True)),
        {},
        "invert_sigmas",
    ),
    "rooms that do not meet": (
        lambda: diffusers.LDMPipeline(new_vae(latent_channels=4), new_unet(), flow_scheduler()),
        {},
        r"samples \[3, 8, 8\] before a decoder of latents \[4, 8, 8\]",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_a_model_here_is_refused_in_one_sentence(name: str, tmp_path: Path) -> None:
    make, options, words = REFUSED[name]
    make().save_pretrained(tmp_path)
    with pytest.raises(InputError, match=words):
        load_diffusers(tmp_path, **options)


def test_weights_that_are_pickled_missing_cut_or_foreign_are_refused(tmp_path: Path) -> None:
    new_unet().save_pretrained(tmp_path, safe_serialization=False)
    with pytest.raises(
        InputError, match=r"found: config.json, diffusion_pytorch_model.bin\).*reads no pickles"
    ):
        load_diffusers(tmp_path, kind="flow")
    new_unet().save_pretrained(tmp_path)
    weights, config = tmp_path / "diffusion_pytorch_model.safetensors", tmp_path / "config.json"
    for change in ({"add_attention": False}, {"block_out_channels": [8, 32]}, {"no_such_option": 1}):
        saved = config.read_text()
        config.write_text(json.dumps(json.loads(saved) | change))
        with pytest.raises(InputError, match=r"another architecture|no complete UNet2DModel|does not take"):
            load_diffusers(tmp_path, kind="flow")
        config.write_text(saved)
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(InputError, match="holds no complete UNet2DModel"):
        load_diffusers(tmp_path, kind="flow")


def test_folders_that_are_missing_or_no_json_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"found: nothing\); expected model_index.json or config.json"):
        load_diffusers(tmp_path / "no")
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(InputError, match="got a list in"):
        load_diffusers(tmp_path)
    MAKE["flow"]().save_pretrained(tmp_path)
    (tmp_path / "scheduler" / "scheduler_config.json").unlink()
    with pytest.raises(InputError, match=r"scheduler_config.json is missing; expected the complete folder"):
        load_diffusers(tmp_path)


@pytest.mark.parametrize("name", ["../unet", "..", "a/unet"])
def test_a_part_outside_the_folder_is_refused(name: str, tmp_path: Path) -> None:
    index = {"_class_name": "DDPMPipeline", name: ["diffusers", "UNet2DModel"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match=f"got the part '{re.escape(name)}' in model_index.json"):
        load_diffusers(tmp_path)


def test_without_the_package_the_extra_is_named(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(InputError, match=r"write pip install 'unflow\[diffusers\]'"):
        load_diffusers(folders["autoencoder"])


# Bundles


@pytest.mark.parametrize("name", MAKE)
def test_a_bundle_holds_the_whole_model(name: str, folders: dict[str, Path], tmp_path: Path) -> None:
    model = load_diffusers(folders[name])
    uf.save(model, tmp_path / "bundle")
    again = (uf.load_autoencoder if name == "autoencoder" else uf.load)(tmp_path / "bundle")
    assert again.config() == model.config()
    assert read_lineage(tmp_path / "bundle")["versions"]["diffusers"] == diffusers.__version__
    x = noise(2, (1, 16, 16) if name == "autoencoder" else (3, 8, 8))
    assert torch.equal(output(again, x), output(model, x))


def test_no_file_says_in_which_folder_a_model_once_lay(tmp_path: Path) -> None:
    """diffusers writes the folder that a network was read from into its configuration."""
    new_unet().save_pretrained(tmp_path / "secret")
    network = diffusers.UNet2DModel.from_pretrained(tmp_path / "secret", low_cpu_mem_usage=False)
    network.save_pretrained(tmp_path / "copy")
    assert "secret" in (tmp_path / "copy" / "config.json").read_text()
    model = load_diffusers(tmp_path / "copy", kind="flow")
    for folder in (uf.save(model, tmp_path / "bundle"), save_diffusers(model, tmp_path / "back")):
        assert not [file for file in folder.iterdir() if b"secret" in file.read_bytes()]


# There and back


def redness(x: Tensor) -> Tensor:
    return x[:, 0].square().mean((1, 2))


SHORT: dict[str, Any] = {"steps": 3, "batch_size": 8}
METHODS: dict[str, tuple[str, Method]] = {
    "erfm_resample_prior": (
        "flow",
        ERFM(place="prior", weighting="resample", coupling="exact_ot", bank_size=16, block_size=8, **SHORT),
    ),
    "fine_tune": ("flow", FineTune(**SHORT)),
    "uot_tilted": ("consistency", UOT(pool="tilted", share=0.3, width=8, bank_size=16, **SHORT)),
    "erfm_resample_prior of latents": (
        "latent",
        ERFM(place="prior", weighting="resample", coupling="exact_ot", bank_size=16, block_size=8, **SHORT),
    ),
}


def unlearned(model: Any, method: Method) -> Any:
    inner = model.inner if isinstance(model, uf.Latent) else model
    if isinstance(inner, uf.Flow):
        inner.steps = 2
    target = uf.Target(model, CallableEnergy(redness, lower_bound=0.0))
    return uf.unlearn(target, method, retain=noise(16).tanh() if isinstance(method, FineTune) else None).model


@pytest.mark.parametrize("name", METHODS)
def test_unlearned_weights_go_back_into_the_folder_they_came_from(
    name: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    """Loaded, changed, written, loaded by diffusers: the same pipeline, but for the U-Net's weights."""
    form, method = METHODS[name]
    model = load_diffusers(folders[form])
    result = unlearned(model, method)
    folder = save_diffusers(result, tmp_path / "new")
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder, low_cpu_mem_usage=False)
    assert type(pipeline) is type(MAKE[form]())
    again = load_diffusers(folder)
    inner, before = (m.inner if form == "latent" else m for m in (result, model))
    weights = inner.net.net.unet.state_dict()
    assert all(torch.equal(value, weights[key]) for key, value in pipeline.unet.state_dict().items())
    assert not torch.equal(weights["conv_in.weight"], before.net.net.unet.conv_in.weight)
    if form != "consistency":
        (again.inner if form == "latent" else again).steps = 2
    assert torch.equal(output(again, noise()), output(result, noise()))
    for file in folders[form].rglob("*.json"):
        old, new = (json.loads(path.read_text()) for path in (file, folder / file.relative_to(folders[form])))
        assert new == old


@pytest.mark.parametrize("form", ["flow", "autoencoder"])
def test_one_network_is_written_as_one_network(form: str, folders: dict[str, Path], tmp_path: Path) -> None:
    if form == "autoencoder":
        model, kind = load_diffusers(folders[form]), "AutoencoderKL"
    else:
        model, kind = load_diffusers(folders[form] / "unet", kind="flow"), "UNet2DModel"
    folder = save_diffusers(model, tmp_path / "new")
    loaded = getattr(diffusers, kind).from_pretrained(folder, low_cpu_mem_usage=False)
    x = noise(2, model.sample_shape)
    assert torch.equal(output(load_diffusers(folder), x), output(model, x))
    own = model.net.vae if form == "autoencoder" else model.net.net.unet
    assert all(torch.equal(value, own.state_dict()[name]) for name, value in loaded.state_dict().items())


def test_the_model_inside_a_latent_one_is_written_alone(folders: dict[str, Path], tmp_path: Path) -> None:
    inner = load_diffusers(folders["latent"]).inner
    again = load_diffusers(save_diffusers(inner, tmp_path))
    assert isinstance(again, uf.Flow)
    assert torch.equal(output(again, noise()), output(inner, noise()))


def test_only_what_diffusers_can_hold_is_written_and_only_into_an_empty_folder(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    flow, room = load_diffusers(folders["flow"]), load_diffusers(folders["autoencoder"])
    after = uf.Flow(MLP((3, 8, 8), 8, 1), (3, 8, 8))
    refused: list[tuple[Any, str]] = [
        (uf.Chain(flow, after), "got a Chain, which no folder of diffusers can hold; .*uf.save"),
        (after, "got a Flow of a MLP, which no folder"),
        (uf.Latent(flow, room), r"of networks from two folders.*save_diffusers\(model.inner"),
    ]
    for model, words in refused:
        with pytest.raises(InputError, match=words):
            save_diffusers(model, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    with pytest.raises(InputError, match="is not empty; expected a new one"):
        save_diffusers(flow, folders["flow"])
