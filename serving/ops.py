"""Finds the ops of a SavedModel that the real TF Serving cannot run, before the push and not when a server starts.

    python -m bertline.serving.ops runs/sentiment/serving/1795307951

TF Serving links TensorFlow's core ops and TF Text's. This module reads them from the registry of a process that has
loaded only these two (`bertline.serving.runtime`), minus what only TensorFlow's Python package has.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from bertline.errors import UserError
from bertline.serving import servable
from bertline.serving.protos import SavedModel
from bertline.serving.runtime import tf  # noqa: F401  before its inner modules, so that they come without Keras

from tensorflow.python.framework import kernels, op_def_registry  # isort: skip

SHOWN = 3  # ops in a message; they mostly share a cause

# The kernels of these ops are part of the Python package: they call back into the process that made the graph.
PYTHON_ONLY = frozenset({"PyFunc", "PyFuncStateless", "EagerPyFunc"})
# TensorFlow 2.21's wheel has kernels of these, and 2.19.1's has none, as their registries list them.
NEWER_OPS = frozenset({"DecodeJxl", "DecodeWebP"})
# An attribute that the server's op does not know is an error there, unless the export left its default out.
NEWER_ATTRIBUTES = {"TensorListGetItem": {"Tshape"}, "XlaCallModule": {"use_shardy_partitioner"}}
SERVER = "TF Serving 2.19.1"  # the image that serving/deploy pins
# A graph pass replaces it before anything runs, so it needs no kernel.
REWRITTEN = frozenset({"AccumulateNV2"})
MUST_COMPILE = "_XlaMustCompile"  # what tf.function(jit_compile=True) leaves


class Node(NamedTuple):
    """An op where it stands in a SavedModel."""

    op: str
    name: str
    function: str  # "" in the main graph
    attributes: frozenset[str]  # those with a value

    def __str__(self) -> str:
        place = f"in function {self.function!r}" if self.function else "in the main graph"
        return f"op {self.op} (node {self.name!r} {place})"


def check(saved_model: str | Path) -> list[str]:
    """What TF Serving cannot run in a SavedModel, all graphs and functions of it, reachable from a signature or not.

    Args:
        saved_model: its folder, local or remote.

    Returns:
        A reason for each op at fault, with the first node that uses it and the way out; empty where all is well.

    Raises:
        UserError: the folder holds no SavedModel; the message names the file.
    """
    proto = servable.read_saved_model(saved_model)
    functions = {
        function.signature.name for graph in proto.meta_graphs for function in graph.graph_def.library.function
    }
    faults: dict[str, str] = {}
    for node in _nodes(proto):
        if node.op not in faults and node.op not in functions:
            reason = _fault(node)
            if reason:
                faults[node.op] = f"{node}: {reason}"
    return list(faults.values())


def describe(faults: list[str]) -> str:
    """The faults in one line."""
    more = f"; and {len(faults) - SHOWN} more ops" if len(faults) > SHOWN else ""
    return "; ".join(faults[:SHOWN]) + more


def _fault(node: Node) -> str:
    """The reason why the server cannot run a node; "" if it can."""
    if node.op in PYTHON_ONLY:
        return "it runs Python, which TF Serving has none of; write tf.py_function's part in TensorFlow's own ops"
    if node.op in NEWER_OPS:
        return f"newer than {SERVER}; use an older op, or build and serve with a newer TF Serving"
    if op_def_registry.get(node.op) is None:
        return "neither TensorFlow nor TF Text has it, and TF Serving links no other library; use their ops"
    if node.op not in _kernels() and node.op not in REWRITTEN:
        return "it has no kernel for a CPU: a TPU's, or one that TensorFlow has dropped; export the model without it"
    newer = NEWER_ATTRIBUTES.get(node.op, set()) & node.attributes
    if newer:
        return f"its attribute {', '.join(sorted(newer))} is newer than {SERVER}; export without it"
    if MUST_COMPILE in node.attributes:
        return "it must be compiled by XLA, which TF Serving has switched off; export without jit_compile=True"
    return ""


def _nodes(saved_model: SavedModel) -> Iterator[Node]:
    """Every node of every graph and of every function."""
    for meta_graph in saved_model.meta_graphs:
        graph = meta_graph.graph_def
        yield from _listed(graph.node, "", frozenset())
        for function in graph.library.function:
            name = function.signature.name
            yield from _listed(function.node_def, name, _attributes(function.attr) & {MUST_COMPILE})


def _listed(nodes: Iterable[Any], function: str, inherited: frozenset[str]) -> Iterator[Node]:
    for node in nodes:
        yield Node(node.op, node.name, function, _attributes(node.attr) | inherited)


def _attributes(attributes: Any) -> frozenset[str]:
    return frozenset(name for name, value in attributes.items() if name != MUST_COMPILE or value.b)


@functools.cache
def _kernels() -> frozenset[str]:
    """Ops that this process has a kernel of."""
    return frozenset(kernel.op for kernel in kernels.get_all_registered_kernels().kernel)


def main(arguments: list[str] | None = None) -> int:
    """Entry point of `python -m bertline.serving.ops`: prints what is at fault and returns 1, or returns 0."""
    (saved_model,) = sys.argv[1:] if arguments is None else arguments
    try:
        faults = check(saved_model)
    except UserError as error:
        faults = [str(error)]
    if faults:
        print(describe(faults))
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
