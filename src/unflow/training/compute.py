"""On what, and how, the steps of a training are computed: never what they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from unflow.ground.errors import InputError, choose
from unflow.training.method import Training

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Precision = Literal["32-true", "bf16-mixed"]
PRECISIONS: dict[str, str] = {"32-true": "single", "bf16-mixed": "matrix products in bfloat16"}
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def check_device(device: str) -> None:
    """Raise InputError for a device that is unknown or not on this machine."""
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(device, False):
        found = ", ".join(name for name, available in there.items() if available)
        raise InputError(f"got the device {device!r}; expected one that this machine has: {found}")


@dataclass(frozen=True, kw_only=True)
class Compute:
    """The machine of a training; all ways give the same weights, but for what rounding and bfloat16 change.

    Attributes:
        device: "cpu", "cuda" or "mps".
        devices: data-parallel processes; a divisor of the batch size.
        precision: "32-true", or "bf16-mixed" for matrix products in bfloat16.
        micro_batches: parts of a device's rows that go forward and backward one after the other.
        compile: whether losses and networks go through ``torch.compile``.
        loggers: of Lightning Fabric.
    """

    device: str = "cpu"
    devices: int = 1
    precision: Precision = "32-true"
    micro_batches: int = 1
    compile: bool = False
    loggers: Sequence[Any] = ()

    def check(self, trainings: Sequence[Training], model: nn.Module) -> None:
        """Raise InputError for a machine that is not there, or that cannot carry out one of the trainings."""
        for training in trainings:
            self._check_shares(training)
            self._check_loss(training)
        self._check_rows_are_apart(model)
        check_device(self.device)
        choose(PRECISIONS, self.precision, "precision")
        if self.compile:
            self._check_compiler()

    def check_untrained(self, method: str) -> None:
        """Raise InputError for a device that is not there, or a way of training for what trains nothing."""
        check_device(self.device)
        usual = Compute(device=self.device, loggers=self.loggers[:0])
        for name in (each.name for each in fields(self)):
            if getattr(self, name) != getattr(usual, name):
                raise InputError(
                    f"got {name} for {method}, which trains nothing; expected none: leave {name} out"
                )

    def launch(self) -> Fabric:
        """Return the processes; all trainings of a fit share them."""
        from lightning_fabric import Fabric  # takes seconds to import: not before there is something to train

        fabric = Fabric(
            accelerator=self.device,
            devices=self.devices,
            strategy="ddp" if self.devices > 1 else "auto",
            precision=self.precision,
            loggers=list(self.loggers),
        )
        fabric.launch()
        return fabric

    def prepared(self, loss: nn.Module) -> nn.Module:
        """Return a loss as it is to be called; its networks stay what they are."""
        return torch.compile(loss) if self.compile else loss  # type: ignore[return-value]

    def parts(self, args: Sequence[Tensor | float]) -> Iterator[tuple[Tensor | float, ...]]:
        """Return the arguments of each micro-batch: equal parts of the rows of every tensor."""
        k = self.micro_batches
        return zip(*(arg.chunk(k) if isinstance(arg, Tensor) else [arg] * k for arg in args), strict=True)

    def _check_shares(self, training: Training) -> None:
        rows = training.batch_size
        for count, what in (self.devices, "devices"), (self.micro_batches, "micro-batches"):
            if type(count) is not int or count < 1 or rows % count:
                raise InputError(
                    f"got {count!r} {what} for batches of {rows}; expected a divisor of the batch, as a "
                    "whole number"
                )
            rows //= count
            if count > 1 and not training.shares_batches:
                raise InputError(
                    f"got {count} {what} for {type(training).__name__}, whose loss is not a mean over rows; "
                    "expected 1"
                )

    def _check_rows_are_apart(self, model: nn.Module) -> None:
        if self.micro_batches > 1 and any(isinstance(module, BATCH_NORMS) for module in model.modules()):
            raise InputError(
                f"got {self.micro_batches} micro-batches for a network with batch normalisation, which takes "
                "its means over the rows that it sees at once; expected 1"
            )

    def _check_loss(self, training: Training) -> None:
        if self.compile and training.uncompilable():
            raise InputError(
                f"got compile=True for {type(training).__name__}, whose loss has {training.uncompilable()}, "
                "which torch.compile cannot take; expected compile=False"
            )

    def _check_compiler(self) -> None:
        """Compile the smallest of functions: where that fails, nothing can be compiled."""
        try:
            torch.compile(torch.neg)(torch.zeros(2, device=self.device))
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[0]
            raise InputError(
                f"got compile=True, and torch.compile does not work on this machine ({reason}); expected a "
                "C++ compiler for a CPU, Triton for CUDA: install it, or write compile=False"
            ) from error


ONE_CPU = Compute()
"""One process on the CPU, in single precision: the default of every function that trains."""
