"""The embedded server against the same SavedModel called in process: `python -m benchmarks.serving CONFIG`.

Takes the newest pushed version of a finished run and the texts of its test rows, and serves it as `bertline serve`
does. Server, clients and the model in process are separate processes that take turns, round by round. In process the
model is called in two ways (see benchmarks/in_process.py). The bars compare with the one that has the server's own
settings, so what is missing is the cost of gRPC, Python and the clients. TensorFlow's documented way stands beside it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from benchmarks import finished
from benchmarks.peer import BENCHMARKS, RESULTS, write_result
from bertline.errors import UserError
from bertline.pipeline import config as configs
from bertline.pipeline.serve import SHIPPED
from bertline.serving import real, releases
from bertline.serving.client import Client
from bertline.serving.flags import FREE_PORT

MODEL = "model"
WAYS = ("documented", "served")  # to call the model in process: benchmarks/in_process.py
BATCH = 32
CLIENTS = 64
ROWS = 8  # texts per request of the clients that send several
SHIPPED_ROWS = 1000  # texts per call of bertline's own client, which makes requests of 32
LOADS = {"throughput": 1, "throughput_rows": ROWS, "throughput_shipped": SHIPPED_ROWS}  # texts per request, or call
SINGLES = 200  # texts sent one by one per round
SWAP_CLIENTS = 8
SWAP_SECONDS = 60  # after which a pushed version counts as not taken up
OVERLOAD_DEADLINE = 5.0
CLOCK = 1.05  # gRPC keeps the deadline; the clients' own clock runs on until they are scheduled
ALLOWED = {"OK", "RESOURCE_EXHAUSTED", "UNAVAILABLE", "DEADLINE_EXCEEDED"}

# The bars: what the serving part of bertline has to hold.
THROUGHPUT = 0.85  # times the examples per second in process with the server's settings, sorted, in batches of 32
LATENCY_MS = 2.0  # over the in-process call with the server's settings, p50
TAIL = 3.0  # p99 over p50
MEMORY = 1.05  # of the server: after the overload over 10 s into it
OVERLOAD = 0.9  # of the requests per second that were to be sent: fewer would be no overload


class InProcess:
    """The model in a process of its own, called in one of benchmarks/in_process.py's ways."""

    def __init__(self, version: Path, texts: Path, way: str):
        command = [sys.executable, "-m", "benchmarks.in_process", str(version), str(texts), way]
        self._process = subprocess.Popen(
            command, cwd=BENCHMARKS.parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True,
        )  # fmt: skip
        self._process.stdout.readline()

    def measure(self, texts: int, batch: int) -> dict[str, float]:
        """Examples per second and milliseconds per call, over a number of texts in batches."""
        self._process.stdin.write(json.dumps({"texts": texts, "batch": batch}) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        """Ends the process."""
        self._process.stdin.close()
        self._process.wait()


Models = dict[str, InProcess]  # by the way they are called


class Served:
    """The server in a process of its own, on a folder that versions can be pushed to."""

    def __init__(self, version: Path, texts: Path, log: Path, *more_flags: str):
        self._version, self._texts = version, texts
        self._scratch = Path(tempfile.mkdtemp(prefix="bertline-bench-"))
        self.push(1)
        batching = SHIPPED / "batching.config"
        flags = real.flags(self._scratch / "serving", MODEL, FREE_PORT, batching_parameters_file=batching)
        command = [sys.executable, "-P", "-m", "bertline.serving.server", *flags, *more_flags]
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                command, cwd=BENCHMARKS.parent, stdout=subprocess.PIPE, stderr=errors, text=True
            )
        *_, self.address = self._process.stdout.readline().split()

    def push(self, version: int) -> None:
        """Adds a complete version to the folder in one step."""
        hidden = self._scratch / "serving" / f".unfinished-{version}"
        shutil.copytree(self._version, hidden)
        hidden.rename(self._scratch / "serving" / str(version))

    def load(self, *flags: str) -> dict[str, Any]:
        """The figures of benchmarks/clients.py."""
        command = [sys.executable, "-m", "benchmarks.clients", self.address, MODEL, str(self._texts), *flags]
        ran = subprocess.run(command, cwd=BENCHMARKS.parent, capture_output=True, text=True, check=True)
        return json.loads(ran.stdout)

    def version(self) -> int:
        """The version that answers."""
        with Client(self.address, MODEL) as client:
            return client.predict(["which version?"])[0].version

    def processor(self) -> float:
        """Seconds of processor that it has taken so far: what other work on the machine does not change."""
        return processor_of(self._process.pid)

    def memory(self) -> int:
        """Resident bytes of the server."""
        return psutil.Process(self._process.pid).memory_info().rss

    def alive(self) -> bool:
        """Whether the server runs."""
        return self._process.poll() is None

    def close(self) -> None:
        """Ends the server."""
        self._process.terminate()
        self._process.wait()
        shutil.rmtree(self._scratch)


def processor_of(process: int) -> float:
    """Seconds of processor that a process has taken so far."""
    times = psutil.Process(process).cpu_times()
    return times.user + times.system


