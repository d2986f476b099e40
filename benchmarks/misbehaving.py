"""Networks that misbehave in the ways that users have reported, each with the sentence that refuses it.

    python benchmarks/misbehaving.py            # runs all of them and prints a table

``network(name)`` returns one by name, so that a specification string can name it in every command:

    cd benchmarks && unflow unlearn --model generator:misbehaving:network,name=rounds,prior=normal:2 \\
        --energy classifier:misbehaving:network,name=guide --forget 1 --method uot_tilted --out /dev/shm/out

A test runs all of them. Each is refused before anything is trained, with exit code 2 and one sentence that
names the behaviour and the remedy; or its expectation is "handled": it trains, and the result is right.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

HANDLED = "handled"


def seeded(build: Callable[[], nn.Module]) -> nn.Module:
    """Return a network with weights of a fixed seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build()


class Base(nn.Module):
    """z -> x in the plane, or x -> two logits: two layers with a bend between them."""

    def __init__(self, inputs: int = 2, outputs: int = 2) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(inputs, 16), nn.Linear(16, outputs)

    def hidden(self, x: Tensor) -> Tensor:
        """Return the features."""
        return torch.tanh(self.first(x.flatten(1)))

    def forward(self, x: Tensor) -> Any:
        """Return the outputs."""
        return self.last(self.hidden(x))


class InPlace(Base):
    """Changes its input."""

    def forward(self, x: Tensor) -> Any:
        """Subtract 1 in place."""
        x.sub_(1)
        return super().forward(x)


class InPlaceActivation(Base):
    """Begins with an activation in place."""

    def forward(self, x: Tensor) -> Any:
        """Clamp in place."""
        return super().forward(nnf.leaky_relu(x, 0.1, inplace=True))


class FunctionalDropout(Base):
    """Drops features in evaluation as well."""

    def forward(self, x: Tensor) -> Any:
        """Drop half of the features."""
        return self.last(nnf.dropout(self.hidden(x), 0.5))


class AddsNoise(Base):
    """Adds noise from torch's global generator, as StyleGAN's layers do."""

    def forward(self, x: Tensor) -> Any:
        """Add noise."""
        return self.last(self.hidden(x) + 0.3 * torch.randn(len(x), 16))


class SeedsNoise(Base):
    """Adds the same noise in every call, another for each place in the batch."""

    def forward(self, x: Tensor) -> Any:
        """Seed the global generator and add noise."""
        torch.manual_seed(0)
        return self.last(self.hidden(x) + 0.3 * torch.randn(len(x), 16))


class CountsCalls(Base):
    """Remembers its calls in a Python number."""

    calls = 0

    def forward(self, x: Tensor) -> Any:
        """Shift by the number of calls."""
        self.calls += 1
        return super().forward(x) + 0.1 * self.calls


class CountsInABuffer(Base):
    """Counts its calls in a buffer, which does not change its output yet."""

    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Any:
        """Count."""
        self.seen += 1
        return super().forward(x)


class RunningMean(Base):
    """Updates statistics in evaluation mode."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(2))

    def forward(self, x: Tensor) -> Any:
        """Subtract the mean of all rows so far."""
        self.mean = 0.9 * self.mean + 0.1 * x.mean(0).detach()
        return super().forward(x - self.mean)


class BatchStatistics(Base):
    """Uses the statistics of the batch in evaluation mode."""

    def forward(self, x: Tensor) -> Any:
        """Normalise over the batch."""
        return self.last(nnf.batch_norm(self.hidden(x), None, None, training=True))


class StaysInTraining(Base):
    """Ignores eval(): its batch normalisation stays in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(16)

    def train(self, mode: bool = True) -> StaysInTraining:
        """Stay in training mode."""
        return super().train(True)

    def forward(self, x: Tensor) -> Any:
        """Normalise over the batch, if it has more than one row."""
        h = self.hidden(x)
        return self.last(self.norm(h) if len(h) > 1 else h)


class NormalisesTheBatch(Base):
    """Divides by the largest number of the batch."""

    def forward(self, x: Tensor) -> Any:
        """Scale."""
        return super().forward(x / x.abs().max())


