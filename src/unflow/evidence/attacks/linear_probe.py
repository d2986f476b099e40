"""Linear probe: whether hidden activations of a network still tell the forgotten class from others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from unflow.evidence.attacks.condition_rows import ImpossibleAttackError
from unflow.evidence.attacks.scores import FEWEST, Scores
from unflow.evidence.metrics.two_sample import score_held_out
from unflow.ground.errors import InputError, require_at_least
from unflow.mathematics.paths import LinearPath
from unflow.models import Conditional, Flow, FlowMap, GenerativeModel, Generator, Latent, inner_model
from unflow.models.conditional import NULL, without_conditions
from unflow.nets import AdaptedVelocity
from unflow.nets.modes import evaluating

Call = Callable[[Tensor], Tensor]
"""An evaluation of a network at the points with these numbers, [rows]."""

BATCH = 250
"""Points per evaluation."""
VARIES = 1e-5
"""Smallest standard deviation of a layer's input over points, relative to its size; a layer below it reads
the time or the label alone."""


@dataclass(frozen=True, kw_only=True)
class LinearProbe:
    r"""Fit a logistic regression on hidden activations, and score the other half of the points with it.

        s(x) = P(forgotten class | h(x))        h: activations, averaged over positions, standardised

    (arXiv 1610.01644.) The points of a flow are real images x at noise, x_t = (1 - t) e + t x, with the
    activations of all times side by side. A one-step model has no input for images: its points are latents z,
    and the class is that of the *original's* sample of z. The layers are linear layers and convolutions that
    read the point, in the order in which they run, without the first: "middle" is the input of the one
    halfway, "last" the input of the last one. A conditional model is read at its null condition.

    A network that has never been trained on a class may tell it from others as well, because features are
    shared. Compare each AUC with the retrained model's.

    Attributes:
        images: points of each group, at most; half of them fit the regression.
        latents: of the original, among which those of a one-step model's groups are found.
        times: of a flow's points, in [0, 1).
    """

    images: int = 400
    latents: int = 4000
    times: tuple[float, ...] = (0.3, 0.6, 0.9)

    def __post_init__(self) -> None:
        require_at_least(self, images=2 * FEWEST, latents=2 * FEWEST)
        if not self.times or not all(0 <= t < 1 for t in self.times):
            raise InputError(f"got times={list(self.times)}; expected numbers in [0, 1), like [0.5]")

    def __call__(
        self, model: GenerativeModel, forgotten: Tensor, retained: Tensor, generator: torch.Generator
    ) -> dict[str, Scores]:
        """Return the scores of held-out points by layer: "middle" and "last", or "last" alone.

        Args:
            model: to attack; it is not changed.
            forgotten: points of the forgotten classes: images [n, *sample_shape] for a flow, else latents
                [n, *prior_shape].
            retained: points of the other classes, [m, ...].
            generator: draws the points, the noise and the halves.

        Raises:
            ImpossibleAttackError: for fewer than 20 points in a group, a chain or a filter, a conditional
                model without a null condition, and a network with too few layers.
        """
        inner = _require_network(model)
        groups = [_choose(each, self.images, generator) for each in (forgotten, retained)]
        points = torch.cat(groups).to(model.device, model.dtype)
        with evaluating(model), torch.no_grad():
            layers = _read_layers(inner, self._list_calls(model, points, generator), len(points))
        seed = int(torch.randint(2**31 - 1, (1,), generator=generator))
        found = {}
        for name, activations in layers.items():
            ours, others = torch.split(activations.double().cpu(), [len(each) for each in groups])
            scores = score_held_out(generated=ours, reference=others, seed=seed)
            found[name] = Scores(*(torch.from_numpy(each) for each in scores))
        return found

    def _list_calls(self, model: GenerativeModel, points: Tensor, generator: torch.Generator) -> list[Call]:
        """Return the evaluations of the network whose activations are read."""
        if not reads_images(model):
            z = points if model.conditional is None else model.conditional.ask(points, NULL)
            return [lambda rows: model.push(z[rows])]
        inner = inner_model(model)
        x = model.autoencoder.encode(points) if isinstance(model, Latent) else points
        flow = without_conditions(inner)
        assert isinstance(flow, Flow)
        noise = flow.prior(len(x), generator)

        def call(rows: Tensor, t: float) -> Tensor:
            net, time = flow.net, x.new_full((len(rows),), t)
            if isinstance(inner, Conditional):
                assert isinstance(net, AdaptedVelocity)  # ``Conditional`` has refused other networks
                net = net.unguided(torch.full((len(rows),), inner.find(NULL), device=x.device))
            velocity: Tensor = net(LinearPath().sample(noise[rows], x[rows], time).x_t, time)
            return velocity

        return [partial(call, t=t) for t in self.times]


def reads_images(model: GenerativeModel) -> bool:
    """Return whether the points of a model are images, as those of a flow, or latents."""
    return isinstance(without_conditions(inner_model(model)), Flow)


def _require_network(model: GenerativeModel) -> nn.Module:
    """Return the one network of a model.

    Raises:
        ImpossibleAttackError: for a model of several, or one without a null condition.
    """
    inner = without_conditions(inner_model(model))
    if not isinstance(inner, Flow | FlowMap | Generator):
        raise ImpossibleAttackError(f"a {type(inner).__name__} contains the activations of another model")
    if model.conditional is not None and model.conditional.null is None:
        raise ImpossibleAttackError("its labels tell the class, and it has no null condition")
    return inner.net


def _choose(points: Tensor, most: int, generator: torch.Generator) -> Tensor:
    if len(points) < 2 * FEWEST:
        raise ImpossibleAttackError(f"there are {len(points)} points of a group, of {2 * FEWEST} or more")
    return points[torch.randperm(len(points), generator=generator)[:most]]


# Activations


def _read_layers(net: nn.Module, calls: Sequence[Call], n: int) -> dict[str, Tensor]:
    """Return "middle" and "last" -> inputs of these layers, those of all calls side by side, [n, d].

    Raises:
        ImpossibleAttackError: for a network without a hidden layer.
    """
    by_call = []
    for call in calls:
        parts = []
        for rows in torch.split(torch.arange(n), BATCH):
            with _recording(net, len(rows)) as found:
                call(rows)
            parts.append(found)
        by_call.append({layer: torch.cat([part[layer] for part in parts]) for layer in parts[0]})
    inputs = [torch.cat([found[layer] for found in by_call], 1) for layer in by_call[0]]
    hidden = [x for x in inputs if x.std(0).max() > VARIES * x.abs().max()][1:]
    if not hidden:
        raise ImpossibleAttackError("the network has fewer than two linear layers or convolutions")
    middle = {"middle": hidden[len(hidden) // 2]} if len(hidden) > 1 else {}
    return middle | {"last": hidden[-1]}


@contextmanager
def _recording(net: nn.Module, n: int) -> Iterator[dict[nn.Module, Tensor]]:
    """Record the input of each layer at its first call, averaged over positions, [n, channels]."""
    found: dict[nn.Module, Tensor] = {}

    def record(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if layer not in found and inputs and len(inputs[0]) == n:
            x = inputs[0]
            positions = range(2, x.ndim) if isinstance(layer, _ConvNd) else range(1, x.ndim - 1)
            found[layer] = x.mean(tuple(positions)) if len(positions) else x

    layers = [part for part in net.modules() if isinstance(part, nn.Linear | _ConvNd)]
    hooks = [layer.register_forward_pre_hook(record) for layer in layers]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
