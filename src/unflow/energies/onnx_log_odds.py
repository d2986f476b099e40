"""What a classifier in an ONNX file says of the classes to forget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from unflow.energies.base import frozen
from unflow.energies.fingerprint import fingerprint
from unflow.energies.opaque import Opaque
from unflow.energies.optional import imported
from unflow.energies.probabilities import FLOOR, check_floor, log_probabilities, two_logits, two_probabilities
from unflow.ground.errors import InputError

EXTRA = "onnx"
CPU = "CPUExecutionProvider"
TYPES = {
    "tensor(float)": torch.float32,
    "tensor(double)": torch.float64,
    "tensor(float16)": torch.float16,
    "tensor(uint8)": torch.uint8,
    "tensor(int8)": torch.int8,
    "tensor(int32)": torch.int32,
    "tensor(int64)": torch.int64,
}
"""ONNX's names of the numbers that a model reads or writes."""


class OnnxLogOdds(Opaque):
    r"""``ClassLogOdds`` of a classifier in an ONNX file, run by onnxruntime; no gradient.

        L(x) = log p(forget | x) - log p(rest | x),    F = softplus(L + margin) >= 0

    The file is read once, with weights that lie beside it; later changes of the file change nothing. A model
    with one number per sample tells class 1 from class 0.

    Args:
        path: of a model with one input [batch, ...]; a fixed batch is filled up by repeating a sample.
        forget: class index or indices, at least one, not all.
        margin: >= 0, in nats; None for the unbounded log-odds.
        output: what the model returns: "logits", or "probabilities" in [0, 1] that sum to 1.
        output_name: of the output that is read, where the model has several.
        preprocess: maps samples [batch, *shape], images in [-1, 1], to the model's input; a module is copied
            and frozen. None: the samples themselves.
        batch_size: samples at once, where the model's batch is not fixed.
        floor: in (0, 0.5), of probabilities.
        providers: what onnxruntime runs on, the first that can.

    Raises:
        InputError: without onnx and onnxruntime; for a file that is no ONNX model with one input, an unknown
            output or provider; and (on the first call) for an input of another shape or type, or outputs
            that are not what was declared.
    """

    identity: Tensor

    def __init__(
        self,
        path: str | Path,
        forget: int | Sequence[int],
        margin: float | None = 0.0,
        output: Literal["logits", "probabilities"] = "logits",
        output_name: str | None = None,
        preprocess: Callable[[Tensor], Tensor] | None = None,
        batch_size: int = 256,
        floor: float = FLOOR,
        providers: Sequence[str] = (CPU,),
    ) -> None:
        super().__init__(forget, margin)
        check_floor(floor)
        if output not in ("logits", "probabilities"):
            raise InputError(f"got output={output!r}; expected logits or probabilities")
        if batch_size < 1:
            raise InputError(f"got batch_size={batch_size}; expected 1 or more")
        self.name, self.output, self.floor, self.batch_size = Path(path).name, output, floor, batch_size
        self.providers = tuple(providers)
        self.preprocess = frozen(preprocess) if isinstance(preprocess, nn.Module) else preprocess
        self.content, self._session = _read(Path(path)), None
        self.output_name = _output_name(self.session, output_name)
        _input_of(self.session)
        function = None if isinstance(preprocess, nn.Module) else preprocess  # a module's weights are there
        asked = fingerprint(self.content, output, self.output_name, floor, function)
        self.register_buffer("identity", asked)

    @property
    def session(self) -> Any:
        """The model in onnxruntime, made when it is first asked for: it can be neither copied nor sent."""
        if self._session is None:
            self._session = _start(self.content, self.name, self.providers)
        return self._session

    def __getstate__(self) -> dict[str, Any]:
        """Return all but the session."""
        return {**self.__dict__, "_session": None}

    def logits(self, x: Tensor) -> Tensor:
        """Return logits or log-probabilities, [batch, num_classes]."""
        shape = _input_of(self.session).shape
        size = shape[0] if isinstance(shape[0], int) else self.batch_size
        outputs = torch.cat([self._outputs(piece, size) for piece in x.split(size)])
        is_one = outputs.ndim == 1 or outputs.shape[1:] == (1,)
        if self.output == "probabilities":
            return log_probabilities(two_probabilities(outputs.flatten()) if is_one else outputs, self.floor)
        if is_one:
            return two_logits(outputs.flatten())
        _check_no_probabilities(outputs)
        return outputs

    def _outputs(self, x: Tensor, size: int) -> Tensor:
        """Return the model's outputs of up to ``size`` samples, in double precision."""
        asked = _input_of(self.session)
        rows = _as_asked(x if self.preprocess is None else self.preprocess(x), len(x), asked)
        if isinstance(asked.shape[0], int) and len(rows) < size:
            rows = np.concatenate([rows, rows[-1:].repeat(size - len(rows), axis=0)])
        (outputs,) = self.session.run([self.output_name], {asked.name: rows})
        if outputs.shape[:1] != rows.shape[:1]:
            raise InputError(
                f"{self.name} returned shape {list(outputs.shape)} for {len(rows)} samples; expected "
                f"[{len(rows)}, num_classes]"
            )
        return torch.as_tensor(outputs[: len(x)]).double()

    def describe(self) -> str:
        """Return which classes are forgotten, and who says what they are."""
        return f"{self.log_odds.describe()} by {self.name}"


