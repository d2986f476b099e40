"""Energy guidance (ours, on ContinualFlow's target): the guided velocity, learned by the flow itself."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from unflow.energies import evaluate
from unflow.ground.errors import InputError
from unflow.mathematics.integrators import INTEGRATORS
from unflow.mathematics.paths import Path, expand, new_path
from unflow.methods.acceptance import Acceptance
from unflow.methods.conditional_pairs import draw_given, favour_changed, mean_within
from unflow.methods.erfm import ERFM
from unflow.methods.independent_noise import is_independent
from unflow.models import Conditional, Flow, without_conditions
from unflow.models.conditional import NULL
from unflow.nets import AdaptedVelocity
from unflow.target import NO_ORIGIN, Bank, Retained, Target
from unflow.training.losses import velocity_error
from unflow.training.method import (
    Descend,
    Part,
    Parts,
    Problem,
    Tensors,
    Training,
    check_share,
    draw_rows,
    drop_labels,
    model_of,
    require_batch,
    target_of,
    trainable_copy,
)
from unflow.training.originals.flow_matching import conditional_of, flow_of, null_of, with_velocity
from unflow.training.rates import scale_rate

STATES = 2
"""States of each row of a batch at which the acceptance learns: its network is cheap beside the flow's."""
ACCEPTANCE_RATE = 3e-3
"""Learning rate of the acceptance, whose network is always of the same kind."""
RATE = 0.03
"""The learning rate of the velocity relative to the size of its weights."""
PROBES, PROBED = 768, 256
"""Samples of the guided flow that measure the scale of the guidance, half of them of latents whose sample was
rejected, and how many are drawn at once."""
LEAST_REJECTED = 1e-4
"""Share of q* whose acceptance is missing, under which there is nothing to measure."""
MAX_SCALE = 4.0
"""The largest scale."""
FAVOURED = 0.1
"""Share of the draws that favour conditions that change, where these learn a mixture; with more, the other
labels suffer."""
FEW_ENTRIES = 16
"""Entries of a sample under which ERFM is nearer to the target: measured in 2 (ERFM) and in 24 (guidance)."""
OT_BLOCK = 128
"""Rows of a transport plan of ERFM."""
PILOT, MAX_GROWTH = 1024, 4
"""Samples that measure the share that is rejected, and the largest bank where that is under an eighth, in
multiples of ``bank_size``."""


class AcceptanceLoss(nn.Module):
    """E[ cross-entropy(w(x1), h(x_t, t; c)) ], least where h = E[w(x1) | x_t, c].

    Args:
        net: h.
        path: between noise and data.
    """

    def __init__(self, net: Acceptance, path: Path) -> None:
        super().__init__()
        self.net, self.path = net, path

    def forward(self, x1: Tensor, x0: Tensor, t: Tensor, w: Tensor, label: Tensor) -> Tensor:
        """Return the loss of samples x1 [batch, *shape], w [batch], label [batch], at several states of each.

        Noise x0 [batch, k, *shape] and times t [batch, k].
        """
        k = t.shape[1]
        w, label, x1 = (each.repeat_interleave(k, 0) for each in (w, label, x1))
        t = t.flatten()
        logit = self.net(self.path.sample(x0.flatten(0, 1), x1, t).x_t, t, label)
        return nnf.binary_cross_entropy_with_logits(logit, w.to(logit))


class Probes(NamedTuple):
    """What measures the scale of the guidance.

    Attributes:
        target: gives w.
        flow: gives the integrator.
        z: noise [n, *shape].
        label: conditions [n].
        weight: of each in the mean [n], which sum to 1.
        kappa: the multiplier of w.
        accepted: E_{q*}[w], the mean acceptance that the guided samples should have.
    """

    target: Target
    flow: Flow
    z: Tensor
    label: Tensor
    weight: Tensor
    kappa: float
    accepted: float