class AttendsAcrossRows(Base):
    """Takes the rows of a batch for the tokens of a sequence."""

    def forward(self, x: Tensor) -> Any:
        """Attend."""
        h = self.hidden(x)
        return self.last(torch.softmax(h @ h.T, 1) @ h)


class Squeezes(Base):
    """Drops the axis of a batch of one row."""

    def forward(self, x: Tensor) -> Any:
        """Squeeze."""
        return super().forward(x).squeeze()


class FixedBatch(Base):
    """Was exported for batches of two rows."""

    def forward(self, x: Tensor) -> Any:
        """Reshape to two rows."""
        return super().forward(x.reshape(2, 2))


class Rounds(Base):
    """Returns whole steps of 1/127.5, as an image file has."""

    def forward(self, x: Tensor) -> Any:
        """Round."""
        return (super().forward(x) * 127.5).round() / 127.5


class NoGrad(Base):
    """Was written for inference."""

    @torch.no_grad()
    def forward(self, x: Tensor) -> Any:
        """Return the outputs without a gradient."""
        return super().forward(x)


class Detaches(Base):
    """Cuts the gradient at its end."""

    def forward(self, x: Tensor) -> Any:
        """Detach."""
        return super().forward(x).detach()


class ThroughNumPy(Base):
    """Computes its end in NumPy."""

    def forward(self, x: Tensor) -> Any:
        """Convert to an array and back."""
        return torch.from_numpy(super().forward(x).detach().numpy() * 2)


class Inference(Base):
    """Runs in inference mode."""

    @torch.inference_mode()
    def forward(self, x: Tensor) -> Any:
        """Return the outputs as inference tensors."""
        return super().forward(x)


class TakesRootOfZero(Base):
    """Has a finite output, and an infinite derivative."""

    def forward(self, x: Tensor) -> Any:
        """Take the root of a constant 0 that depends on x."""
        return super().forward(x) + torch.sqrt((x - x.detach()).abs())


class ReturnsNaN(Base):
    """Divides by 0."""

    def forward(self, x: Tensor) -> Any:
        """Return NaN."""
        return super().forward(x) / 0.0 * 0.0


class ReturnsDouble(Base):
    """Returns float64 from float32."""

    def forward(self, x: Tensor) -> Any:
        """Convert."""
        return super().forward(x).double()


class ReturnsBytes(Base):
    """Returns bytes, as an image file has."""

    def forward(self, x: Tensor) -> Any:
        """Convert."""
        return (super().forward(x).sigmoid() * 255).to(torch.uint8)


class ReturnsTuple(Base):
    """Returns its features too."""

    def forward(self, x: Tensor) -> Any:
        """Return two tensors."""
        return super().forward(x), self.hidden(x)


class ReturnsMeta(Base):
    """Returns its output on another device."""

    def forward(self, x: Tensor) -> Any:
        """Move."""
        return super().forward(x).to("meta")


class HoldsGraph(Base):
    """Keeps a tensor with a gradient, which copy.deepcopy refuses."""

    def __init__(self) -> None:
        super().__init__()
        self.cached = self.last.weight * 2


class Unused(Base):
    """Has weights that no output needs."""

    def __init__(self) -> None:
        super().__init__()
        self.spare = nn.Linear(4, 4)


class HalfInt(Base):
    """Has a weight of whole numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.arange(4), requires_grad=False)


class SharedBuffer(Base):
    """Writes every output into the same memory."""

    def __init__(self) -> None:
        super().__init__()
        self.memory: list[Tensor] = []

    def forward(self, x: Tensor) -> Any:
        """Copy into the first rows of one tensor, which grows."""
        y = super().forward(x)
        if torch.is_grad_enabled():
            return y
        if not self.memory or len(self.memory[0]) < len(y):
            self.memory[:] = [torch.empty(max(len(y), 4096), 2)]
        return self.memory[0][: len(y)].copy_(y)


class OtherWithGradient(Base):
    """Computes in another way where a gradient is recorded."""

    def forward(self, x: Tensor) -> Any:
        """Double the output."""
        return super().forward(x) * (2 if torch.is_grad_enabled() else 1)


class AddsNumPyNoise(Base):
    """Adds noise from NumPy's global generator."""

    def forward(self, x: Tensor) -> Any:
        """Add noise."""
        return super().forward(x) + torch.from_numpy(np.random.randn(len(x), 2)).float()


