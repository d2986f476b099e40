"""Whether a model and an energy have the derivatives that a method follows, tried on a few samples."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from unflow.disk.diffusers.unet import LabelledUNet
from unflow.energies import ConditionEnergy, Energy
from unflow.ground.errors import InputError, convert_errors
from unflow.ground.streams import Stream, stream
from unflow.models import Conditional, Flow, FlowMap, GenerativeModel
from unflow.models.probe import draw_probe, probe_energy, probe_model, undisturbed
from unflow.nets import DiT
from unflow.nets.adapted import Adapted
from unflow.training.compute import ONE_CPU, Compute
from unflow.training.method import Method, Problem, Trained, Training, model_of, target_of, trainable_copy

ROWS = 2
"""Rows of the trial of a derivative."""
SCORED = 16
"""Samples whose energy is differentiated: with few, each may lie where the energy is flat."""


def probe_problem(problem: Problem) -> None:
    """Raise InputError if the model or the energy of a problem misbehaves on a few samples "
    "(``models.probe``)."""
    model = model_of(problem)
    if any(isinstance(part, torch.jit.ScriptModule) for part in model.modules()):
        raise InputError(
            "got TorchScript (torch.jit) in the model, whose copies cannot be trained; expected the network "
            "itself: name the Python function that builds it, and load its weights by @WEIGHTS"
        )
    probe_model(model)
    if problem.teacher is not None:
        probe_model(problem.teacher)
    if problem.target is not None and not isinstance(problem.target.energy, ConditionEnergy):
        probe_energy(problem.target.energy, draw_probe(model))


def probe_method(method: Method, problem: Problem, compute: Compute = ONE_CPU) -> None:
    """Raise InputError unless a method can train this model: its derivatives arrive, and no label is lost.

    The trial works on a copy and draws from its own random stream. ``method.check`` comes first.

    Raises:
        InputError: for a network that cannot be copied, a derivative that the method follows and that does
        not
            arrive or is 0 everywhere, and a network with
            labels whose own weights would be trained at one label without consent (``Problem.one_label``).
    """
    for loop in list_trainings(method, problem):
        if loop.trains_own_weights:
            require_all_labels(problem, type(method).__name__)
        for derivative in sorted(loop.derivatives):
            _PROBES[derivative](model_of(problem), type(method).__name__, compute)
    if method.needs_gradient and "target" in method.reads(problem):
        require_energy_gradient(target_of(problem).energy, model_of(problem), type(method).__name__)


def list_trainings(method: Method, problem: Problem) -> Iterator[Training]:
    """Yield the trainings of a method: an earlier stage first."""
    if isinstance(method, Trained):
        loop, within = method.training(problem, 0)
        earlier = loop.earlier(within)
        if earlier is not None:
            yield earlier
        yield loop


# Labels


def find_fixed_label(model: nn.Module) -> int | None:
    """Return the one class at which a network with labels is called.

    None for a network without labels, at random labels, or at the null label, which means no class.
    """
    if any(isinstance(part, Conditional) for part in model.modules()):
        return None
    labels = (_label_of(part) for part in model.modules())
    return next((label for label in labels if label is not None), None)


def _label_of(part: nn.Module) -> int | None:
    label = part.label if isinstance(part, Adapted | DiT | LabelledUNet) else None
    null = part.num_classes if isinstance(part, DiT) else getattr(part, "null_label", None)
    return label if isinstance(label, int) and label != null else None


def require_all_labels(problem: Problem, method: str) -> None:
    """Raise InputError for a network with labels whose weights would be trained at one label alone."""
    label = find_fixed_label(problem.model)
    if label is not None and not problem.one_label:
        raise InputError(
            f"got a network at its fixed label {label} for {method}, which trains the network's own weights: "
            "its other labels would change too, unseen; expected a method that leaves them alone "
            "(erfm_resample, latent_transport_chain), label=random:10 for all labels, or consent: write "
            "one_label=True (--one_label)"
        )


# Derivatives by weights, latents and times


def _probe_weights(model: GenerativeModel, method: str, compute: Compute) -> None:
    """Raise InputError unless a gradient arrives at the weights."""
    with convert_errors("the model cannot be copied", "a network that copy.deepcopy copies"):
        trained = trainable_copy(model)
    who = f"{method} trains weights by a gradient, and"
    weights = [weight for weight in trained.parameters() if weight.requires_grad]
    if not weights:
        raise InputError(
            f"{who} the model has no weights; expected one with parameters: choose another method"
        )
    with (
        convert_errors(f"{who} the network has none", _DIFFERENTIABLE),
        undisturbed(trained),
        torch.enable_grad(),
    ):
        y = _evaluate(trained, trained.prior(ROWS, _stream()))
        if not y.requires_grad:
            raise InputError(f"{who} none arrives; expected {_DIFFERENTIABLE}: {_CUTS}")
        found = torch.autograd.grad(_project(y), weights, allow_unused=True)
    if not any(gradient is not None and bool(gradient.any()) for gradient in found):
        raise InputError(f"{who} it is 0 everywhere; expected {_DIFFERENTIABLE}: {_CUTS}")
    if any(gradient is not None and not bool(torch.isfinite(gradient).all()) for gradient in found):
        raise InputError(f"{who} it is NaN or infinite; expected finite numbers: no square root or norm of 0")


