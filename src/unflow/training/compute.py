"""How the steps of a training are computed: devices, precision, micro-batches, compiler."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor, nn

from unflow.ground.errors import InputError, choose
from unflow.ground.locks import is_first_process
from unflow.training.method import Training

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Precision = Literal["32-true", "bf16-mixed"]
PRECISIONS: dict[str, str] = {"32-true": "single", "bf16-mixed": "matrix products in bfloat16"}
FIRST_PROCESS = "UNFLOW_FIRST_PROCESS"
"""The variable with which the first process of several tells the others its number."""
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def check_device(device: str) -> None:
    """Raise InputError for a device that is unknown or not on this machine."""
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(device, False):
        found = ", ".join(name for name, available in there.items() if available)
        raise InputError(f"got the device {device!r}; expected one that this machine has: {found}")


@dataclass(frozen=True, kw_only=True)
class Compute:
    """How a training is computed; every choice gives the same weights up to rounding and bfloat16.

    Attributes:
        device: "cpu", "cuda" or "mps".
        devices: data-parallel processes; a divisor of the batch size.
        precision: "32-true", or "bf16-mixed" for matrix products in bfloat16.
        micro_batches: parts into which a device's rows are split. Each goes forward and backward on its own
            before the optimizer step, so that only one part's activations are in memory.
        compile: whether losses and networks go through ``torch.compile``.
        loggers: loggers of Lightning Fabric (``TensorBoardLogger``, ``CSVLogger``, a ``WandbLogger``); each
            receives the lines of metrics.jsonl.
    """

    device: str = "cpu"
    devices: int = 1
    precision: Precision = "32-true"
    micro_batches: int = 1
    compile: bool = False
    loggers: Sequence[Any] = ()

    def check(self, trainings: Sequence[Training], model: nn.Module) -> None:
        """Raise InputError for a missing device, or for a choice that a training cannot run with."""
        for training in trainings:
            self._check_shares(training)
            self._check_loss(training)
        self._check_rows_independent(model)
        check_device(self.device)
        choose(PRECISIONS, self.precision, "precision")
        if self.compile:
            self._check_compiler()

    def check_untrained(self, method: str) -> None:
        """Raise InputError for a missing device, or for a choice that a method without training ignores."""
        check_device(self.device)
        usual = Compute(device=self.device, loggers=self.loggers[:0])
        for name in (each.name for each in fields(self)):
            if getattr(self, name) != getattr(usual, name):
                raise InputError(
                    f"got {name} for {method}, which trains nothing; expected none: leave {name} out"
                )

    def launch(self, find_unused: bool = False) -> Fabric:
        """Start the processes, which all trainings of one ``fit`` share.

        Args:
            find_unused: whether each step looks for weights that its loss does not use; otherwise, devices
                wait for their gradients.
        """
        from lightning_fabric import Fabric  # its import takes seconds

        if self.devices > 1:
            _end_with_first_process()
        fabric = Fabric(
            accelerator=self.device,
            devices=self.devices,
            strategy="auto"
            if self.devices == 1
            else "ddp_find_unused_parameters_true"
            if find_unused
            else "ddp",
            precision=self.precision,
            loggers=list(self.loggers),
        )
        fabric.launch()
        return fabric

    def compile_loss(self, loss: nn.Module) -> nn.Module:
        """Return the loss, compiled if asked for; its networks are the same objects."""
        return cast(nn.Module, torch.compile(loss)) if self.compile else loss

    def split_batch(self, args: Sequence[Tensor | float]) -> Iterator[tuple[Tensor | float, ...]]:
        """Return the arguments of each micro-batch: numbers, and equal parts of the rows of every tensor."""
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

    def _check_rows_independent(self, model: nn.Module) -> None:
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
        """Raise InputError if torch.compile fails on a minimal function."""
        try:
            torch.compile(torch.neg)(torch.zeros(2, device=self.device))
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[0]
            raise InputError(
                f"got compile=True, and torch.compile does not work on this machine ({reason}); expected a "
                "C++ compiler for a CPU, Triton for CUDA: install it, or write compile=False"
            ) from error


def _end_with_first_process() -> None:
    """End every further process of a command soon after the first one, also if the first one is killed.

    A process that waits for the first one to open a connection would otherwise wait for half an hour.
    """
    if is_first_process():
        os.environ[FIRST_PROCESS] = str(os.getpid())
        return
    first = int(os.environ.get(FIRST_PROCESS, os.getppid()))

    def watch() -> None:
        while os.getppid() == first:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


ONE_CPU = Compute()
"""One process on the CPU, in single precision: the default of every function that trains."""