class TurnsGradientsOff(Base):
    """Turns gradients off for the whole process, at its end."""

    def forward(self, x: Tensor) -> Any:
        """Set the global switch."""
        y = super().forward(x)
        torch.set_grad_enabled(False)
        return y


class ChangesDefaultDtype(Base):
    """Changes the default dtype of the whole process."""

    def forward(self, x: Tensor) -> Any:
        """Set the global default."""
        torch.set_default_dtype(torch.float64)
        return super().forward(x)


class SeedsTheProcess(Base):
    """Seeds the global generators, with no effect on its output."""

    def forward(self, x: Tensor) -> Any:
        """Seed."""
        torch.manual_seed(0)
        return super().forward(x)


class ReturnsDict(Base):
    """Returns its output by name."""

    def forward(self, x: Tensor) -> Any:
        """Return a dictionary."""
        return {"logits": super().forward(x)}


class ReturnsComplex(Base):
    """Returns complex numbers, as a Fourier layer does."""

    def forward(self, x: Tensor) -> Any:
        """Convert."""
        return torch.fft.fft(super().forward(x))


class ReturnsSparse(Base):
    """Returns a sparse tensor."""

    def forward(self, x: Tensor) -> Any:
        """Convert."""
        return super().forward(x).relu().to_sparse()


class ConvolutionalHead(Base):
    """Returns logits [batch, classes, 1, 1]."""

    def forward(self, x: Tensor) -> Any:
        """Add two axes."""
        return super().forward(x)[:, :, None, None]


class LogProbabilities(Base):
    """Ends in a log-softmax."""

    def forward(self, x: Tensor) -> Any:
        """Return log-probabilities."""
        return super().forward(x).log_softmax(1)


class NumPyAtTheEnd(Base):
    """Calls .numpy() on its output."""

    def forward(self, x: Tensor) -> Any:
        """Convert to an array and back."""
        return torch.from_numpy(super().forward(x).numpy() * 2)


class Lazy(nn.Module):
    """Has a layer whose size the first call decides."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.LazyLinear(16), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Any:
        """Return the outputs."""
        return self.last(torch.tanh(self.first(x)))


class SpectralNorm(Base):
    """Normalises its weights by the older function, which keeps the weight as a plain tensor."""

    def __init__(self) -> None:
        super().__init__()
        nn.utils.spectral_norm(self.first)


class SpectralNormInTraining(SpectralNorm):
    """Ignores eval(), and so iterates its spectral norm in every call."""

    def train(self, mode: bool = True) -> SpectralNormInTraining:
        """Stay in training mode."""
        return super().train(True)


class RemembersActivations(Base):
    """Keeps its last features, as a hook for visualisation does."""

    def forward(self, x: Tensor) -> Any:
        """Keep the features."""
        self.kept = self.hidden(x)
        return self.last(self.kept)


class TiedWeights(Base):
    """Uses one weight in two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.middle, self.again = nn.Linear(16, 16), nn.Linear(16, 16)
        self.again.weight = self.middle.weight

    def hidden(self, x: Tensor) -> Tensor:
        """Return the features."""
        return torch.tanh(self.again(torch.tanh(self.middle(super().hidden(x)))))


class TransposedWeight(Base):
    """Has a weight that is not contiguous."""

    def __init__(self) -> None:
        super().__init__()
        self.first.weight = nn.Parameter(self.first.weight.detach().T.contiguous().T)


class ExtraState(Base):
    """Has a state that is no tensor."""

    def get_extra_state(self) -> Any:
        """Return a dictionary."""
        return {"version": 3}

    def set_extra_state(self, state: Any) -> None:
        """Ignore it."""


class UnseededFrequencies(Base):
    """Draws frequencies when it is built, which no file holds."""

    def __init__(self) -> None:
        super().__init__(32)
        chance = torch.Generator()
        chance.seed()
        self.frequencies = torch.randn(2, 32, generator=chance)

    def forward(self, x: Tensor) -> Any:
        """Return the network's output for random features."""
        return super().forward(torch.sin(x @ self.frequencies))


