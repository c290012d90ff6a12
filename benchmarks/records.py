"""What keeping records costs the server: `python -m benchmarks.records CONFIG`.

Serves the newest pushed version of a finished run four times: without records, with records, with records and their
masked texts, and without records behind a log proxy that keeps them. Many clients ask each in turn, round by round.
Then one client asks all four one text after the other, so that whatever else the machine does meets all of them. The
bars compare the second with the first.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from benchmarks import finished
from benchmarks.peer import write_result
from benchmarks.serving import BENCHMARKS, CLIENTS, MODEL, Served, processor_of
from bertline.pipeline import config as configs
from bertline.serving import record_files, releases
from bertline.serving.client import Client

# The bars: what records may cost.
THROUGHPUT = 0.95  # times the texts per second without records
TAIL_MS = 0.5  # more than without them at p99 of one text from one client

WITHOUT = "without"
DRAWS = 2000  # of the bootstrap


class Proxied(Served):
    """A server without records behind a log proxy that keeps them."""

    def __init__(self, version: Path, texts: Path, log: Path, folder: str):
        super().__init__(version, texts, log)
        command = [sys.executable, "-P", "-m", "bertline.serving.log_proxy", "--port=-1"]
        command += [f"--upstream={self.address}", f"--records_folder={folder}"]
        with log.open("ab") as errors:
            self._proxy = subprocess.Popen(
                command, cwd=BENCHMARKS.parent, stdout=subprocess.PIPE, stderr=errors, text=True
            )
        self.address = self._proxy.stdout.readline().split()[1]

    def processor(self) -> float:
        """Seconds of processor that both have taken so far."""
        return super().processor() + processor_of(self._proxy.pid)

    def close(self) -> None:
        """Ends both."""
        self._proxy.terminate()
        self._proxy.wait()
        super().close()


def many_clients(servers: dict[str, Served], rounds: int, seconds: float) -> list[dict[str, dict[str, float]]]:
    """Texts per second of many clients, and milliseconds of processor per text, of each server, round by round."""
    for server in servers.values():
        server.load("--seconds=3")
    measured = []
    for number in range(rounds):
        figures = {}
        # The order turns round, since the machine's own speed drifts.
        for name in list(servers)[:: 1 if number % 2 else -1]:
            before = servers[name].processor()
            many = servers[name].load(f"--clients={CLIENTS}", f"--seconds={seconds}")
            busy = servers[name].processor() - before
            cost = 1000 * busy / max(many["statuses"].get("OK", 0), 1)
            figures[name] = {"per_second": many["per_second"], "processor_ms": cost}
        measured.append(figures)
        words = "; ".join(f"{name} {figures[name]['per_second']:.0f}" for name in servers)
        print(f"  round {number + 1}, texts/s: {words}", flush=True)
    return measured


def one_client(servers: dict[str, Served], texts: list[str], singles: int) -> dict[str, np.ndarray]:
    """Milliseconds of one text after the other, each sent to all servers in an order that turns round."""
    took: dict[str, list[float]] = {name: [] for name in servers}
    with ExitStack() as stack:
        clients = {name: stack.enter_context(Client(server.address, MODEL)) for name, server in servers.items()}
        orders = itertools.cycle(itertools.permutations(clients))
        for text in itertools.islice(itertools.cycle(texts), singles):
            for name in next(orders):
                began = time.perf_counter()
                clients[name].predict([text])
                took[name].append(1000 * (time.perf_counter() - began))
    return {name: np.array(each) for name, each in took.items()}


def difference(took: np.ndarray, without: np.ndarray, percentile: float) -> dict[str, float]:
    """How much longer, in ms, at a percentile, with a 95% interval by the bootstrap over texts."""
    chance = np.random.default_rng(0)
    drawn = chance.integers(0, len(took), (DRAWS, len(took)))
    several = np.percentile(took[drawn], percentile, axis=1) - np.percentile(without[drawn], percentile, axis=1)
    low, high = np.percentile(several, [2.5, 97.5])
    return {"ms": float(np.percentile(took, percentile) - np.percentile(without, percentile)), "low": low, "high": high}


def compared(rounds: list[dict[str, dict[str, float]]], took: dict[str, np.ndarray], name: str) -> dict[str, Any]:
    """A server's figures beside those of the one without records."""
    return {
        **{
            ratio: median(each[name][key] / each[WITHOUT][key] for each in rounds)
            for ratio, key in (("throughput", "per_second"), ("processor", "processor_ms"))
        },
        "p50": difference(took[name], took[WITHOUT], 50),
        "p99": difference(took[name], took[WITHOUT], 99),
    }


def main() -> None:
    """Prints the figures, writes them to benchmarks/results, and fails where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--singles", type=int, default=2000, help="texts that one client sends to each")
    arguments = parser.parse_args()
    task = configs.load(arguments.config)
    version = Path(releases.read(task.serving_folder)[-1].path)
    evaluation = finished.newest_evaluation(task.root_folder)
    texts = pq.read_table(evaluation / "predictions-test.parquet", columns=["text"])["text"].to_pylist()
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        top, file = Path(scratch), Path(scratch) / "texts.json"
        file.write_text(json.dumps(texts))
        log = top / "servers.log"
        servers = {
            WITHOUT: Served(version, file, log),
            "records": Served(version, file, log, f"--records_folder={top}/records"),
            "texts": Served(version, file, log, f"--records_folder={top}/texts", "--records_texts"),
            "proxy": Proxied(version, file, log, f"{top}/proxy"),
        }
        for server in servers.values():
            stack.callback(server.close)
        rounds = many_clients(servers, arguments.rounds, arguments.seconds)
        took = one_client(servers, texts, arguments.singles)
        stack.close()
        figures = {name: compared(rounds, took, name) for name in servers if name != WITHOUT}
        for name, each in figures.items():
            parts = [part for _, part in record_files.parts(top / name)]
            each["rows"] = sum(pq.ParquetFile(part).metadata.num_rows for part in parts)
            each["bytes"] = sum(part.stat().st_size for part in parts)
    records = figures["records"]
    passed = records["throughput"] >= THROUGHPUT and records["p99"]["ms"] <= TAIL_MS
    for name, each in figures.items():
        later = ", ".join(
            f"{at} {each[at]['ms']:+.2f} ms ({each[at]['low']:+.2f} to {each[at]['high']:+.2f})"
            for at in ("p50", "p99")
        )
        print(
            f"{name}: throughput x{each['throughput']:.3f}, processor x{each['processor']:.3f}, {later}; "
            f"{each['rows']:,} records, {each['bytes'] / max(each['rows'], 1):.0f} bytes each"
        )
    result = {"rounds": rounds, "compared": figures, "passed": passed}
    print("figures:", write_result(f"records-{arguments.config.stem}", result))
    print("bars held" if passed else "a bar is missed")
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()