def throughput(models: Models, server: Served, rounds: int, seconds: float, texts: int, rows: int) -> dict[str, Any]:
    """Examples per second over those of sorted batches of 32 in process.

    Of 64 clients with `rows` texts per request; with SHIPPED_ROWS, of bertline's own client with so many per call.
    """
    server.load("--seconds=3")
    for model in models.values():
        model.measure(BATCH * 10, BATCH)
    measured = []
    for number in range(1, rounds + 1):
        inside = {way: model.measure(texts, BATCH)["per_second"] for way, model in models.items()}
        if rows == SHIPPED_ROWS:
            served = server.load("--shipped", f"--seconds={seconds}", f"--rows={min(rows, texts)}")
        else:
            served = server.load(f"--clients={CLIENTS}", f"--seconds={seconds}", f"--rows={rows}")
        ratios = {way: served["per_second"] / speed for way, speed in inside.items()}
        measured.append({"in_process": inside, "served": served["per_second"], "ratios": ratios})
        print(
            f"  round {number}: in process {inside['documented']:.0f}, with the server's settings "
            f"{inside['served']:.0f}; served {served['per_second']:.0f} examples/s, "
            f"ratios {ratios['documented']:.2f} and {ratios['served']:.2f}",
            flush=True,
        )
    return {
        "rounds": measured,
        "ratios": {way: median(figures["ratios"][way] for figures in measured) for way in models},
    }


def latency(models: Models, server: Served, rounds: int) -> dict[str, Any]:
    """Milliseconds of one text from one client, over the in-process call."""
    measured = []
    for number in range(1, rounds + 1):
        inside = {way: model.measure(SINGLES, 1)["p50_ms"] for way, model in models.items()}
        served = server.load("--clients=1", f"--requests={SINGLES}", "--seconds=120")
        extra = {way: served["p50_ms"] - p50 for way, p50 in inside.items()}
        measured.append({"in_process": inside, "served": served, "extra_ms": extra})
        print(
            f"  round {number}: in process p50 {inside['documented']:.1f} ms, with the server's settings "
            f"{inside['served']:.1f}; served p50 {served['p50_ms']:.1f} p99 {served['p99_ms']:.1f} ms: "
            f"{extra['documented']:+.2f} and {extra['served']:+.2f} ms",
            flush=True,
        )
    tails = [figures["served"]["p99_ms"] / figures["served"]["p50_ms"] for figures in measured]
    extra = {way: median(figures["extra_ms"][way] for figures in measured) for way in models}
    return {"rounds": measured, "extra_ms": extra, "tail": median(tails)}


def overload(server: Served, sustainable: float, seconds: float) -> dict[str, Any]:
    """Sends twice the sustainable load: every request must be answered, and memory must not grow."""
    memories, done = [], threading.Event()

    def watch() -> None:
        while not done.wait(1):
            memories.append(server.memory())

    watcher = threading.Thread(target=watch)
    watcher.start()
    figures = server.load(f"--rate={2 * sustainable}", f"--seconds={seconds}", f"--deadline={OVERLOAD_DEADLINE}")
    done.set()
    watcher.join()
    growth = max(memories[10:], default=memories[-1]) / memories[min(10, len(memories) - 1)]
    figures |= {"rate": 2 * sustainable, "memory_growth": growth, "alive": server.alive()}
    print(
        f"  {figures['sent_per_second']:.0f} requests/s of {2 * sustainable:.0f} to be sent for {seconds:.0f} s: "
        f"{figures['statuses']}, answered in p50 "
        f"{figures['p50_ms']:.0f} ms, at most {figures['max_ms']:.0f} ms; memory x{growth:.3f}",
        flush=True,
    )
    return figures


def swap(server: Served) -> dict[str, Any]:
    """A new version appears under load: how many requests fail, and the p99 while it loads and takes over."""
    calls = server._scratch / "calls.json"
    pushed: dict[str, float] = {}

    def push() -> None:
        time.sleep(6)
        pushed["at"] = time.time()
        server.push(2)
        while server.version() != 2 and time.time() < pushed["at"] + SWAP_SECONDS:
            time.sleep(0.2)
        pushed["taken"] = time.time()

    pusher = threading.Thread(target=push)
    pusher.start()
    figures = server.load(f"--clients={SWAP_CLIENTS}", "--seconds=16", f"--calls={calls}")
    pusher.join()
    taken = [(sent, 1000 * took) for sent, took, status in json.loads(calls.read_text()) if status == "OK"]
    before = sorted(took for sent, took in taken if sent < pushed["at"])
    during = sorted(took for sent, took in taken if pushed["at"] <= sent < pushed["taken"])
    failed = sum(count for status, count in figures["statuses"].items() if status != "OK")
    result = {
        "failed": failed,
        "before_p99_ms": before[int(len(before) * 0.99)],
        "during_p99_ms": during[int(len(during) * 0.99)],
        "takeover_seconds": pushed["taken"] - pushed["at"],
        "version": server.version(),
    }
    print(
        f"  {SWAP_CLIENTS} clients: {failed} failed of {len(taken) + failed}; p99 {result['before_p99_ms']:.0f} ms "
        f"before, {result['during_p99_ms']:.0f} ms while the new version loads and takes over, "
        f"{result['takeover_seconds']:.1f} s",
        flush=True,
    )
    return result