class UnseededBuffer(UnseededFrequencies):
    """Draws a buffer that is not stored."""

    def __init__(self) -> None:
        super().__init__()
        drawn = self.frequencies
        del self.frequencies
        self.register_buffer("frequencies", drawn, persistent=False)


def inference_weights() -> nn.Module:
    """Return a network that was built in inference mode."""
    with torch.inference_mode():
        return Base()


def quantized() -> nn.Module:
    """Return a network with weights of int8."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(Base(), {nn.Linear}, torch.qint8)


class Velocity(nn.Module):
    """v(x, t) in the plane."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Base(3, 2)

    def forward(self, x: Tensor, t: Tensor) -> Any:
        """Return the velocity."""
        return self.net(torch.cat([x, t[:, None]], 1))


class NaNAtTheEnd(Velocity):
    """Divides by the time that remains."""

    def forward(self, x: Tensor, t: Tensor) -> Any:
        """Divide by 1 - t."""
        return super().forward(x, t) / (1 - t[:, None])


class FailsAtTheEnd(Velocity):
    """Looks its time up in a table of ten entries."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 2)

    def forward(self, x: Tensor, t: Tensor) -> Any:
        """Look up 10 t."""
        return super().forward(x, t) + self.table((10 * t).long())


class FirstTime(Velocity):
    """Uses the time of the first row for all."""

    def forward(self, x: Tensor, t: Tensor) -> Any:
        """Use t[0]."""
        return super().forward(x, t[:1].expand(len(x)))


class ChangesTime(Velocity):
    """Scales its time in place."""

    def forward(self, x: Tensor, t: Tensor) -> Any:
        """Multiply by 1000."""
        return super().forward(x, t.mul_(1000) / 1000)


class NoGradVelocity(Velocity):
    """Was written for inference."""

    @torch.no_grad()
    def forward(self, x: Tensor, t: Tensor) -> Any:
        """Return the velocity without a gradient."""
        return super().forward(x, t)


class Attention(nn.Module):
    """An average velocity of 8 x 8 images with fused attention, which has no forward-mode derivative."""

    def __init__(self) -> None:
        super().__init__()
        self.inputs, self.outputs = nn.Linear(10, 48), nn.Linear(16, 8)

    def forward(self, x: Tensor, start: Tensor, end: Tensor) -> Any:
        """Attend over the rows of each image."""
        times = torch.stack([start, end], 1)[:, None].expand(-1, 8, -1)
        q, k, v = self.inputs(torch.cat([x[:, 0], times], 2)).chunk(3, 2)
        one = nnf.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])
        return torch.tanh(self.outputs(one[:, 0])[:, None]) - x


class Labels(nn.Module):
    """v(x, t, y) with labels."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.table = Base(5, 2), nn.Embedding(3, 2)

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Any:
        """Return the velocity at a label."""
        return self.net(torch.cat([x, t[:, None], self.table(y)], 1))


class HeightWidthChannels(nn.Module):
    """Writes images [8, 8, 3] in [-1, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(2, 192)

    def forward(self, z: Tensor) -> Any:
        """Return images whose channels are last."""
        return torch.tanh(3 * self.net(z)).reshape(-1, 8, 8, 3)


class OtherSide(HeightWidthChannels):
    """Writes images [3, 4, 16]."""

    def forward(self, z: Tensor) -> Any:
        """Return images of another height and width."""
        return super().forward(z).reshape(-1, 3, 4, 16)


def images(z_scale: float, low: float, high: float) -> nn.Module:
    """Return a generator of images [1, 8, 8] in a range."""

    class Images(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(2, 64)

        def forward(self, z: Tensor) -> Any:
            y = torch.sigmoid(z_scale * self.net(z)).reshape(-1, 1, 8, 8)
            return low + (high - low) * y

    return seeded(Images)


def scripted(net: nn.Module) -> nn.Module:
    """Return a network as TorchScript."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated, and still in use
        return torch.jit.trace(net.eval(), torch.zeros(3, 2))