def _read(path: Path) -> bytes:
    """Return a model as one string of bytes, with the weights that lie in files beside it."""
    onnx = imported("onnx", EXTRA)
    if not path.is_file():
        raise InputError(f"got no file {path}; expected an ONNX model: write the path of a .onnx file")
    try:
        return onnx.load_model(path).SerializeToString()
    except Exception as error:
        raise InputError(
            f"{path} cannot be read as an ONNX model ({_reason(error)}); expected a whole .onnx file, its "
            "weights in it or beside it, under 2 GB together: export the model again"
        ) from error


def _start(content: bytes, name: str, providers: Sequence[str]) -> Any:
    onnxruntime = imported("onnxruntime", EXTRA)
    known = onnxruntime.get_available_providers()
    unknown = [each for each in providers if each not in known]
    if unknown or not providers:
        raise InputError(f"got the providers {list(providers)}; expected some of {', '.join(known)}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        return onnxruntime.InferenceSession(content, options, providers=list(providers))
    except Exception as error:
        raise InputError(
            f"onnxruntime cannot run {name} ({_reason(error)}); expected a valid model of operators that it "
            "knows: export it again, for an older opset"
        ) from error


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:120]


def _input_of(session: Any) -> Any:
    inputs = session.get_inputs()
    if len(inputs) != 1 or inputs[0].type not in TYPES or not inputs[0].shape:
        found = ", ".join(f"{each.name} {each.type} {each.shape}" for each in inputs)
        raise InputError(f"got a model with the inputs {found}; expected one tensor [batch, ...] of numbers")
    return inputs[0]


def _output_name(session: Any, wanted: str | None) -> str:
    outputs = {each.name: each.type for each in session.get_outputs()}
    if wanted is None and len(outputs) != 1:
        raise InputError(
            f"got a model with the outputs {', '.join(outputs)}; expected one: write output_name="
            f"{next(iter(outputs))!r} or another of them"
        )
    name = next(iter(outputs)) if wanted is None else wanted
    if outputs.get(name) not in TYPES:
        found = ", ".join(f"{each} {kind}" for each, kind in outputs.items())
        raise InputError(
            f"got the output {name!r} of a model with {found}; expected the name of a tensor of numbers "
            "(of a scikit-learn model: convert it with zipmap=False)"
        )
    return name


def _as_asked(rows: Tensor, n: int, asked: Any) -> np.ndarray:
    """Return rows in the model's type; only the precision of floating-point numbers is changed."""
    dtype = TYPES[asked.type]
    if rows.is_floating_point() and dtype.is_floating_point:
        rows = rows.to(dtype)
    shape = [n, *asked.shape[1:]]
    fits = rows.ndim == len(shape) and all(
        a == b for a, b in zip(rows.shape, shape, strict=True) if isinstance(b, int)
    )
    if rows.dtype != dtype or not fits:
        raise InputError(
            f"got {rows.dtype} of shape {list(rows.shape)} for a model of {dtype} {shape}; expected these: "
            "write preprocess=, which makes them of samples, or shape= in a line"
        )
    return np.ascontiguousarray(rows.detach().cpu().numpy())


def _check_no_probabilities(outputs: Tensor) -> None:
    """Refuse as logits what are the probabilities of all samples; logits do not sum to 1 by chance."""
    positive = bool((outputs >= 0).all()) and bool((outputs <= 1).all())
    if positive and outputs.ndim == 2 and bool(((outputs.sum(1) - 1).abs() < 1e-3).all()):
        raise InputError(
            f"got {len(outputs)} rows in [0, 1] that sum to 1 as logits; expected logits: write "
            "output='probabilities'"
        )
