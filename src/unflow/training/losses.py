"""Training losses as modules: one forward call computes the loss of the network inside."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unflow.mathematics.paths import LinearPath, Path, expand
from unflow.models import GenerativeModel
from unflow.nets import AdaptedAverageVelocity, AdaptedVelocity


def squared_error(prediction: Tensor, target: Tensor) -> Tensor:
    """Return ||prediction - target||^2 / dim per sample, [batch]."""
    return (prediction - target).square().flatten(1).mean(1)


def weigh_times(net: nn.Module, t: Tensor) -> Tensor:
    """Return the weight of the error of a velocity at times t: (1 - t)^2 for a network that predicts data.

    That is the error of its prediction. Its velocity is (prediction - x_t) / (1 - t), so that equal weights
    would train it near t = 1 alone, and destroy it. A weight of the time leaves the optimum as it is.
    """
    predicts_data = isinstance(net, AdaptedVelocity) and net.predicts == "data"
    return (1 - t).square() if predicts_data else torch.ones_like(t)


def velocity_error(net: nn.Module, x: Tensor, t: Tensor, goal: Tensor) -> Tensor:
    """Return ||net(x, t) - goal||^2 / dim per sample, [batch], weighted by ``weigh_times``."""
    return weigh_times(net, t) * squared_error(net(x, t), goal)


class VelocityLoss(nn.Module):
    """Flow matching: E[ w ||net(x_t, t) - dx_t||^2 ] / dim (arXiv 2302.00482, Eq. 2).

    The errors of a network that predicts data are weighted (``weigh_times``).

    Args:
        net: velocity, (x [batch, *shape], t [batch]) -> [batch, *shape].
        path: between source and data.
    """

    def __init__(self, net: nn.Module, path: Path | None = None) -> None:
        super().__init__()
        self.net, self.path = net, path or LinearPath()

    def forward(self, x0: Tensor, x1: Tensor, t: Tensor, weight: Tensor | None = None) -> Tensor:
        """Return the loss of pairs (x0, x1) at times t, each weighted by weight [batch]."""
        x_t, dx_t = self.path.sample(x0, x1, t)
        error = velocity_error(self.net, x_t, t, dx_t)
        return (error if weight is None else weight * error).mean()


class ControlledVelocityLoss(nn.Module):
    r"""Energy-reweighted flow matching with the original's velocity v0 as a control variate.

        E[ w ||net - v0||^2 + 2 (w - 1) (v0 - dx_t) . (net - v0) ] / dim,    at (x_t, t)

    It differs from E[w ||net - dx_t||^2] / dim by a constant and by 2 E[(v0 - dx_t) . (net - v0)] / dim, and
    the latter is 0 where v0 = E[dx_t | x_t]: a flow trained on independent pairs. Only samples that lose
    weight have a noisy term, and the loss is 0 at v0.

    Args:
        net: velocity, (x [batch, *shape], t [batch]) -> [batch, *shape].
        original: v0, read and not trained, so not registered here.
        path: between source and data.
    """

    def __init__(self, net: nn.Module, original: nn.Module, path: Path | None = None) -> None:
        super().__init__()
        self.net, self.path, self._read = net, path or LinearPath(), (original,)

    def forward(self, x0: Tensor, x1: Tensor, t: Tensor, weight: Tensor) -> Tensor:
        """Return the loss of pairs (x0, x1) at times t with weights in [0, 1], [batch]."""
        (original,) = self._read
        x_t, dx_t = self.path.sample(x0, x1, t)
        with torch.no_grad():
            v0 = original(x_t, t)
        change = self.net(x_t, t) - v0
        w = expand(weight, change)
        loss = w * change.square() + 2 * (w - 1) * (v0 - dx_t) * change
        mean: Tensor = (weigh_times(self.net, t) * loss.flatten(1).mean(1)).mean()
        return mean


class ConditionalVelocityLoss(nn.Module):
    r"""Flow matching at given conditions, at guidance 1, anchored to the velocity of an original v0.

        E[ w ||net(x_t, t; c) - (dx_t + anchor (v0(x_t, t; c) - dx_t))||^2 ] / dim

    Where the law of a condition stays, E[dx_t | x_t] = v0(x_t, t; c): the anchor then leaves the optimum as
    it is, and takes the noise from its target.

    Args:
        net: velocity that takes a label.
        path: between source and data.
        original: v0, read and not trained, so not registered here; None: no anchor.
    """

    def __init__(
        self, net: AdaptedVelocity, path: Path | None = None, original: AdaptedVelocity | None = None
    ) -> None:
        super().__init__()
        self.net, self.path, self._read = net, path or LinearPath(), (original,)

    def forward(
        self,
        x0: Tensor,
        x1: Tensor,
        t: Tensor,
        label: Tensor,
        anchor: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        """Return the loss of pairs (x0, x1) of conditions label [batch], at times t.

        ``anchor`` [batch] is in [0, 1], ``weight`` [batch] >= 0; None: 0 and 1.
        """
        x_t, dx_t = self.path.sample(x0, x1, t)
        (original,) = self._read
        if anchor is not None and original is not None:
            with torch.no_grad():
                v0 = original.unguided(label)(x_t, t)
            dx_t = torch.lerp(dx_t, v0, expand(anchor, v0))
        error = velocity_error(self.net.unguided(label), x_t, t, dx_t)
        return (error if weight is None else weight * error).mean()


class OutputLoss(nn.Module):
    """Regression on outputs: E[ w ||G(z) - y||^2 ] / dim.

    Args:
        model: G, a one-step model.
    """

    def __init__(self, model: GenerativeModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, z: Tensor, y: Tensor, weight: Tensor | None = None) -> Tensor:
        """Return the loss of latents z with outputs y, each weighted by weight [batch]."""
        error = squared_error(self.model.push(z), y)
        return (error if weight is None else weight * error).mean()


def mean_flow_target(
    net: nn.Module, x_s: Tensor, v: Tensor, start: Tensor, end: Tensor
) -> tuple[Tensor, Tensor]:
    """Return U(x_s; s, e) and its MeanFlow target v + (e - s) (v . grad_x U + d_s U), detached.

    One forward-mode derivative along (v, 1, 0) gives the bracket (arXiv 2505.13447, Eq. 10, with the
    source at t=0 here, hence the other sign). Shapes: x_s, v [batch, *shape]; start, end [batch].
    """
    tangents = (v, torch.ones_like(start), torch.zeros_like(end))
    U, dU = torch.func.jvp(net, (x_s, start, end), tangents)[:2]
    return U, (v + expand(end - start, x_s) * dU).detach()


class MeanFlowLoss(nn.Module):
    """MeanFlow: E[ ||U - target||^2 / (||U - target||^2 + c)^p ], the divisor detached.

    Args:
        net: average velocity, (x, s, e) -> [batch, *shape].
        power: p in [0, 1]; 0 is the plain squared error (arXiv 2505.13447, Section 4.3).
    """

    def __init__(self, net: nn.Module, power: float = 1.0) -> None:
        super().__init__()
        self.net, self.power, self.path = net, power, LinearPath()

    def forward(self, x0: Tensor, x1: Tensor, start: Tensor, end: Tensor) -> Tensor:
        """Return the loss of pairs (x0, x1) for time intervals [start, end]."""
        x_s, v = self.path.sample(x0, x1, start)
        U, target = mean_flow_target(self.net, x_s, v, start, end)
        return weigh_adaptively(squared_error(U, target), self.power)


class ConditionalMeanFlowLoss(nn.Module):
    r"""MeanFlow at given conditions, of the average velocity U of a flow at guidance g.

        E[ ||U - target||^2 / (||U - target||^2 + c)^p ],    target = v_g + (e - s) dU/ds
        v_g = g v + (1 - g) U(x_s; s, s, null)                    arXiv 2505.13447, Section 4.2

    U(x_s; s, s, null) is the velocity of the null condition. At the null condition itself v_g = v. The
    optimum needs one evaluation for a sample at guidance g.

    Args:
        net: U, an average velocity that takes a label.
        null: label of the null condition, for g other than 1.
        guidance: g, finite.
        power: p in [0, 1].
    """

    def __init__(
        self, net: AdaptedAverageVelocity, null: int | None = None, guidance: float = 1.0, power: float = 1.0
    ) -> None:
        super().__init__()
        self.net, self.null, self.guidance, self.power = net, null, guidance, power
        self.path = LinearPath()

    def forward(self, x0: Tensor, x1: Tensor, label: Tensor, start: Tensor, end: Tensor) -> Tensor:
        """Return the loss of pairs (x0, x1) of conditions label [batch] for time intervals [start, end]."""
        x_s, v = self.path.sample(x0, x1, start)
        v_g = self.guide(x_s, v, label, start)
        U, target = mean_flow_target(self.net.with_labels(label), x_s, v_g, start, end)
        return weigh_adaptively(squared_error(U, target), self.power)

    @torch.no_grad()
    def guide(self, x: Tensor, v: Tensor, label: Tensor, t: Tensor) -> Tensor:
        """Return v_g [batch, *shape] for velocities v of conditions label [batch] at (x, t)."""
        if self.null is None or self.guidance == 1:
            return v
        v_null = self.net.with_labels(torch.full_like(label, self.null))(x, t, t)
        v_g = torch.lerp(v_null, v, self.guidance)
        return torch.where(expand(label == self.null, v), v, v_g)


def weigh_adaptively(error: Tensor, power: float) -> Tensor:
    """Return the mean of error / (error + c)^power, the divisor detached, for errors [batch]."""
    return (error / (error.detach() + 1e-3) ** power).mean()


class JumpLoss(nn.Module):
    """Distillation: E ||net(x_s; s, e) - (x_e - x_s)/(e - s)||^2 / dim on a teacher's trajectories."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(
        self, x_s: Tensor, x_e: Tensor, start: Tensor, end: Tensor, label: Tensor | None = None
    ) -> Tensor:
        """Return the loss of pairs of points of the same trajectory, each of a condition label [batch]."""
        net = self.net
        if label is not None:
            assert isinstance(net, AdaptedAverageVelocity)
            net = net.with_labels(label)
        slope = (x_e - x_s) / expand(end - start, x_s)
        return squared_error(net(x_s, start, end), slope).mean()