@dataclass(frozen=True)
class Case:
    """One network that misbehaves.

    Attributes:
        build: returns it.
        words: regular expression of the refusal; "handled" if it is none.
        role: generator, guide, flow or flow_map.
        method: row name of the method that is tried.
        options: of its specification string, and of the command.
    """

    build: Callable[[], nn.Module]
    words: str
    role: str = "generator"
    method: str = "uot_tilted"
    options: str = ""
    arguments: tuple[str, ...] = ()


SECOND = "gives another output for the same input in a second call"
ROWS = "depends on the other rows of its batch"
GLOBAL = "changes a setting of the whole process"
GUIDE = "guide"
CASES: dict[str, Case] = {
    "in place": Case(InPlace, "changes its input in place"),
    "guide in place": Case(InPlace, "changes its input in place", GUIDE),
    "guide activation in place": Case(InPlaceActivation, "changes its input in place", GUIDE),
    "functional dropout": Case(FunctionalDropout, SECOND),
    "guide functional dropout": Case(FunctionalDropout, SECOND, GUIDE),
    "guide functional dropout, no gradient needed": Case(
        FunctionalDropout, SECOND, GUIDE, "latent_transport"
    ),
    "adds noise": Case(AddsNoise, SECOND + ".*global random generator"),
    "seeds noise": Case(SeedsNoise, ROWS),
    "counts calls": Case(CountsCalls, SECOND + ".*counts or remembers"),
    "counts in a buffer": Case(CountsInABuffer, "changes its own buffer .*seen"),
    "running mean": Case(RunningMean, "changes its own buffer .*mean"),
    "batch statistics": Case(BatchStatistics, ROWS + "|does not run on 1 sample"),
    "stays in training": Case(StaysInTraining, ROWS + "|changes its own buffer"),
    "normalises the batch": Case(NormalisesTheBatch, ROWS),
    "guide normalises the batch": Case(NormalisesTheBatch, ROWS, GUIDE),
    "attends across rows": Case(AttendsAcrossRows, ROWS),
    "squeezes": Case(Squeezes, r"returned the shape \[2\] for 1 sample"),
    "fixed batch": Case(FixedBatch, "does not run on 7 samples|returned the shape"),
    "guide of a fixed batch": Case(FixedBatch, "does not run on 7 samples", GUIDE),
    "rounds": Case(Rounds, "it is 0 everywhere"),
    "guide rounds": Case(Rounds, "it is 0 at all of", GUIDE),
    "guide rounds, no gradient needed": Case(Rounds, HANDLED, GUIDE, "latent_transport"),
    "no_grad": Case(NoGrad, "none arrives"),
    "guide no_grad": Case(NoGrad, "none arrives at the samples", GUIDE),
    "no_grad, weights left alone": Case(NoGrad, HANDLED, method="latent_transport_chain"),
    "velocity no_grad": Case(NoGradVelocity, "none arrives", "flow", "erfm_resample_prior"),
    "detaches": Case(Detaches, "none arrives"),
    "through NumPy": Case(ThroughNumPy, "none arrives"),
    "inference mode": Case(Inference, "none arrives|has none"),
    "root of zero": Case(TakesRootOfZero, "NaN or infinite", GUIDE),
    "not a number": Case(ReturnsNaN, "NaN or infinite"),
    "double output": Case(ReturnsDouble, "returned float64 for float32"),
    "bytes": Case(ReturnsBytes, "returned uint8 for float32"),
    "tuple": Case(ReturnsTuple, "returned a tuple"),
    "guide tuple": Case(ReturnsTuple, "returned a tuple", GUIDE),
    "another device": Case(ReturnsMeta, "returned a tensor on meta for one on cpu"),
    "bfloat16": Case(lambda: Base().bfloat16(), "dtype bfloat16"),
    "half": Case(lambda: Base().half(), "dtype float16"),
    "double": Case(lambda: Base().double(), "float32 in the classifier for samples of float64"),
    "guide bfloat16": Case(lambda: Base().bfloat16(), "dtype bfloat16", GUIDE),
    "guide double": Case(lambda: Base().double(), "float64 in the classifier for samples of float32", GUIDE),
    "whole numbers": Case(HalfInt, "dtype int64"),
    "TorchScript": Case(lambda: scripted(Base()), "TorchScript"),
    "guide TorchScript": Case(lambda: scripted(Base()), HANDLED, GUIDE, "latent_transport"),
    "cannot be copied": Case(HoldsGraph, "cannot be copied"),
    "unused weights": Case(Unused, HANDLED),
    "unused weights, two devices": Case(Unused, HANDLED, arguments=("--devices", "2")),
    "shared buffer": Case(SharedBuffer, "writes each output into the memory of an earlier one"),
    "guide shared buffer": Case(SharedBuffer, "writes each output into the memory of an earlier one", GUIDE),
    "other with gradient": Case(OtherWithGradient, "another output where a gradient is recorded"),
    "guide other with gradient": Case(
        OtherWithGradient, "another output where a gradient is recorded", GUIDE
    ),
    "adds NumPy noise": Case(AddsNumPyNoise, SECOND + ".*global random generator"),
    "turns gradients off": Case(TurnsGradientsOff, GLOBAL),
    "guide turns gradients off": Case(TurnsGradientsOff, GLOBAL, GUIDE),
    "changes the default dtype": Case(ChangesDefaultDtype, GLOBAL),
    "seeds the process": Case(SeedsTheProcess, HANDLED),
    "dictionary": Case(ReturnsDict, "returned a dict"),
    "guide dictionary": Case(ReturnsDict, "returned a dict", GUIDE),
    "complex": Case(ReturnsComplex, "returned complex64 for float32"),
    "guide complex": Case(ReturnsComplex, "returned complex64 for float32", GUIDE),
    "sparse": Case(ReturnsSparse, "layout sparse_coo"),
    "guide sparse": Case(ReturnsSparse, "layout sparse_coo", GUIDE),
    "guide convolutional head": Case(ConvolutionalHead, r"returned \[2, 2, 1, 1\]", GUIDE),
    "guide of log probabilities": Case(LogProbabilities, HANDLED, GUIDE),
    "calls numpy": Case(NumPyAtTheEnd, "has none .*numpy"),
    "guide calls numpy": Case(NumPyAtTheEnd, "has none .*numpy", GUIDE),
    "guide detaches": Case(Detaches, "none arrives at the samples", GUIDE),
    "lazy": Case(Lazy, HANDLED),
    "guide lazy": Case(Lazy, HANDLED, GUIDE),
    "spectral norm": Case(SpectralNorm, HANDLED),
    "guide spectral norm": Case(SpectralNorm, HANDLED, GUIDE),
    "guide spectral norm in training": Case(
        SpectralNormInTraining, "changes its own buffer .*weight_u", GUIDE
    ),
    "remembers activations": Case(RemembersActivations, HANDLED),
    "guide remembers activations": Case(RemembersActivations, HANDLED, GUIDE),
    "tied weights": Case(TiedWeights, HANDLED),
    "transposed weight": Case(TransposedWeight, HANDLED),
    "extra state": Case(ExtraState, "_extra_state .*expected tensors alone"),
    "guide extra state": Case(ExtraState, "_extra_state .*expected tensors alone", GUIDE),
    "unseeded frequencies": Case(UnseededFrequencies, "other numbers in frequencies at each call"),
    "unseeded buffer": Case(UnseededBuffer, "other numbers in frequencies at each call"),
    "guide unseeded frequencies": Case(
        UnseededFrequencies, "other numbers in frequencies at each call", GUIDE
    ),
    "data parallel": Case(lambda: nn.DataParallel(Base()), HANDLED),
    "inference weights": Case(inference_weights, "made in inference mode"),
    "guide inference weights": Case(inference_weights, "made in inference mode", GUIDE),
    "quantized": Case(quantized, "_packed_params.*expected tensors alone"),
    "guide quantized": Case(quantized, "_packed_params.*expected tensors alone", GUIDE),
    "NaN at t=1": Case(NaNAtTheEnd, "is NaN or infinite at t=1", "flow", "erfm_resample"),
    "fails at t=1": Case(FailsAtTheEnd, "does not run at t=1", "flow", "erfm_resample"),
    "time of the first row": Case(FirstTime, ROWS, "flow", "erfm_resample"),
    "changes its time in place": Case(ChangesTime, HANDLED, "flow", "erfm_resample"),
    "fused attention under a jvp": Case(
        Attention, "forward-mode derivative", "flow_map", "fine_tune", "shape=1x8x8", ("--data", "digits")
    ),
    "one label": Case(
        Labels, "fixed label 1", "flow", "erfm_resample_prior", "shape=2,call=x/t/label,label=1"
    ),
    "one label, weights left alone": Case(
        Labels, HANDLED, "flow", "erfm_resample", "shape=2,call=x/t/label,label=1"
    ),
    "channels last": Case(HeightWidthChannels, "axes=hwc", options="range=-1:1,shape=3x8x8"),
    "channels last, permuted": Case(
        HeightWidthChannels, HANDLED, method="latent_transport", options="range=-1:1,shape=3x8x8,axes=hwc"
    ),
    "other side": Case(OtherSide, "in another order", options="range=-1:1,shape=3x8x8"),
    "range 0:255 for 0:1": Case(
        lambda: images(3, 0, 1), "expected images that cover it", options="range=0:255"
    ),
    "range 0:1 for 0:255": Case(lambda: images(3, 0, 255), "far outside the range", options="range=0:1"),
}


