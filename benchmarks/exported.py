"""The exported model on the test rows, in a process of its own: `python -m benchmarks.exported ROWS SAVED_MODEL`."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.timing import Inference, Row, answer
from bertline.models.features import TEXT, TEXT_PAIR
from bertline.serving.runtime import tf

v1 = tf.compat.v1


def read_rows(file: Path) -> list[Row]:
    """The texts of a split of exported rows, with their second texts if they are pairs."""
    with file.open(encoding="utf-8") as lines:
        rows = map(json.loads, lines)
        return [tuple(row[name] for name in (TEXT, TEXT_PAIR) if name in row) for row in rows]


def predictor(session: v1.Session, graph: v1.MetaGraphDef) -> Callable[[list[Row]], Any]:
    """The SavedModel's `text` signature, all its outputs."""
    signature = graph.signature_def["text"]
    feeds = [signature.inputs[name].name for name in (TEXT, TEXT_PAIR) if name in signature.inputs]
    fetches = [output.name for output in signature.outputs.values()]
    call = session.make_callable(fetches, [session.graph.get_tensor_by_name(name) for name in feeds])

    def predict(batch: list[Row]) -> list[np.ndarray]:
        return call(*(np.array([text.encode() for text in column], object) for column in zip(*batch, strict=True)))

    return predict


def weights_dtype(graph: v1.MetaGraphDef) -> str:
    """The dtype of the word table, which is the SavedModel's only float variable."""
    dtypes = [tf.as_dtype(node.attr["dtype"].type) for node in graph.graph_def.node if node.op == "VarHandleOp"]
    return next(dtype.name for dtype in dtypes if dtype.is_floating)


def main() -> None:
    """Times the SavedModel in a session, as a server runs it, once per line of input."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", type=Path, help="folder with test.jsonl")
    parser.add_argument("saved_model", type=Path)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)))
    arguments = parser.parse_args()
    # One core per caller: on the two cores of the trials, threads inside the ops cost more than they gave.
    settings = v1.ConfigProto(inter_op_parallelism_threads=arguments.cores, intra_op_parallelism_threads=1)
    with v1.Session(graph=tf.Graph(), config=settings) as session:
        graph = v1.saved_model.load(session, ["serve"], str(arguments.saved_model))
        rows = read_rows(arguments.rows / "test.jsonl")
        predict = predictor(session, graph)
        inference = Inference(predict, rows, size=arguments.batch_size)
        way = {"dtype": weights_dtype(graph), "callers": arguments.cores, "threads": 1}
        answer(lambda: [way | inference.figures(arguments.cores)])


if __name__ == "__main__":
    main()