class GuidedLoss(nn.Module):
    r"""Regression on the guided velocity of the condition o from which x1 was drawn.

        E ||v(x_t, t; c) - v0(x_t, t; o) - s g(t) grad log h(x_t, t; o)||^2 / dim

    Rows of c whose x1 was drawn from o make v(.; c) the velocity of a mixture of the guided conditions o.
    Rows without an origin are regressed on dx_t.

    Args:
        net: v, trained.
        original: v0, read and not trained, so not registered here.
        acceptance: h, read as well.
        path: between noise and data.
        probes: measure the scale s at the first call after the training of h.
    """

    def __init__(
        self, net: nn.Module, original: nn.Module, acceptance: Part, path: Path, probes: Probes
    ) -> None:
        super().__init__()
        self.net, self.path = net, path
        self._read = (original, acceptance, probes)

    def forward(
        self, x1: Tensor, x0: Tensor, t: Tensor, label: Tensor, origin: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the loss, and the scale [batch].

        x1, x0 [batch, *shape], t [batch], condition label [batch] and origin [batch], ``NO_ORIGIN`` for none.
        """
        acceptance = self._acceptance
        if acceptance.scale == 0:
            self._measure_scale()
        x_t, goal = self.path.sample(x0, x1, t)
        known = expand(origin != NO_ORIGIN, goal)
        goal = torch.where(known, self._guided(x_t, t, origin.clamp(min=0), acceptance.scale), goal)
        loss = velocity_error(self._at(self.net, label), x_t, t, goal).mean()
        return loss, acceptance.scale.expand(len(x1))

    @property
    def _acceptance(self) -> Acceptance:
        average = self._read[1].average
        assert isinstance(average, Acceptance)
        return average

    def _at(self, net: nn.Module, label: Tensor) -> nn.Module:
        conditional = self._acceptance.num_conditions > 0
        return net.unguided(label) if conditional and isinstance(net, AdaptedVelocity) else net

    @torch.no_grad()
    def _guided(self, x: Tensor, t: Tensor, label: Tensor, scale: Tensor | float) -> Tensor:
        v: Tensor = self._at(self._read[0], label)(x, t)
        return v + scale * self._acceptance.guide(x, t, self.path, label)

    @torch.no_grad()
    def _measure_scale(self) -> None:
        """Set the scale at which samples of the guided flow are accepted as often as those of q*."""
        probes, found = self._read[2], 1.0
        if probes.accepted < 1 - LEAST_REJECTED:
            found = find_scale(partial(self._measure_accepted, probes), probes.accepted)
        for net in self._read[1].networks.values():
            assert isinstance(net, Acceptance)
            net.scale.fill_(found)

    def _measure_accepted(self, probes: Probes, scale: float) -> float:
        solve = INTEGRATORS[probes.flow.integrator]().solve
        device, energies = self._acceptance.scale.device, []
        for rows in torch.split(torch.arange(len(probes.z)), PROBED):
            velocity = partial(self._guided, label=probes.label[rows].to(device), scale=scale)
            x = solve(velocity, probes.z[rows].to(device), probes.flow.steps)
            energies.append(evaluate(probes.target.energy, x, varies=False))
        w = probes.target.acceptance(torch.cat(energies), probes.kappa)
        return float(w.double() @ probes.weight.to(w.device))


def measure_with(w: Tensor, z: Tensor, label: Tensor, kappa: float) -> Tensors:
    """Return the prepared tensors of ``Probes``: of samples of the original with acceptance w [m].

    Args:
        w: acceptance, whose mean over the accepted samples the guided ones should have.
        z: their noise [m, *shape].
        label: their conditions [m].
        kappa: the multiplier of w.
    """
    rows, weight = stratify(w, PROBES)
    accepted = w.double().square().sum() / w.double().sum().clamp(min=1e-12)
    return {
        "probe": z[rows],
        "probe_label": label[rows],
        "probe_weight": weight,
        "measured": torch.stack([torch.tensor(kappa).double(), accepted.cpu()]),
    }


def stratify(w: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Return n rows of a bank [n], half of them rejected (w < 1/2), and their weights [n] in a mean over it.

    Where rejected samples are rare, the guided flow differs from the original at their latents alone; a mean
    over strata has their share without error.

    Args:
        w: acceptance of the bank's samples [m].
        n: rows; all where these are fewer.
    """
    strata = [(w < 0.5).nonzero()[:, 0], (w >= 0.5).nonzero()[:, 0]]
    fewer = min(n // 2, *map(len, strata))
    taken = [rows[: n - fewer if len(rows) > fewer else fewer] for rows in strata]
    total = sum(map(len, strata))
    weights = [
        torch.full((len(rows),), len(stratum) / total / max(len(rows), 1), dtype=torch.double)
        for rows, stratum in zip(taken, strata, strict=True)
    ]
    return torch.cat(taken), torch.cat(weights)


def find_scale(accepted: Callable[[float], float], wanted: float) -> float:
    """Return the scale s in [1, MAX_SCALE] at which the mean acceptance a(s) is ``wanted``.

    log(1 - a) is about linear in s: a secant through s = 1 and 2, then one through 1 and the scale found.

    Args:
        accepted: a, called three times at most.
        wanted: the mean acceptance of the target's samples.
    """

    def excess(scale: float) -> float:
        return math.log(max(1 - accepted(scale), 1e-6)) - math.log(max(1 - wanted, 1e-6))

    at_one, scale = excess(1.0), 2.0
    for _ in range(2):
        at_scale = excess(scale)
        if at_one <= 0 or at_scale >= at_one:
            return 1.0
        scale = min(1 + (scale - 1) * at_one / (at_one - at_scale), MAX_SCALE)
    return scale


@dataclass(frozen=True, kw_only=True)
class EnergyGuidance(Training):
    r"""Learn the velocity of q*, the original's guided by the acceptance of the request, in its own weights.

        v*(x, t) = v0(x, t) + g(t) grad log h(x, t)
        h(x, t) = E[w(x1) | x_t = x],    w = (q*/q0) / sup(q*/q0),    g = (1 - t)/t on the linear path

    This is exact for a flow trained on independent noise: q*_t = q0_t h / Z, and the score of x_t moves by
    grad log h (the energy guidance of arXiv 2304.12824, Theorem 3.1, for flows). A small network learns h by
    cross-entropy; then the flow regresses on v0 + s g grad log h, a target without noise. A learned h is
    smoother than h, so the scale s >= 1 is measured: with it, samples of the guided flow are accepted as
    often as those of q*.

    A conditional flow learns for each condition the mixture of guided conditions from which q*(. | c) is
    drawn: its own, and those of the replacement. Where that is the retained mixture and the flow has a null
    condition, a forgotten condition learns the guided velocity of the null condition, which has the same law
    and no noise in its target; so guidance has nothing to amplify. The method reads no real data and no
    gradient of the energy, and the result contains neither the original nor h.

    The training is that of ``ERFM`` (resampled, optimal-transport pairs) where the guidance does not hold or
    is not the better one: in the flow's own weights if the flow was not trained on independent noise
    (``is_independent``) or has fewer than ``FEW_ENTRIES`` entries, like points in the plane, and in an
    appended flow if the flow has others after it (``Chain``).

    Attributes:
        steps: of both networks together.
        batch_size: samples per step; h learns at ``STATES`` times as many states.
        learning_rate: of the flow; None: ``scale_rate``, 3 % of its weights.
        acceptance_share: share of the steps that train h, in (0, 1); None: 5/6, and 1/2 for a conditional
            flow, whose forgotten conditions learn a mixture.
        bank_size: samples of the original, drawn and scored once; up to 4 times as many where under an eighth
            is rejected.
        path: a name in ``paths.PATHS``, that of the flow's training.
        null_share: of a conditional model with a null condition: share of samples trained without their
            condition, in [0, 1); large, because forgotten conditions learn the null condition.
        average: decay of the weight averages of both networks.
    """

    steps: int = 2400
    batch_size: int = 64
    learning_rate: float | None = None
    acceptance_share: float | None = None
    bank_size: int = 4096
    path: str = "linear"
    null_share: float = 0.5
    average: float = 0.98

    label: ClassVar[str] = "energy guidance"
    summary: ClassVar[str] = (
        "the velocity guided by the acceptance of the request, learned by the flow itself"
    )
    needs: ClassVar[frozenset[str]] = frozenset({"target"})
    families: ClassVar[frozenset[str]] = frozenset({"flow"})
    citation: ClassVar[str] = "2304.12824"
    keeps_prepared: ClassVar[bool] = True
    scales_rate: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        new_path(self.path)
        check_share(self.null_share, "null_share")
        if self.acceptance_share is not None and not 0 < self.acceptance_share < 1:
            raise InputError(
                f"got acceptance_share={self.acceptance_share}; expected a number between 0 and 1"
            )
        require_batch(self.bank_size, self.batch_size, "samples (bank_size)")

    def training(self, problem: Problem, seed: int) -> tuple[Training, Problem]:
        """Return itself for a flow of many entries on independent noise, and ``ERFM`` for other flows."""
        model = model_of(problem)
        if not isinstance(without_conditions(model), Flow):
            return self._flow_matching(place="chain", thin=True), problem
        if math.prod(model.sample_shape) < FEW_ENTRIES or not is_independent(model, new_path(self.path)):
            return self._flow_matching(place="prior"), problem
        share = self.acceptance_share or (1 / 2 if isinstance(model, Conditional) else 5 / 6)
        return dataclasses.replace(self, acceptance_share=share), problem

    def _flow_matching(self, **how: Any) -> ERFM:
        return ERFM(
            weighting="resample",
            coupling="exact_ot",
            steps=self.steps,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            block_size=min(OT_BLOCK, self.batch_size),
            bank_size=MAX_GROWTH * self.bank_size,
            path=self.path,
            null_share=self.null_share,
            **how,
        )

    def uncompilable(self) -> str:
        """Return the name of the derivative of h."""
        return "the derivative of the acceptance"

    @property
    def acceptance_steps(self) -> int:
        """Steps that train h, at least 1 and less than all where there are two."""
        return max(1, min(round((self.acceptance_share or 1 / 2) * self.steps), self.steps - 1))

    def schedule(self, step: int) -> float:
        """Return the relative learning rate at ``step``: a warm-up and a cosine for each network."""
        first = self.acceptance_steps
        step, n = (step, first) if step < first else (step - first, self.steps - first)
        warmup = max(1, n // 10)
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, n - warmup)))

    def prepare(self, problem: Problem, generator: torch.Generator) -> Tensors:
        """Return the bank with weights, the probes, and, of a conditional model, samples of q* as "x1"."""
        target, conditional = target_of(problem), conditional_of(problem)
        if conditional is not None:
            target = dataclasses.replace(target, model=conditional.with_guidance(1.0))
        bank = draw_bank(target, self.bank_size, generator)
        kappa = target.multiplier(bank.energy)
        w = target.acceptance(bank.energy, kappa)
        found = {"bank": bank.x, "w": w}
        if conditional is None:
            none = torch.zeros(len(w), dtype=torch.long)
            return found | {"label": none, "origin": none} | measure_with(w, bank.z, none, kappa)
        return found | prepare_conditions(target, conditional, bank, w, kappa, generator)

    def init(self, problem: Problem, prepared: Tensors, seed: int) -> Parts:
        """Return the acceptance, and the velocity, from the original's weights."""
        flow, conditional, path = flow_of(problem), conditional_of(problem), new_path(self.path)
        conditions = 0 if conditional is None else conditional.num_classes
        h = Acceptance(flow.sample_shape, conditions, seed)
        acceptance = Part(AcceptanceLoss(h, path), h, ACCEPTANCE_RATE, decay=self.average)
        z, label, weight = (prepared[name] for name in ("probe", "probe_label", "probe_weight"))
        probes = Probes(target_of(problem), flow, z, label, weight, *prepared["measured"].tolist())
        net = trainable_copy(flow.net)
        loss = GuidedLoss(net, flow.net, acceptance, path, probes)
        rate = self.learning_rate or scale_rate(net, RATE)
        return {"acceptance": acceptance, "velocity": Part(loss, net, rate, decay=self.average)}

    def draw(self, prepared: Tensors, generator: torch.Generator) -> Tensors:
        """Draw samples of the bank with several states each, and samples of q* with one."""
        n, rows = self.batch_size, draw_rows(len(prepared["bank"]), self.batch_size, generator)
        bank, bank_label = prepared["bank"][rows], prepared["label"][rows]
        if "chance" in prepared:
            rows1, label, dropped = draw_given(prepared, n, self.null_share, generator)
        else:
            rows1 = draw_rows(len(prepared["label"]), n, generator)
            label, dropped = prepared["label"][rows1], torch.zeros(n, dtype=torch.bool)
        origin = prepared["origin"][rows1]
        if "tied" in prepared:
            origin = torch.where(dropped.to(origin.device), prepared["tied"], origin)
        if "null" in prepared:
            bank_label = drop_labels(bank_label, prepared["null"], self.null_share, generator)
        x1 = prepared["x1" if "x1" in prepared else "bank"][rows1]
        return {
            "bank": bank,
            "bank_noise": torch.randn(n, STATES, *bank.shape[1:], generator=generator).to(bank),
            "bank_t": torch.rand(n, STATES, generator=generator),
            "w": prepared["w"][rows],
            "bank_label": bank_label,
            "x1": x1,
            "x0": torch.randn(x1.shape, generator=generator).to(x1),
            "t": torch.rand(n, generator=generator),
            "label": label,
            "origin": origin,
        }

    def step(self, parts: Parts, batch: Tensors, descend: Descend, progress: float) -> Tensors:
        """Take one step on the acceptance, or, once it is trained, on the velocity."""
        if progress * self.steps < self.acceptance_steps - 0.5:
            names = ("bank", "bank_noise", "bank_t", "w", "bank_label")
            return {"acceptance": descend("acceptance", *(batch[name] for name in names))}
        names = ("x1", "x0", "t", "label", "origin")
        loss, scale = descend.with_outputs("velocity", *(batch[name] for name in names))
        return {"velocity": loss, "scale": scale.mean()}

    def result(self, problem: Problem, parts: Parts) -> nn.Module:
        """Return the flow with the averaged velocity."""
        return with_velocity(problem, parts["velocity"].average)


