"""What keeping records costs the server: `python -m benchmarks.records CONFIG`.

Serves the newest pushed version of a finished run three times, without records, with records, and with records and
their masked texts, and asks each in turn, round by round. The bars compare the second with the first.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import pyarrow.parquet as pq

from benchmarks import finished
from benchmarks.peer import write_result
from benchmarks.serving import CLIENTS, Served
from bertline.pipeline import config as configs
from bertline.serving import record_files, releases

# The bars: what records may cost.
THROUGHPUT = 0.95  # times the texts per second without records
TAIL_MS = 0.5  # more than without them at p99 of one text from one client

SINGLES = 400  # texts sent one by one per round
FLAGS = {"without": [], "records": [], "texts": ["--records_texts"]}


def measure(servers: dict[str, Served], rounds: int, seconds: float) -> dict[str, Any]:
    """Texts per second of many clients, and p99 in ms of one: of each server, round by round, and their medians."""
    for server in servers.values():
        server.load("--seconds=3")
    measured = []
    for number in range(rounds):
        figures = {}
        # The order turns round, since the machine's own speed drifts.
        for name in list(servers)[:: 1 if number % 2 else -1]:
            before = _processor(servers[name])
            many = servers[name].load(f"--clients={CLIENTS}", f"--seconds={seconds}")
            speed, busy = many["per_second"], _processor(servers[name]) - before
            one = servers[name].load("--clients=1", f"--requests={SINGLES}", "--seconds=120")
            cost = 1000 * busy / max(many["statuses"].get("OK", 0), 1)
            figures[name] = {
                "per_second": speed,
                "processor_ms": cost,
                "p50_ms": one["p50_ms"],
                "p99_ms": one["p99_ms"],
            }
        measured.append(figures)
        print(f"  round {number + 1}: " + "; ".join(_words(name, figures[name]) for name in servers), flush=True)
    compared = {
        name: {
            "throughput": median(each[name]["per_second"] / each["without"]["per_second"] for each in measured),
            "processor": median(each[name]["processor_ms"] / each["without"]["processor_ms"] for each in measured),
            "p99_ms": median(each[name]["p99_ms"] - each["without"]["p99_ms"] for each in measured),
            "p50_ms": median(each[name]["p50_ms"] - each["without"]["p50_ms"] for each in measured),
        }
        for name in servers
        if name != "without"
    }
    return {"rounds": measured, "compared": compared}


def _processor(server: Served) -> float:
    """Seconds of processor that a server has taken so far: what other work on the machine does not change."""
    times = psutil.Process(server._process.pid).cpu_times()
    return times.user + times.system


def _words(name: str, figures: dict[str, float]) -> str:
    speed, middle, tail = (figures[key] for key in ("per_second", "p50_ms", "p99_ms"))
    return f"{name} {speed:.0f} texts/s, one text p50 {middle:.1f} p99 {tail:.1f} ms"


def main() -> None:
    """Prints the figures, writes them to benchmarks/results, and fails where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=8.0)
    arguments = parser.parse_args()
    task = configs.load(arguments.config)
    version = Path(releases.read(task.serving_folder)[-1].path)
    evaluation = finished.newest_evaluation(task.root_folder)
    texts = pq.read_table(evaluation / "predictions-test.parquet", columns=["text"])["text"].to_pylist()
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        file = Path(scratch) / "texts.json"
        file.write_text(json.dumps(texts))
        servers = {}
        for name, flags in FLAGS.items():
            folder = [] if name == "without" else [f"--records_folder={scratch}/{name}"]
            servers[name] = Served(version, file, Path(scratch) / f"{name}.log", *folder, *flags)
            stack.callback(servers[name].close)
        figures = measure(servers, arguments.rounds, arguments.seconds)
        stack.close()
        for name in figures["compared"]:
            parts = [part for _, part in record_files.parts(Path(scratch) / name)]
            figures["compared"][name]["rows"] = sum(pq.ParquetFile(part).metadata.num_rows for part in parts)
            figures["compared"][name]["bytes"] = sum(part.stat().st_size for part in parts)
    records = figures["compared"]["records"]
    passed = records["throughput"] >= THROUGHPUT and records["p99_ms"] <= TAIL_MS
    for name, each in figures["compared"].items():
        print(
            f"{name}: throughput x{each['throughput']:.3f}, processor x{each['processor']:.3f}, "
            f"p50 {each['p50_ms']:+.2f} ms, p99 {each['p99_ms']:+.2f} ms; "
            f"{each['rows']:,} records, {each['bytes'] / max(each['rows'], 1):.0f} bytes each"
        )
    print("figures:", write_result(f"records-{arguments.config.stem}", figures | {"passed": passed}))
    print("bars held" if passed else "a bar is missed")
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()
