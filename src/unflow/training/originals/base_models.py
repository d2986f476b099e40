"""Training of base models, classifiers and autoencoders into bundles, for ``unflow train``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from unflow.data import LabelledData, load_data, read_split
from unflow.disk import bundle
from unflow.ground.errors import InputError
from unflow.ground.files import sha256_module
from unflow.ground.locks import locks_output
from unflow.ground.progress import print_line
from unflow.models import Conditional, Flow, FlowMap, GenerativeModel, Generator
from unflow.models.autoencoder import Autoencoder
from unflow.models.classifier import Classifier
from unflow.models.components import SavedModel
from unflow.nets import AdaptedAverageVelocity, AdaptedVelocity, new_net
from unflow.training.compute import Compute
from unflow.training.loop import finish, fit
from unflow.training.method import Method, Problem, settings
from unflow.training.originals.autoencoding import Autoencoding
from unflow.training.originals.classification import Classification
from unflow.training.originals.distill import Distill
from unflow.training.originals.gan import GAN
from unflow.training.snapshots import Snapshots

KINDS = ("flow", "flow_map", "generator", "classifier", "autoencoder")

SPECIAL: dict[str, tuple[type[Method], str]] = {
    "generator": (GAN, "gan"),
    "classifier": (Classification, "classification"),
    "autoencoder": (Autoencoding, "autoencoding"),
}
"""Kind -> the only method that trains it, and its name; the other methods train flows and flow maps."""


LATENT = 64
"""Length of a generator's latents."""


def choose_width(kind: str, net: dict[str, Any], data: LabelledData) -> dict[str, Any]:
    """Return the description of a network, with a width for the MLP of a flow or flow map that names none.

    The velocity of noise needs every entry of x, and an MLP narrower than a sample loses some: its samples
    keep that part of the noise. So the width is max(256, entries of a sample, rounded up to a multiple of
    64). A narrower width of the user's is kept, and one printed line says so.
    """
    if kind not in ("flow", "flow_map") or net.get("net") != "mlp":
        return net
    entries = math.prod(data.x.shape[1:])
    width = max(256, 64 * math.ceil(entries / 64))
    given = net.get("width", width)
    if isinstance(given, int) and given < entries:
        print_line(
            f"got width={given} for samples of {entries} numbers; expected {entries} or more, or samples "
            f"keep some of the noise: write {width}, leave the width out, or use a unet"
        )
    return {"net": "mlp", "width": width, **net}


def new_model(kind: str, net: dict[str, Any], data: LabelledData, seed: int) -> Any:
    """Return a model with fresh weights for a dataset.

    Args:
        kind: flow, flow_map, generator, classifier or autoencoder.
        net: description of the network without the shape, like {"net": "mlp", "width": 256}.
        data: the dataset, for shape and classes.
        seed: of the initial weights.

    Raises:
        InputError: for an unknown kind or network.
    """
    shape = list(data.x.shape[1:])
    options = {"shape": shape, **net}
    if kind == "flow":
        return Flow(new_net({"num_times": 1, **options}, seed), shape)
    if kind == "flow_map":
        return FlowMap(new_net({"num_times": 2, **options}, seed), shape)
    if kind == "generator":
        return new_generator(net, data, seed)
    if kind == "classifier":
        outputs = {"outputs": len(data.class_names)}
        times = {"num_times": 0} if net.get("net") == "mlp" else {}
        return Classifier(new_net({**outputs, **times, **options}, seed), data.class_names)
    if kind == "autoencoder":
        return Autoencoder(new_net(options, seed))
    raise InputError(f"got the kind {kind!r}; expected one of {', '.join(KINDS)}")


def new_generator(net: dict[str, Any], data: LabelledData, seed: int) -> Generator:
    """Return a generator with fresh weights: conv_generator for images, an mlp for points.

    Args:
        net: description of the network, without its shape; ``latent`` is the length of a latent.
        data: the dataset, for its shape.
        seed: of the initial weights.

    Raises:
        InputError: for another network, or an mlp for images.
    """
    shape, options = list(data.x.shape[1:]), {"latent": LATENT, **net}
    if net.get("net") == "conv_generator":
        return Generator(new_net({"shape": shape, **options}, seed), [options["latent"]])
    if net.get("net") == "mlp" and len(shape) == 1:
        latent = options.pop("latent")
        made = new_net({**options, "shape": [latent], "outputs": shape[0], "num_times": 0}, seed)
        return Generator(made, [latent])
    raise InputError(
        f"got the network {net.get('net') or net.get('builder')} for a generator of samples of shape "
        f"{shape}; expected conv_generator for images [channels, height, width], or mlp for points"
    )


def new_conditional(
    kind: str,
    net: dict[str, Any],
    data: LabelledData,
    seed: int,
    has_null: bool = True,
    shares: Sequence[float] | None = None,
) -> Conditional:
    """Return a flow or flow map with fresh weights that is asked for the classes of the data, or for none.

    Args:
        kind: flow or flow_map.
        net: description of the network, without its shape.
        data: the dataset, for shape and classes.
        seed: of the initial weights.
        has_null: whether it has a null condition, the label after the last class.
        shares: probability of each class; None: its share of the data.

    Raises:
        InputError: for a network of unflow that takes no label.
    """
    shape, k = list(data.x.shape[1:]), len(data.class_names)
    if "builder" in net or net.get("net") not in ("mlp", "unet", "dit"):
        raise InputError(
            f"got conditional with the network {net.get('net') or net.get('builder')}; expected mlp, unet or "
            "dit, which take a label: leave conditional out"
        )
    times = 1 if kind == "flow" else 2
    made = new_net({"num_times": times, "shape": shape, **net, "num_classes": k}, seed)
    inner: Flow | FlowMap
    if kind == "flow":
        inner = Flow(AdaptedVelocity(made, shape, "x, t, label", label=0, null_label=k), shape)
    else:
        inner = FlowMap(AdaptedAverageVelocity(made, shape, "x, start, end, label", label=0), shape)
    if shares is None:
        counts = torch.bincount(data.labels, minlength=k).double()
        shares = (counts / counts.sum()).tolist()
    return Conditional(inner, shares, k if has_null else None, names=data.class_names)