def network(name: str) -> nn.Module:
    """Return a network by its name, with dashes for spaces; "guide" and "good" are the two that behave."""
    if name == GUIDE:
        return seeded(Base)
    if name == "good":
        return seeded(Base)
    return seeded(CASES[name.replace("-", " ").replace("/", ",")].build)


def command(name: str, verb: str = "unlearn") -> list[str]:
    """Return the words of the command that meets a network: `unlearn` or `plan`, without --out."""
    case = CASES[name]
    this = f"misbehaving:network,name={name.replace(' ', '-').replace(',', '/')}"
    good = "misbehaving:network,name=good"
    guide = f"classifier:{this}" if case.role == GUIDE else "classifier:misbehaving:guide_of"
    size = {"flow_map": "64", "generator": "192" if "3x8x8" in case.options else "64"}
    is_image = "x8" in case.options or "range" in case.options
    if case.role != GUIDE:
        guide += f",inputs={size[case.role] if is_image else 2},names=left/right"
    else:
        guide += ",names=left/right"
    options = case.options or ("shape=2" if case.role in ("flow", "flow_map") else "")
    model = {
        "generator": f"generator:{this},prior=normal:2",
        GUIDE: f"generator:{good},prior=normal:2",
        "flow": f"flow:{this}",
        "flow_map": f"flow_map:{this}",
    }[case.role]
    words = ["--model", ",".join(filter(None, [model, options])), "--energy", guide, "--forget", "1"]
    if verb == "plan":
        return [*words, "--methods", case.method, *case.arguments[: 2 * ("--data" in case.arguments)]]
    small = ["--settings.steps", "2", "--settings.batch_size", "8"]
    if case.method not in ("fine_tune",):
        small += ["--settings.bank_size", "512"]
    return [*words, "--method", case.method, *small, *case.arguments]


def guide_of(inputs: int) -> nn.Module:
    """Return a guide that behaves."""
    return seeded(lambda: Base(inputs))


def main() -> int:
    """Run every case in a process of its own and print its exit code and sentence."""
    wrong = 0
    for name, case in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            words = [sys.executable, "-m", "unflow", "unlearn", *command(name), "--out", f"{folder}/out"]
            here = Path(__file__).parent
            run = subprocess.run(words, cwd=here, capture_output=True, text=True, check=False)
        last = (run.stderr.strip().splitlines() or [""])[-1]
        handled = case.words == HANDLED
        right = run.returncode == 0 if handled else run.returncode == 2 and re.search(case.words, last)
        wrong += not right
        print(f"{'ok ' if right else 'BAD'} {name}: {run.returncode} {last[:300]}")
    print(f"{len(CASES)} networks, {wrong} not as expected")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
