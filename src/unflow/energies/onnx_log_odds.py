"""Log-odds of a classifier in an ONNX file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from unflow.energies.base import frozen
from unflow.energies.fingerprint import fingerprint
from unflow.energies.opaque import FLOOR, Opaque, binary_probabilities, check_floor, log_probabilities
from unflow.ground.errors import InputError, explain
from unflow.ground.logits import check_logits, logits_of_classes
from unflow.ground.plugins import import_optional

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
"""ONNX types of inputs and outputs -> torch types."""


class OnnxLogOdds(Opaque):
    r"""``ClassLogOdds`` of a classifier in an ONNX file, run by onnxruntime; no gradient.

        L(x) = log p(forget | x) - log p(rest | x),    F = softplus(L + margin) >= 0

    The file is read once, with any weight files beside it; later changes of the file have no effect. A model
    that returns one number per sample is a classifier of the classes 0 and 1.

    Args:
        path: of a model with one input [batch, ...]; a fixed batch is filled by repeating the last sample.
        forget: class index or indices, at least one, not all.
        margin: >= 0, in nats; None for the unbounded log-odds.
        output: the model's output: "logits", or "probabilities" in [0, 1] that sum to 1.
        output_name: name of the output to use if the model has several.
        preprocess: maps samples [batch, *shape], images in [-1, 1], to the model's input; a module is copied
            and frozen. None: the samples themselves.
        batch_size: samples per call, if the model's batch is not fixed.
        floor: in (0, 0.5), of probabilities.
        providers: execution providers of onnxruntime; the first that works is used.

    Raises:
        InputError: without onnx and onnxruntime; for a file that is not an ONNX model with one input, an
            unknown output or provider; and (on the first call) for an input of another shape or type, or
            outputs that are not of the declared kind.
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
        self.content, self._session = _read_model(Path(path)), None
        self.output_name = _choose_output(self.session, output_name)
        _get_input(self.session)
        function = (
            None if isinstance(preprocess, nn.Module) else preprocess
        )  # a module's weights are in the state anyway
        identity = fingerprint(self.content, output, self.output_name, floor, function)
        self.register_buffer("identity", identity)

    @property
    def session(self) -> Any:
        """The onnxruntime session, made on first use: it can be neither copied nor pickled."""
        if self._session is None:
            self._session = _start_session(self.content, self.name, self.providers)
        return self._session

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without the session."""
        return {**self.__dict__, "_session": None}

    def logits(self, x: Shaped[Tensor, " batch *shape"]) -> Float[Tensor, " batch *classes"]:
        """Return logits or log-probabilities, [batch, num_classes]."""
        shape = _get_input(self.session).shape
        size = shape[0] if isinstance(shape[0], int) else self.batch_size
        outputs = torch.cat([self._outputs(piece, size) for piece in torch.split(x, size)])
        is_one = outputs.ndim == 1 or outputs.shape[1:] == (1,)
        if self.output == "probabilities":
            return log_probabilities(
                binary_probabilities(outputs.flatten()) if is_one else outputs, self.floor
            )
        check_logits(outputs)
        return logits_of_classes(outputs)

    def _outputs(self, x: Tensor, size: int) -> Tensor:
        """Return the model's outputs of up to ``size`` samples, in double precision."""
        node = _get_input(self.session)
        rows = _to_input(x if self.preprocess is None else self.preprocess(x), len(x), node)
        if isinstance(node.shape[0], int) and len(rows) < size:
            rows = np.concatenate([rows, rows[-1:].repeat(size - len(rows), axis=0)])
        (outputs,) = self.session.run([self.output_name], {node.name: rows})
        if outputs.shape[:1] != rows.shape[:1]:
            raise InputError(
                f"{self.name} returned shape {list(outputs.shape)} for {len(rows)} samples; expected "
                f"[{len(rows)}, num_classes]"
            )
        return torch.as_tensor(outputs[: len(x)]).double()

    def describe(self) -> str:
        """Return the classes to forget, the margin and the name of the file."""
        return f"{self.log_odds.describe()} by {self.name}"


def _read_model(path: Path) -> bytes:
    """Return a serialised model that includes the weights in files beside it."""
    onnx = import_optional("onnx", EXTRA)
    if not path.is_file():
        raise InputError(f"got no file {path}; expected an ONNX model: write the path of a .onnx file")
    try:
        content: bytes = onnx.load_model(path).SerializeToString()
    except Exception as error:
        raise InputError(
            f"{path} cannot be read as an ONNX model ({explain(error)[:120]}); expected a whole .onnx file, "
            "its weights in it or beside it, under 2 GB together: export the model again"
        ) from error
    return content


def _start_session(content: bytes, name: str, providers: Sequence[str]) -> Any:
    onnxruntime = import_optional("onnxruntime", EXTRA)
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
            f"onnxruntime cannot run {name} ({explain(error)[:120]}); expected a valid model of supported "
            "operators: export it again, for an older opset"
        ) from error


def _get_input(session: Any) -> Any:
    inputs = session.get_inputs()
    if len(inputs) != 1 or inputs[0].type not in TYPES or not inputs[0].shape:
        found = ", ".join(f"{each.name} {each.type} {each.shape}" for each in inputs)
        raise InputError(f"got a model with the inputs {found}; expected one tensor [batch, ...] of numbers")
    return inputs[0]


def _choose_output(session: Any, wanted: str | None) -> str:
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


def _to_input(rows: Tensor, n: int, node: Any) -> np.ndarray:
    """Return rows in the model's type; only floating-point numbers are converted."""
    dtype = TYPES[node.type]
    if rows.is_floating_point() and dtype.is_floating_point:
        rows = rows.to(dtype)
    shape = [n, *node.shape[1:]]
    fits = rows.ndim == len(shape) and all(
        a == b for a, b in zip(rows.shape, shape, strict=True) if isinstance(b, int)
    )
    if rows.dtype != dtype or not fits:
        raise InputError(
            f"got {rows.dtype} of shape {list(rows.shape)} for a model of {dtype} {shape}; expected these: "
            "write preprocess=, which converts samples to them, or shape= in a line"
        )
    return np.ascontiguousarray(rows.detach().cpu().numpy())
