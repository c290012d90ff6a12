"""ONNX graphs: nodes and weights are added one by one, and the whole is checked when it is written."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

# The lowest opset with LayerNormalization, so that older programs read the file: ONNX Runtime 1.17.3 loads it.
OPSET, IR = 17, 8
MOST_BYTES = (1 << 31) - (1 << 20)  # of a file; a protocol buffer ends at 2 GiB
WEIGHTS_FILE = "model.onnx.data"  # where the weights of a larger model lie
_SMALL = 8  # numbers of a constant that the graph holds once, however often it is named
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


class Inputs(NamedTuple):
    """The names of a graph's inputs, each int64 [batch, tokens].

    Attributes:
        ids: of the tokens.
        mask: 1, and 0 in the padding.
        segments: of the tokens; None where the family knows no segments.
    """

    ids: str = "input_ids"
    mask: str = "attention_mask"
    segments: str | None = "token_type_ids"


class Graph:
    """A graph that grows. A value is known by its name."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[TensorProto] = []
        self._names: dict[Any, str] = {}

    def constant(self, value: Any, dtype: type = np.float32) -> str:
        """A weight or a number, which the graph holds."""
        array = np.asarray(value, dtype)
        key = (array.dtype, array.shape, array.tobytes()) if array.size <= _SMALL else len(self._weights)
        if key not in self._names:
            self._names[key] = f"w{len(self._weights)}"
            self._weights.append(numpy_helper.from_array(array, self._names[key]))
        return self._names[key]

    def numbers(self, *values: int) -> str:
        """Whole numbers, int64 [values]: axes, shapes, places."""
        return self.constant(values, np.int64)

    def add(self, op: str, *inputs: str, name: str | None = None, **attributes: Any) -> str:
        """A node with one output, and that output's name."""
        return self.split(op, *inputs, names=[name or f"v{len(self._nodes)}"], **attributes)[0]

    def split(self, op: str, *inputs: str, names: Sequence[str], **attributes: Any) -> Sequence[str]:
        """A node with several outputs."""
        self._nodes.append(helper.make_node(op, inputs, names, f"n{len(self._nodes)}", **attributes))
        return names

    def model(self, inputs: Inputs, outputs: Mapping[str, int], metadata: Mapping[str, Any]) -> onnx.ModelProto:
        """The whole model.

        Args:
            inputs: of the graph.
            outputs: their names, each float32 [batch, width], and their widths.
            metadata: what the file tells beside; each becomes JSON.
        """
        rows = ["batch", "tokens"]
        taken = [helper.make_tensor_value_info(name, INT64, rows) for name in inputs if name]
        given = [helper.make_tensor_value_info(name, FLOAT, ["batch", width]) for name, width in outputs.items()]
        graph = helper.make_graph(self._nodes, "classifier", taken, given, self._weights)
        opset = helper.make_opsetid("", OPSET)
        model = helper.make_model(graph, producer_name="bertline", ir_version=IR, opset_imports=[opset])
        helper.set_model_props(model, {key: json.dumps(value, ensure_ascii=False) for key, value in metadata.items()})
        return model


def write(model: onnx.ModelProto, file: Path, most_bytes: int = MOST_BYTES) -> None:
    """Writes a model, and checks the file by ONNX's own checker, shapes and all.

    Args:
        model: is changed where its weights go into a file of their own.
        file: to be written.
        most_bytes: a model with more has its weights in WEIGHTS_FILE beside the file.
    """
    size = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    if size > most_bytes:
        onnx.save_model(model, file, save_as_external_data=True, location=WEIGHTS_FILE, size_threshold=256)
    else:
        onnx.save_model(model, file)
    onnx.checker.check_model(str(file), full_check=True)
