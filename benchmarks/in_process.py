"""The exported model called in process, alone: answers a JSON command a line, for benchmarks/serving.py.

`python -m benchmarks.in_process VERSION_FOLDER TEXTS_FILE`; commands are {"texts": N, "batch": N}: that many texts, in
length-sorted batches of that size. Answers give examples a second and milliseconds a call.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np

from serving.calls import Call
from serving.servable import Servable


def main() -> None:
    """Loads, warms, then answers until its input ends."""
    folder, file = map(Path, sys.argv[1:])
    servable = Servable(folder, "model", int(folder.name))
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
        times = []
        began = time.perf_counter()
        for batch in batches:
            since = time.perf_counter()
            servable.run(Call({feed: batch}, fetches))
            times.append((time.perf_counter() - since) * 1000)
        seconds = time.perf_counter() - began
        p50, p99 = np.percentile(times, [50, 99])
        print(json.dumps({"per_second": len(chosen) / seconds, "p50_ms": p50, "p99_ms": p99}), flush=True)


if __name__ == "__main__":
    main()
