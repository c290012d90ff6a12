"""The exported model called in process, alone: answers a JSON command a line, for benchmarks/serving.py.

`python -m benchmarks.in_process VERSION_FOLDER TEXTS_FILE`; commands are {"texts": N, "batch": N}: that many texts, in
length-sorted batches of that size. Batches are run as the server runs them, one on each core at a time, single texts
one after the other. Answers give examples a second and milliseconds a call.
"""

from __future__ import annotations

import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from serving.calls import Call
from serving.protos import ConfigProto
from serving.servable import Servable


def main() -> None:
    """Loads, warms, then answers until its input ends."""
    folder, file = map(Path, sys.argv[1:])
    servable = Servable(folder, "model", int(folder.name), session_config=ConfigProto(intra_op_parallelism_threads=1))
    signature = servable.signatures["text"]
    feed = signature.inputs["text"].name
    fetches = tuple(info.name for info in signature.outputs.values())
    texts = json.loads(file.read_text())
    print("ready", flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        chosen = sorted(texts[: command["texts"]], key=len) if command["batch"] > 1 else texts[: command["texts"]]
        batches = [
            np.array([text.encode() for text in chosen[start : start + command["batch"]]], object)
            for start in range(0, len(chosen), command["batch"])
        ]

        def run(batch: np.ndarray) -> float:
            since = time.perf_counter()
            servable.run(Call({feed: batch}, fetches))
            return (time.perf_counter() - since) * 1000

        began = time.perf_counter()
        with ThreadPoolExecutor(os.cpu_count() if command["batch"] > 1 else 1) as callers:
            times = list(callers.map(run, batches))
        seconds = time.perf_counter() - began
        p50, p99 = np.percentile(times, [50, 99])
        print(json.dumps({"per_second": len(chosen) / seconds, "p50_ms": p50, "p99_ms": p99}), flush=True)


if __name__ == "__main__":
    main()