@locks_output
def train_model(
    kind: str,
    net: dict[str, Any],
    method: Method,
    data: LabelledData,
    out: str | Path,
    *,
    seed: int = 0,
    teacher: GenerativeModel | None = None,
    critic: Classifier | None = None,
    part: str = "train",
    device: str = "cpu",
    devices: int = 1,
    label: str = "",
    conditional: bool = False,
    snapshots: Snapshots | None = None,
) -> SavedModel:
    """Train a base model, classifier or autoencoder into a bundle.

    If the bundle is finished, it is loaded; if the training was killed, it is continued.

    Args:
        kind: flow, flow_map, generator, classifier or autoencoder.
        net: description of the network, without shape and outputs.
        method: a training method for this kind.
        data: labelled samples to train on.
        out: folder of the bundle.
        seed: of weights and batches.
        teacher: the flow to distil, for ``Distill``.
        critic: a classifier of images, for ``Autoencoding`` with a perceptual distance.
        part: name of the part of the split that ``data`` is, for lineage.json.
        device: "cpu", "cuda" or "mps".
        devices: data-parallel processes.
        label: name in the progress line.
        conditional: whether a flow or flow map is asked for the classes of the data. A distilled one has a
            null condition if its teacher has one, and draws each class as often as its teacher does.
        snapshots: where to keep models on the way; None keeps none.
    """
    _check_kind(kind, method)
    if conditional and kind not in ("flow", "flow_map"):
        raise InputError(f"got conditional for the kind {kind}; expected flow or flow_map")
    out, net = Path(out), choose_width(kind, net, data)
    identity = {
        "kind": kind,
        "net": net,
        "method": type(method).__name__,
        "settings": settings(method),
        "seed": seed,
        "data": {part: data.fingerprint},
        "teacher": sha256_module(teacher) if teacher is not None else None,
    }
    if conditional:
        identity["conditional"] = True
    if critic is not None:
        identity["critic"] = sha256_module(critic)
    if bundle.is_complete(out):
        bundle.check_lineage(out, identity, settings(type(method)()))
        finish(out)
        return bundle.load_result(out, [net])
    problem = Problem(
        model=new_conditional(
            kind, net, data, seed, _has_null(method, teacher), _find_shares(method, teacher, data)
        )
        if conditional
        else new_model(kind, net, data, seed),
        data=data.x,
        labels=data.labels,
        teacher=teacher,
        critic=critic,
    )
    result = fit(
        method,
        problem,
        out,
        seed=seed,
        compute=Compute(device=device, devices=devices),
        label=label or kind,
        problem_id=bundle.hash_lineage(identity),
        snapshots=snapshots,
    )
    model = result.model
    assert isinstance(model, SavedModel)
    lineage = identity | {
        "parent": None,
        "request": None,
        "steps": result.steps,
        "seconds": result.seconds,
        "peak_rss_mb": result.peak_rss_mb,
        "data_used": [f"{part}_images"],
    }
    if result.is_first:
        bundle.save(model, out, lineage)
        finish(out)
    return model


def _has_null(method: Method, teacher: GenerativeModel | None) -> bool:
    """Return whether a new conditional model has a null condition: a distilled one has its teacher's."""
    return not isinstance(method, Distill) or getattr(teacher, "null", None) is not None


def _find_shares(method: Method, teacher: GenerativeModel | None, data: LabelledData) -> list[float] | None:
    """Return how often a distilled model draws each class: as often as a teacher with the same classes."""
    if not isinstance(method, Distill) or not isinstance(teacher, Conditional):
        return None
    return teacher.probabilities if teacher.num_conditions == len(data.class_names) else None


def _check_kind(kind: str, method: Method) -> None:
    """Raise InputError for a method that does not train this kind of model."""
    trained = [own for own, (trainer, _) in SPECIAL.items() if isinstance(method, trainer)]
    if trained != [kind] * (kind in SPECIAL):
        right = SPECIAL[kind][1] if kind in SPECIAL else "flow_matching, mean_flow or distill"
        raise InputError(f"{type(method).__name__} does not train the kind {kind}; expected {right} for it")


def load_rows(
    data: str, split: str | Path | None, part: str, cache: str | Path | None = None
) -> LabelledData:
    """Return a dataset, or one part of its split; ``cache`` as in ``load_data``."""
    return load_data(data, cache) if split is None else load_parts(data, split, part, cache=cache)[0]


def load_parts(
    data: str, split: str | Path, *parts: str, cache: str | Path | None = None
) -> list[LabelledData]:
    """Return parts of a dataset's split; ``cache`` as in ``load_data``."""
    rows, everything = read_split(split), load_data(data, cache)
    return [rows.of(everything, part) for part in parts]