def has_unused_weights(model: nn.Module) -> bool:
    """Return whether some weights of a generative model get no gradient from its output, on a few samples."""
    if not isinstance(model, GenerativeModel):
        return False
    trained = trainable_copy(model)
    weights = [weight for weight in trained.parameters() if weight.requires_grad]
    with undisturbed(trained), torch.enable_grad():
        y = _evaluate(trained, trained.prior(ROWS, _stream()))
        if not (weights and y.requires_grad):
            return False
        found = torch.autograd.grad(_project(y), weights, allow_unused=True)
    return any(gradient is None for gradient in found)


def _probe_latents(model: GenerativeModel, method: str, compute: Compute) -> None:
    """Raise InputError unless a gradient of the samples arrives at the latents."""
    who = f"{method} moves latents along a gradient, and"
    with (
        convert_errors(f"{who} the network has none", _DIFFERENTIABLE),
        undisturbed(model),
        torch.enable_grad(),
    ):
        z = model.prior(ROWS, _stream()).requires_grad_(True)
        y = model.push(z)
        found = torch.autograd.grad(_project(y), z, allow_unused=True)[0] if y.requires_grad else None
    if found is None or not bool(found.any()):
        raise InputError(f"{who} none arrives at them; expected {_DIFFERENTIABLE}: {_CUTS}")


def _probe_times(model: GenerativeModel, method: str, compute: Compute) -> None:
    """Raise InputError unless an average velocity has a forward-mode derivative."""
    if not isinstance(model, FlowMap):
        return
    with convert_errors("the model cannot be copied", "a network that copy.deepcopy copies"):
        net = trainable_copy(model.net)
    x = model.prior(ROWS, _stream())
    start, end = (x.new_tensor(times) for times in ([0.0, 0.3], [0.0, 0.8]))
    tangents = (torch.ones_like(x), torch.ones_like(start), torch.zeros_like(end))
    what = f"{method} takes the forward-mode derivative of the network (torch.func.jvp), which fails"
    mend = (
        "a network that has one: write torch.nn.attention.sdpa_kernel(SDPBackend.MATH) around fused "
        "attention and no custom autograd function, or choose uot_tilted or latent_transport"
    )
    with convert_errors(what, mend), undisturbed(net), torch.enable_grad():
        y, slope = torch.func.jvp(net, (x, start, end), tangents)[:2]
        torch.autograd.grad(_project(y), [w for w in net.parameters() if w.requires_grad], allow_unused=True)
    if not bool(torch.isfinite(slope).all() and torch.isfinite(y).all()):
        raise InputError(
            f"{what} to be finite; expected finite numbers at start = end = 0 too: divide by no span"
        )


_DIFFERENTIABLE = "a network with a gradient"
_CUTS = (
    "write no torch.no_grad(), detach(), round() or NumPy in forward, or choose a method "
    "that trains no weights"
)
_PROBES = {"weights": _probe_weights, "latents": _probe_latents, "times": _probe_times}


def _evaluate(model: GenerativeModel, z: Tensor) -> Tensor:
    """Return the output of the network that is trained: one call, not a whole trajectory."""
    y: Tensor
    if isinstance(model, Flow):
        y = model.net(z, z.new_tensor([0.3, 0.7]))
    elif isinstance(model, FlowMap):
        y = model.net(z, z.new_tensor([0.0, 0.3]), z.new_tensor([1.0, 0.8]))
    else:
        y = model.push(z)
    return y


def _project(y: Tensor) -> Tensor:
    """Return the sum of the outputs in a random direction; the sum of all is constant for some networks."""
    return (y * torch.randn(y.shape, generator=_stream()).to(y)).sum()


def _stream() -> torch.Generator:
    return stream(0, Stream.PROBE)


# The energy


def require_energy_gradient(energy: Energy, model: GenerativeModel, method: str) -> None:
    """Raise InputError unless the gradient of an energy arrives at samples, and is finite and not 0 "
    "everywhere."""
    x = draw_probe(model, SCORED).requires_grad_(True)
    who, expected = f"{method} follows the gradient of the energy, and", "an energy with a gradient"
    mend = (
        "write no torch.no_grad(), detach(), round() or NumPy in the guide's forward, or choose a method "
        "that takes any energy (latent_transport, erfm_resample)"
    )
    with convert_errors(f"{who} it has none", expected), undisturbed(energy), torch.enable_grad():
        F = energy(x)
        found = torch.autograd.grad(F.sum(), x, allow_unused=True)[0] if F.requires_grad else None
    if found is None:
        raise InputError(f"{who} none arrives at the samples; expected {expected}: {mend}")
    if not bool(torch.isfinite(found).all()):
        raise InputError(f"{who} it is NaN or infinite; expected finite numbers: no square root or norm of 0")
    if not bool(found.any()) and bool((F[0] != F).any()):
        raise InputError(f"{who} it is 0 at all of {SCORED} samples; expected {expected}: {mend}")


__all__ = [
    "find_fixed_label",
    "has_unused_weights",
    "probe_method",
    "probe_problem",
    "require_all_labels",
    "require_energy_gradient",
]
