"""Small models in ONNX's own words, as other libraries write them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT = TensorProto.FLOAT


def model_of(
    nodes: Sequence[Any],
    shape: Sequence[int | str],
    weights: dict[str, np.ndarray] | None = None,
    outputs: dict[str, int] | None = None,
    input_type: int = FLOAT,
) -> onnx.ModelProto:
    """A graph from "x" to the named outputs ("y": float), for operators that every runtime knows."""
    inputs = [helper.make_tensor_value_info("x", input_type, list(shape))]
    ends = [helper.make_tensor_value_info(n, t, None) for n, t in (outputs or {"y": FLOAT}).items()]
    constants = [numpy_helper.from_array(value, name) for name, value in (weights or {}).items()]
    graph = helper.make_graph(list(nodes), "graph", inputs, ends, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def linear_onnx(weight: np.ndarray, batch: int | str = "batch", then: str = "") -> onnx.ModelProto:
    """x [batch, d] W, and an activation after it, like Softmax."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["s" if then else "y"])]
    if then:
        nodes.append(helper.make_node(then, ["s"], ["y"]))
    return model_of(nodes, [batch, len(weight)], {"w": weight})
