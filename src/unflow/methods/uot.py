"""UOT: semi-dual unbalanced optimal transport for one-step generators (our reading of arXiv 2603.16489)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from unflow.energies import Energy
from unflow.ground.errors import InputError
from unflow.mathematics.divergences import Divergence
from unflow.methods.conditional_pairs import favour_changed
from unflow.methods.latent_transport import LatentTransport
from unflow.methods.potentials import FeaturePotential, find_features
from unflow.models import FlowMap, GenerativeModel, Generator, without_conditions
from unflow.nets import MLP, new_net
from unflow.nets.adapters import unwrap
from unflow.training.critics import is_image, make_critic
from unflow.training.method import (
    Descend,
    Part,
    Parts,
    Problem,
    Tensors,
    Training,
    draw_rows,
    draw_weighted,
    model_of,
    require_batch,
    start_of,
    target_of,
    trainable_copy,
)
from unflow.training.originals.flow_matching import conditional_of

MAX_RATIO = 1e3
"""Largest density ratio in the potential's loss. Without a limit, KL's exponential would overflow for a
potential that falls steeply where the pool has few samples; below it, the optimum is unchanged."""


class TransportCost(nn.Module):
    """c(x, y) = tau/2 ||x - y||^2 / s^2 + lam F(y) with s^2 = E||G0(z) - G0(z')||^2.

    Args:
        energy: F; None for the transport cost alone.
        strength: lam >= 0.
        tau: >= 0, independent of the data's scale and dimension.
        scale: s^2 > 0.
    """

    def __init__(self, energy: Energy | None, strength: float, tau: float, scale: float) -> None:
        super().__init__()
        self.energy, self.strength, self.tau, self.scale = energy, strength, tau, scale

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return c(x, y), [batch]."""
        distance = (x - y).square().flatten(1).sum(1) / self.scale
        cost: Tensor = self.tau / 2 * distance
        return cost if self.energy is None else cost + self.strength * self.energy(y)

    @staticmethod
    def measure_scale(x: Tensor) -> Tensor:
        """Return s^2 of samples x of the original: [1]."""
        return (2 * x.flatten(1).var(0).sum()).reshape(1)


class PotentialLoss(nn.Module):
    """E[phi1*(v(G(z)) - c(G0(z), G(z)))] + E[phi2*(-v(y'))] + r1/2 E||grad v(y')||^2.

    ``phi1`` None is the fixed source, phi1*(s) = s.
    """

    def __init__(self, net: nn.Module, phi1: Divergence | None, phi2: Divergence) -> None:
        super().__init__()
        self.net, self.phi1, self.phi2 = net, phi1, phi2

    def forward(self, moved: Tensor, cost: Tensor, pool: Tensor, r1: float, *labels: Tensor) -> Tensor:
        """Return the loss for moved samples G(z), their costs [batch], samples of the pool, and R1.

        ``labels`` are the conditions of the moved samples and of the pool, [batch], for a potential v(x, c).
        """
        of_moved, of_pool = labels[:1], labels[1:]
        slack = self.net(moved, *of_moved)[:, 0] - cost
        value = (slack if self.phi1 is None else self.phi1.conjugate_up_to(slack, MAX_RATIO)).mean()
        pool = pool.detach().requires_grad_(r1 > 0)
        v = self.net(pool, *of_pool)[:, 0]
        value = value + self.phi2.conjugate_up_to(-v, MAX_RATIO).mean()
        if r1 > 0:
            (slope,) = torch.autograd.grad(v.sum(), pool, create_graph=True)
            value = value + r1 / 2 * slope.square().flatten(1).sum(1).mean()
        return value


class GeneratorLoss(nn.Module):
    """E[c(G0(z), G(z)) - v(G(z))]; potential and cost are not trained, and so not registered here."""

    def __init__(self, model: GenerativeModel, potential: nn.Module, cost: TransportCost) -> None:
        super().__init__()
        self.model = model
        self._read = (potential, cost)

    def forward(self, z: Tensor, origin: Tensor, *label: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the loss for latents z with original outputs G0(z), the samples G(z), and costs [batch].

        ``label`` holds the conditions of the latents, [batch], for a potential v(x, c).

        Samples and costs carry no gradient. The potential's step needs them: computing G(z) again would cost
        a quarter of the whole step.
        """
        potential, transport = self._read
        moved = self.model.push(z)
        cost = transport(origin, moved)
        potential.requires_grad_(False)
        loss = (cost - potential(moved, *label)[:, 0]).mean()
        potential.requires_grad_(True)
        return loss, moved.detach(), cost.detach()


@dataclass(frozen=True, kw_only=True)
class UOT(Training):
    r"""Alternate a potential v and the generator G, started at the original G0.

        L(v) = E_z[ phi1*( v(G(z)) - c(G0(z), G(z)) ) ] + E_y'[ phi2*( -v(y') ) ]
        L(G) = E_z[ c(G0(z), G(z)) - v(G(z)) ],    c(x, y) = tau/2 ||x - y||^2 / s^2 + share lam F(y)

    The method reads no real data: y' are samples of the model. For tau = 0, fixed source, pool "model" and
    no R1, v* = lam F - kappa with law(G) = q* is stationary. A transport cost tau > 0 keeps the outputs of
    retained latents near G0(z), at the price of a larger distance to q*. Semi-dual form: UOTM,
    arXiv 2305.14777; for unlearning: arXiv 2603.16489, of which this is our reading.

    For a conditional model, the tilted pool has the law q*(x | c) and the potential is v(x, c). With the pool
    "model", v sees x alone: the law of all conditions together is q*, and a forgotten one goes where it is
    near.

    Attributes:
        start: the model that G starts at and that the transport cost is measured from: the "original", or
            "latent_transport", the result of a ``LatentTransport`` with its defaults, trained first.
        pool: "model": y' from the original (the paper); "tilted": y' from q* by resampling (ours).
        source: "fixed" (phi1*(s) = s) or "relaxed" (phi1 = phi2, the paper's two-sided form).
        tau: >= 0, weight of the scale-free transport cost.
        share: >= 0, share of the target's strength lam in the cost; 1 for the pool "model". A tilted pool
            already has the law q*, and F in the cost tilts once more: a small share compensates for the
            transport cost, a larger one over-forgets.
        r1: >= 0, gradient penalty on v at y'.
        anneal_r1: whether the penalty falls linearly to 0 over the training.
        bank_size: latents (with their outputs G0(z)) that batches are drawn from.
        potential: input of the potential: "samples", or frozen "features" of the energy's classifier.
        network: of a potential of samples: "mlp", "convolutional" (``make_critic``) or "auto": convolutional
            for images, an MLP for points and short vectors, and where the potential sees a condition.
        width, depth: of an MLP; convolutions have a sixteenth of the width as channels of their first layer.
        frequencies: Fourier frequencies of an MLP; None: as many as an MLP inside G has, else 0.
        potential_rate: learning rate of the potential; None: the generator's.
        average: decay of the average of G that becomes the model.
    """

    steps: int = 700
    learning_rate: float = 4e-4
    start: Literal["original", "latent_transport"] = "original"
    pool: Literal["model", "tilted"] = "model"
    source: Literal["fixed", "relaxed"] = "fixed"
    tau: float = 3.0
    share: float = 1.0
    r1: float = 0.0
    anneal_r1: bool = False
    bank_size: int = 16384
    potential: Literal["samples", "features"] = "samples"
    network: Literal["auto", "mlp", "convolutional"] = "auto"
    width: int = 256
    depth: int = 2
    frequencies: int | None = None
    potential_rate: float | None = 1e-3
    average: float = 0.99

    needs: ClassVar[frozenset[str]] = frozenset({"target"})
    families: ClassVar[frozenset[str]] = frozenset({"flow_map", "generator"})
    citation: ClassVar[str] = "2603.16489"
    needs_gradient: ClassVar[bool] = True
    keeps_prepared: ClassVar[bool] = True

    @property
    def label(self) -> str:
        """UOT, and how this configuration differs from the paper's."""
        if self.start == "latent_transport":
            return "UOT (after latent transport)"
        return "UOT (tilted pool)" if self.pool == "tilted" else "UOT"

    @property
    def summary(self) -> str:
        """Where the pool comes from, and where the generator starts."""
        pool = "exact-target samples" if self.pool == "tilted" else "the model's own samples"
        start = ", started from latent transport" if self.start == "latent_transport" else ""
        return f"semi-dual unbalanced optimal transport, pool of {pool}{start}"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("tau", "r1", "share"):
            if not getattr(self, name) >= 0:
                raise InputError(f"got {name}={getattr(self, name)}; expected a number >= 0")
        if self.start not in ("original", "latent_transport"):
            raise InputError(f"got start={self.start!r}; expected 'original' or 'latent_transport'")
        if self.potential not in ("samples", "features"):
            raise InputError(f"got potential={self.potential!r}; expected 'samples' or 'features'")
        if self.network not in ("auto", "mlp", "convolutional"):
            raise InputError(f"got network={self.network!r}; expected 'auto', 'mlp' or 'convolutional'")
        require_batch(self.bank_size, self.batch_size, "samples (bank_size)")

    def check(self, problem: Problem) -> None:
        """Raise InputError for a problem that this or the earlier stage cannot take."""
        super().check(problem)
        if self.potential == "features":
            find_features(target_of(problem).energy)
            if self._sees_condition(problem):
                raise InputError(
                    "got potential=features for a conditional model, whose features know no condition; "
                    "expected potential=samples"
                )
        if self.network == "convolutional":
            self._check_convolutions(problem)

    def _check_convolutions(self, problem: Problem) -> None:
        """Raise InputError for samples without edges, and for a potential that sees a condition."""
        shape = model_of(problem).sample_shape
        if not is_image(shape) or self._sees_condition(problem):
            seen = "a conditional model" if is_image(shape) else f"samples of shape {list(shape)}"
            raise InputError(f"got network=convolutional for {seen}; expected images: write network=mlp")

    def uncompilable(self) -> str:
        """Return the name of the gradient penalty's derivative, if there is a penalty."""
        return "the second derivative of a gradient penalty (r1 > 0)" if self.r1 > 0 else ""

    def earlier(self, problem: Problem) -> LatentTransport | None:
        """Return the latent transport whose result the generator starts at, if it does."""
        return LatentTransport() if self.start == "latent_transport" else None

    def prepare(self, problem: Problem, generator: torch.Generator) -> Tensors:
        """Return latents z, their outputs by the model that G starts at, the pool y', and the scale s^2."""
        target = target_of(problem)
        bank = target.bank(self.bank_size, generator)
        pool = bank.x
        given: Tensors = {}
        if self._sees_condition(problem):
            found = target.replaced(bank, generator, target.multiplier(bank.energy), share=True)
            label = model_of(problem).require_conditional().conditions(bank.z)
            given = {"label": label, "chance": favour_changed(label, found.kept.float())}
            pool = found.x
        elif self.pool == "tilted":
            ratio = target.density_ratio(bank.energy)
            pool = draw_weighted(bank.x, ratio, self.bank_size, generator)
        scale = TransportCost.measure_scale(bank.x)
        origin = bank.x if problem.earlier is None else start_of(problem).push_batches(bank.z)
        return {"z": bank.z, "origin": origin, "pool": pool, "scale": scale, **given}

    def init(self, problem: Problem, prepared: Tensors, seed: int) -> Parts:
        """Return the potential, which starts at 0, and the generator, which starts at ``start``."""
        target, model = target_of(problem), start_of(problem)
        divergence = target.divergence
        potential = trainable_copy(self._potential(problem, seed))
        generator = trainable_copy(model)
        cost = TransportCost(target.energy, self.share * target.strength, self.tau, float(prepared["scale"]))
        phi1 = None if self.source == "fixed" else divergence
        return {
            "potential": Part(
                PotentialLoss(potential, phi1, divergence),
                potential,
                self.potential_rate or self.learning_rate,
                betas=(0.5, 0.9),
            ),
            "generator": Part(
                GeneratorLoss(generator, potential, cost),
                generator,
                self.learning_rate,
                betas=(0.5, 0.9),
                decay=self.average,
            ),
        }

    def _sees_condition(self, problem: Problem) -> bool:
        """Return whether the potential is v(x, c), which gives each condition its own law."""
        return self.pool == "tilted" and conditional_of(problem) is not None

    def _convolves(self, problem: Problem) -> bool:
        """Return whether the potential of samples is convolutional."""
        if self.network != "auto":
            return self.network == "convolutional"
        return is_image(model_of(problem).sample_shape) and not self._sees_condition(problem)

    def _potential(self, problem: Problem, seed: int) -> nn.Module:
        """Return the potential; its last layer starts at 0."""
        model = start_of(problem)
        if self.potential == "features":
            features = find_features(target_of(problem).energy)
            with torch.no_grad():
                x = model.push(model.prior(1, torch.Generator().manual_seed(seed)))
                num_features = features(x).flatten(1).shape[1]
            return FeaturePotential(features, num_features, self.width, self.depth, seed)
        if self._convolves(problem):
            return make_critic(model.sample_shape, seed, max(1, self.width // 16), silent=True)
        frequencies = self.frequencies
        if frequencies is None:
            inner = without_conditions(model)
            net = unwrap(inner.net) if isinstance(inner, FlowMap | Generator) else None
            frequencies = len(net.angles) if isinstance(net, MLP) else 0
        description: dict[str, Any] = {
            "net": "mlp",
            "shape": model.sample_shape,
            "width": self.width,
            "depth": self.depth,
        }
        if self._sees_condition(problem):
            description |= {"num_classes": model.require_conditional().num_classes}
        return new_net(description | {"num_times": 0, "outputs": 1, "frequencies": frequencies}, seed)

    def draw(self, prepared: Tensors, generator: torch.Generator) -> Tensors:
        """Draw latents with their original outputs, and independent rows of the pool."""
        rows, others = (self._draw_rows(prepared, name, generator) for name in ("z", "pool"))
        origin = prepared["origin"][rows]
        batch = {"z": prepared["z"][rows], "origin": origin, "pool": prepared["pool"][others]}
        if "label" not in prepared:
            return batch
        return batch | {"label": prepared["label"][rows], "pool_label": prepared["label"][others]}

    def _draw_rows(self, prepared: Tensors, name: str, generator: torch.Generator) -> Tensor:
        n = len(prepared[name])
        if "chance" not in prepared:
            return draw_rows(n, self.batch_size, generator)
        return draw_weighted(torch.arange(n), prepared["chance"], self.batch_size, generator)

    def step(self, parts: Parts, batch: Tensors, descend: Descend, progress: float) -> Tensors:
        """Take one step on the generator, then one on the potential at the same moved samples."""
        labels = [batch[name] for name in ("label", "pool_label") if name in batch]
        z, origin = batch["z"], batch["origin"]
        generator, moved, cost = descend.with_outputs("generator", z, origin, *labels[:1])
        r1 = self.r1 * (1 - progress) if self.anneal_r1 else self.r1
        potential = descend("potential", moved, cost, batch["pool"], r1, *labels)
        return {"generator": generator, "potential": potential}

    def result(self, problem: Problem, parts: Parts) -> nn.Module:
        """Return the averaged generator."""
        return parts["generator"].average


__all__ = ["UOT", "GeneratorLoss", "PotentialLoss", "TransportCost"]