def verdicts(result: dict[str, Any]) -> list[tuple[str, bool]]:
    """Each bar, and whether it holds."""
    bars = []
    for key, rows in LOADS.items():
        if key in result:
            ratio, documented = result[key]["ratios"]["served"], result[key]["ratios"]["documented"]
            load = "bertline's client" if rows == SHIPPED_ROWS else f"texts per request: {rows}"
            words = f"throughput over in process {ratio:.2f}, at least {THROUGHPUT}; {load}"
            bars.append((f"{words} (over TensorFlow's documented way {documented:.2f})", ratio >= THROUGHPUT))
    if "latency" in result:
        extra, tail = result["latency"]["extra_ms"]["served"], result["latency"]["tail"]
        documented = result["latency"]["extra_ms"]["documented"]
        words = f"p50 over in process {extra:+.2f} ms, at most {LATENCY_MS:+}"
        bars.append((f"{words} (over TensorFlow's documented way {documented:+.2f})", extra <= LATENCY_MS))
        bars.append((f"p99 over p50 {tail:.1f}, at most {TAIL}", tail <= TAIL))
    if "overload" in result:
        over = result["overload"]
        statuses, growth, slowest = set(over["statuses"]), over["memory_growth"], over["max_ms"]
        reached = over["sent_per_second"] / over["rate"]
        bars.append((f"overload: {reached:.2f} of the rate was sent, at least {OVERLOAD}", reached >= OVERLOAD))
        bars.append((f"overload: alive, answers {sorted(statuses)}", over["alive"] and statuses <= ALLOWED))
        bars.append((f"overload: memory x{growth:.3f}, at most {MEMORY}", growth <= MEMORY))
        within = slowest <= 1000 * OVERLOAD_DEADLINE * CLOCK
        bars.append((f"overload: answered within the deadline of {OVERLOAD_DEADLINE:g} s", within))
    if "swap" in result:
        bars.append((f"swap: {result['swap']['failed']} requests failed, none may", not result["swap"]["failed"]))
        version = result["swap"]["version"]
        bars.append((f"swap: version {version} answers, it must be 2", version == 2))
    return bars


@contextmanager
def _all(config: configs.Config) -> Iterator[tuple[Models, Served, int]]:
    """The model in process, the server, and the number of texts.

    Raises:
        UserError: the config has no finished run, or none that was pushed.
    """
    import pyarrow.parquet as pq

    evaluation = finished.newest_evaluation(config.root_folder)
    pushed = releases.read(config.serving_folder)
    if not pushed:
        raise UserError(f"{config.serving_folder} holds no pushed version; start a run of the config.")
    RESULTS.mkdir(parents=True, exist_ok=True)
    texts = RESULTS / f"texts-{config.name}.json"
    rows = pq.read_table(evaluation / "predictions-test.parquet", columns=["text"]).column("text").to_pylist()
    texts.write_text(json.dumps(rows))
    models = {way: InProcess(Path(pushed[-1].path), texts, way) for way in WAYS}
    server = Served(Path(pushed[-1].path), texts, RESULTS / "server.log")
    try:
        yield models, server, len(rows)
    finally:
        for model in models.values():
            model.close()
        server.close()


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10, help="of each round of 64 clients")
    parser.add_argument("--overload-seconds", type=float, default=60)
    parser.add_argument("--only", choices=["throughput", "latency", "overload", "swap"], action="append")
    arguments = parser.parse_args()
    wanted = set(arguments.only or ["throughput", "latency", "overload", "swap"])
    result: dict[str, Any] = {}
    try:
        with _all(configs.load(arguments.config)) as (models, server, texts):
            if wanted & {"throughput", "overload"}:
                for key, rows in LOADS.items():
                    load = "bertline's client" if rows == SHIPPED_ROWS else f"{CLIENTS} clients, {rows} per request"
                    print(f"throughput: {load}; in process: batches of {BATCH}")
                    result[key] = throughput(models, server, arguments.rounds, arguments.seconds, texts, rows)
            if "latency" in wanted:
                print("latency: one client, one text")
                result["latency"] = latency(models, server, arguments.rounds)
            if "overload" in wanted:
                print("overload: twice the sustainable load")
                sustainable = median(figures["served"] for figures in result["throughput"]["rounds"])
                result["overload"] = overload(server, sustainable, arguments.overload_seconds)
            if "swap" in wanted:
                print("swap: a new version under load")
                result["swap"] = swap(server)
    except UserError as error:
        print(f"serving: {error}", file=sys.stderr)
        return 2
    print("figures:", write_result(f"serving-{arguments.config.stem}", result))
    for words, holds in verdicts(result):
        print(f"{'holds' if holds else 'FAILS'}  {words}")
    return 0 if all(holds for _, holds in verdicts(result)) else 1


if __name__ == "__main__":
    sys.exit(main())
