"""What gRPC's Python costs the embedded server: `python -m benchmarks.grpc_floor`.

Servers that answer a fixed message, so that nothing but gRPC is left: grpc.aio, which the embedded server uses, and
the threads of the synchronous API, each with grpcio's event engine and with its older poller.
Round by round they take turns under the same client. The figure is the server's processor time per call.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from itertools import product
from statistics import median

import grpc
import grpc.aio
import numpy as np
import psutil

from benchmarks.peer import BENCHMARKS, write_result

METHOD = "/bertline.Floor/Echo"
ANSWER = b"x" * 200  # bytes, as many as Predict answers to one text of three labels
THREADS = 16
CLIENTS = 64
# grpcio's names for what its event engine may do instead of its older poller; a minus before a name switches it off.
ENGINE = ("event_engine_client", "event_engine_listener", "event_engine_callback_cq")
POLLERS = {"event engine": ",".join(ENGINE), "older poller": ",".join(f"-{name}" for name in ENGINE)}
WAYS = {f"{api}, {poller}": (api, poller) for api, poller in product(("aio", "threads"), POLLERS)}


async def serve_aio() -> None:
    """Answers until the process is ended; prints the port."""

    async def answer(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        return ANSWER

    server = grpc.aio.server()
    port = _prepare(server, answer)
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


def serve_threads() -> None:
    """The same by the synchronous API."""
    server = grpc.server(futures.ThreadPoolExecutor(THREADS))
    port = _prepare(server, lambda request, context: ANSWER)
    server.start()
    print(port, flush=True)
    server.wait_for_termination()


def _prepare(server, answer) -> int:
    handlers = {"Echo": grpc.unary_unary_rpc_method_handler(answer)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bertline.Floor", handlers),))
    return server.add_insecure_port("127.0.0.1:0")


@contextmanager
def server_of(api: str, poller: str) -> Iterator[tuple[psutil.Process, str]]:
    """A server in a process of its own, and its address."""
    environment = {**os.environ, "GRPC_EXPERIMENTS": POLLERS[poller]}
    command = [sys.executable, "-m", "benchmarks.grpc_floor", "--serve", api]
    process = subprocess.Popen(command, cwd=BENCHMARKS.parent, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        yield psutil.Process(process.pid), f"127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.kill()
        process.wait()


def one_by_one(address: str, calls: int) -> float:
    """The median of calls one after the other, in milliseconds."""
    with grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        echo, took = channel.unary_unary(METHOD), []
        for _ in range(calls):
            began = time.perf_counter()
            echo(ANSWER)
            took.append(1000 * (time.perf_counter() - began))
    return float(np.median(took))


async def many(address: str, seconds: float) -> int:
    """How many calls a number of clients, each with a connection of its own, had answered."""
    ends = time.perf_counter() + seconds

    async def client() -> int:
        answered = 0
        async with grpc.aio.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            echo = channel.unary_unary(METHOD)
            while time.perf_counter() < ends:
                await echo(ANSWER)
                answered += 1
        return answered

    return sum(await asyncio.gather(*(client() for _ in range(CLIENTS))))


def measure(way: str, calls: int, seconds: float) -> dict[str, float]:
    """One round of a way: milliseconds of a lone call, and the server's processor milliseconds per call under load."""
    with server_of(*WAYS[way]) as (process, address):
        one_by_one(address, 50)
        alone = one_by_one(address, calls)
        before = process.cpu_times()
        answered = asyncio.run(many(address, seconds))
        after = process.cpu_times()
    spent = after.user + after.system - before.user - before.system
    return {"alone_ms": alone, "processor_ms": 1000 * spent / answered, "per_second": answered / seconds}


def main() -> int:
    """Measures each way in turn and prints the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--calls", type=int, default=500, help="one after the other, per round")
    parser.add_argument("--seconds", type=float, default=3, help="of each round of 64 clients")
    parser.add_argument("--serve", choices=("aio", "threads"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        asyncio.run(serve_aio()) if arguments.serve == "aio" else serve_threads()
        return 0
    rounds: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(arguments.rounds):
        for way, measured in rounds.items():
            measured.append(measure(way, arguments.calls, arguments.seconds))
    result = {}
    for way, measured in rounds.items():
        figures = {name: median(each[name] for each in measured) for name in measured[0]}
        result[way] = figures
        print(
            f"{way:<24} a lone call {figures['alone_ms']:.2f} ms, {figures['processor_ms']:.2f} ms of the server's "
            f"processor time a call, {figures['per_second']:.0f} calls/s"
        )
    write_result("grpc_floor", result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