def prepare_conditions(
    target: Target, model: Conditional, bank: Bank, w: Tensor, kappa: float, generator: torch.Generator
) -> Tensors:
    """Return samples of q*(. | c) as "x1" with their conditions and origins, and the probes.

    With the retained mixture and a null condition ("tied"), samples of other conditions have the null one as
    their origin, and the probes are asked for it.
    """
    kept = target.replaced(bank, generator, kappa, share=True)
    label, z, origin = model.conditions(bank.z), model.noise(bank.z), kept.origin
    found = {"x1": kept.x, "label": label, **null_of(model)}
    if not isinstance(target.replacement, Retained) or "null" not in found:
        used = mean_within(label, w) >= 0.5
        found |= {"origin": origin, "chance": favour_changed(label, w, FAVOURED)}
        return found | measure_with(w[used], z[used], label[used], kappa)
    null = found["null"].to(label.device)
    found |= {"origin": torch.where(origin == label, origin, null), "chance": favour_changed(label, w)}
    asked = model.ask(model.prior(2 * PROBES, generator), NULL)
    accepted = target.acceptance(target.score(asked, varies=False).energy, kappa)
    return found | {"tied": null} | measure_with(accepted, model.noise(asked), null.expand(len(asked)), kappa)


def draw_bank(target: Target, bank_size: int, generator: torch.Generator) -> Bank:
    """Return bank_size samples with energies, or up to ``MAX_GROWTH`` times as many of a rare request."""
    pilot = target.bank(min(PILOT, bank_size), generator)
    rejected = float((1 - target.density_ratio(pilot.energy)).clamp(min=0).mean())
    growth = min(max(1.0, 1 / max(8 * rejected, 1e-6)), MAX_GROWTH)
    more = int(growth * bank_size) - len(pilot.x)
    if more > 0:
        rest = target.bank(more, generator)
        pilot = Bank(*(torch.cat(columns) for columns in zip(pilot, rest, strict=True)))
    target.effective_sample_size(pilot.energy)
    return pilot
