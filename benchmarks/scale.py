"""How time and memory grow with the rows: `python -m benchmarks.scale --rows 1000000`.

Generated tweets go from CSV files through ingestion, statistics, the data gate and Transform three times: a few rows,
to see what the start of the workers costs, then a tenth of the rows, then all. Each pass is a process of its own, with
Beam's worker processes below it. Memory is the sum over these processes, sampled once per second (as PSS, which counts
shared memory once).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

from benchmarks.peer import write_result

MEMORY_GIB = 6.0
# At most: time per row with all rows over that with a tenth, without the start; 0.1 for the noise of two runs. With the
# start in it, a tenth's time per row is so much larger that twice the work per row would not show.
GROWTH = 1.1
FEW = 1000  # rows, to see what the start costs
SECONDS_PER_SAMPLE = 1.0  # a sample costs some 40 ms of processor time


class Memory:
    """The most memory that this process and those below it have held, in bytes, within a `with` block."""

    def __enter__(self) -> Memory:
        self.peak, self._done = 0, threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            self.peak = max(self.peak, sum(_of_all(lambda process: process.memory_full_info().pss)))
            if self._done.wait(SECONDS_PER_SAMPLE):
                return


def run(rows: int, workers: int, folder: Path) -> dict[str, Any]:
    """Runs the stages over generated rows, in this process.

    Args:
        rows: how many.
        workers: Beam's processes.
        folder: an empty one, for the rows and everything made from them.

    Returns:
        For each stage its seconds, its processor seconds, its peak memory in bytes, and the bytes written per row.
    """
    from benchmarks import stages, tweets
    from bertline.components.options import DataOptions
    from bertline.models.recipe import ModelOptions

    data = DataOptions(source=tweets.write(folder, rows), label="sentiment")
    line = stages.Stages(folder, data, ModelOptions(max_length=64), stages.beam_arguments(workers))
    measured = {}
    for name, stage in line.all.items():
        before = _bytes(folder)
        began, used = time.monotonic(), _processor_seconds()
        with Memory() as memory:
            stage()
        measured[name] = {
            "seconds": time.monotonic() - began,
            "processor_seconds": _processor_seconds() - used,
            "peak_bytes": memory.peak,
            "bytes_per_row": (_bytes(folder) - before) / rows,
        }
    return measured


def _processor_seconds() -> float:
    """Of this process and those below it, including ended ones, as Beam's workers are after a stage."""
    return sum(_of_all(lambda process: sum(process.cpu_times()[:4])))  # user, system, and both of ended children


def _of_all(figure: Callable[[psutil.Process], float]) -> Iterator[float]:
    """A figure of this process and of each below it."""
    own = psutil.Process()
    for process in [own, *own.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended
            yield figure(process)


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def measure(rows: int, workers: int) -> dict[str, Any]:
    """What `run` returns, from a process of its own.

    Raises:
        RuntimeError: it failed; the message ends with the end of its output.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.scale", "--rows", str(rows), "--workers", str(workers)]
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
        ran = subprocess.run(
            [*command, "--folder", folder], env=environment, capture_output=True, text=True, check=False
        )
    if ran.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {ran.returncode}:\n{ran.stderr.strip()[-2000:]}")
    return json.loads(ran.stdout.strip().splitlines()[-1])


def total(measured: dict[str, Any], figure: str) -> float:
    """The sum of a figure over all stages."""
    return sum(figures[figure] for figures in measured.values())


def show(rows: int, measured: dict[str, Any]) -> None:
    """Prints the table of a run."""
    print(f"{rows:,} rows")
    for name, figures in measured.items():
        print(
            f"  {name:14} {figures['seconds']:6.1f} s, processors {figures['processor_seconds']:6.1f} s,"
            f" {figures['peak_bytes'] / 2**30:5.2f} GiB, {figures['bytes_per_row']:4.0f} bytes written per row"
        )
    print(f"  {'all':14} {total(measured, 'seconds'):6.1f} s", flush=True)


def judge(results: dict[int, dict[str, Any]], workers: int) -> bool:
    """Prints the bars and whether they hold, from the results of a few rows, a tenth and all."""
    start, few, many = results.values()
    (fewest, fewer, more) = results
    beyond_start = [
        (total(measured, "seconds") - total(start, "seconds")) / (count - fewest)
        for count, measured in ((fewer, few), (more, many))
    ]
    growth = beyond_start[1] / beyond_start[0]
    per_row = (total(many, "processor_seconds") - total(start, "processor_seconds")) / (more - fewest)
    peak = max(figures["peak_bytes"] for figures in many.values()) / 2**30
    print(f"time per row without the start, {more:,} rows over {fewer:,}: {growth:.2f}, at most {GROWTH:g}")
    print(f"processor time per row, without the start: {1e6 * per_row:.0f} us")
    print(f"peak memory: {peak:.2f} GiB on {workers} workers, at most {MEMORY_GIB:g}")
    return growth <= GROWTH and peak <= MEMORY_GIB


def main() -> int:
    """Prints and writes the figures; returns 1 where a bar does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=2, help="Beam's processes; 1 for Beam in this one")
    parser.add_argument("--folder", type=Path, help="run the stages here, once, and print the figures as JSON")
    arguments = parser.parse_args()
    if arguments.folder:
        print(json.dumps(run(arguments.rows, arguments.workers, arguments.folder)))
        return 0
    results = {}
    for rows in (FEW, arguments.rows // 10, arguments.rows):
        results[rows] = measure(rows, arguments.workers)
        show(rows, results[rows])
    holds = judge(results, arguments.workers)
    print("figures:", write_result("scale", {"workers": arguments.workers, "rows": results}))
    return int(not holds)


if __name__ == "__main__":
    sys.exit(main())
