"""The exported model called in a process of its own, for benchmarks/serving.py: answers one JSON command per line.

`python -m benchmarks.in_process VERSION_FOLDER TEXTS_FILE WAY`; commands are {"texts": N, "batch": N}: that many texts,
in length-sorted batches of that size; single texts in their own order. Answers give examples per second and
milliseconds per call. WAY is `documented`, as TensorFlow's guide to SavedModels calls a model: loaded by
tf.saved_model.load, one batch after another, with TensorFlow's own choice of threads. Or `served`, as the server runs
it: a session that gives each batch one thread, with one batch per core at a time.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from bertline.serving.calls import Call
from bertline.serving.protos import ConfigProto
from bertline.serving.runtime import tf
from bertline.serving.servable import Servable
from bertline.serving.warmup import warm_up

SIGNATURE = "text"

Model = Callable[[np.ndarray], object]  # texts as bytes objects, [batch], to what the signature answers


def documented(folder: Path) -> tuple[Model, int]:
    """The model, and how many batches run at the same time."""
    loaded = tf.saved_model.load(str(folder))  # kept: a signature does not keep its variables alive
    signature = loaded.signatures[SIGNATURE]

    def run(texts: np.ndarray) -> object:
        return {name: value.numpy() for name, value in signature(**{SIGNATURE: tf.constant(texts)}).items()}, loaded

    return run, 1


def served(folder: Path) -> tuple[Model, int]:
    """As `documented`."""
    threads = ConfigProto(intra_op_parallelism_threads=1, inter_op_parallelism_threads=-1)
    servable = Servable(folder, "model", int(folder.name), session_config=threads)
    signature = servable.signatures[SIGNATURE]
    feed = signature.inputs[SIGNATURE].name
    fetches = tuple(info.name for _, info in sorted(signature.outputs.items()))
    warm_up(servable)  # as the server does: the first shape that oneDNN meets decides how it lays out the weights
    return lambda texts: servable.run(Call({feed: texts}, fetches)), os.cpu_count() or 1


WAYS = {"documented": documented, "served": served}


def main() -> None:
    """Loads, warms, then answers until its input ends."""
    folder, file = map(Path, sys.argv[1:3])
    model, at_once = WAYS[sys.argv[3]](folder)
    texts = json.loads(file.read_text())
    print("ready", flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        measured = sorted(texts[: command["texts"]], key=len) if command["batch"] > 1 else texts[: command["texts"]]
        batches = [
            np.array([text.encode() for text in measured[start : start + command["batch"]]], object)
            for start in range(0, len(measured), command["batch"])
        ]

        def run(batch: np.ndarray) -> float:
            since = time.perf_counter()
            model(batch)
            return (time.perf_counter() - since) * 1000

        began = time.perf_counter()
        with ThreadPoolExecutor(at_once if command["batch"] > 1 else 1) as callers:
            times = list(callers.map(run, batches))
        seconds = time.perf_counter() - began
        p50, p99 = np.percentile(times, [50, 99])
        print(json.dumps({"per_second": len(measured) / seconds, "p50_ms": p50, "p99_ms": p99}), flush=True)


if __name__ == "__main__":
    main()
