"""Load on a server, from a process of its own, for benchmarks/serving.py: prints one JSON line.

Closed: a number of clients, each with its own connection, which sends a request once the last one is answered.
Open: requests at a fixed rate, whatever happens to them. Shipped: bertline's own client, with all texts in a call.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections import Counter
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

import grpc
import numpy as np

from bertline.serving.client import Client
from bertline.serving.protos import PredictRequest

PREDICT = "/tensorflow.serving.PredictionService/Predict"


def requests(file: Path, model: str, rows: int) -> Iterator[bytes]:
    """Requests of `rows` texts, in an endless cycle. They are made beforehand, since the server needs the cores."""
    texts, built = json.loads(file.read_text()), []
    for start in range(0, len(texts) - rows + 1, rows):
        request = PredictRequest()
        request.model_spec.name, request.model_spec.signature_name = model, "text"
        tensor = request.inputs["text"]
        tensor.dtype = 7
        tensor.tensor_shape.dim.add(size=rows)
        tensor.string_val.extend(text.encode() for text in texts[start : start + rows])
        built.append(request.SerializeToString())
    return cycle(built)


class Tally:
    """What happened to each request: (when it was sent, seconds, status)."""

    def __init__(self):
        self.calls: list[tuple[float, float, str]] = []
        self.sent_per_second: float | None = None  # of requests at a rate: what the client really reached

    async def call(self, predict: grpc.aio.UnaryUnaryMultiCallable, request: bytes, deadline: float | None) -> None:
        """Sends a request and notes what happens to it."""
        began = time.time()
        try:
            await predict(request, timeout=deadline)
            status = "OK"
        except grpc.aio.AioRpcError as error:
            status = error.code().name
        self.calls.append((began, time.time() - began, status))

    def figures(self, seconds: float, rows: int) -> dict:
        """Counts by status, texts answered per second, and the latency of answered requests in milliseconds."""
        answered = [1000 * took for _, took, status in self.calls if status == "OK"] or [float("nan")]
        p50, p99 = np.percentile(answered, [50, 99])
        statuses = Counter(status for *_, status in self.calls)
        return {
            "per_second": statuses["OK"] * rows / seconds,
            "p50_ms": p50,
            "p99_ms": p99,
            "max_ms": max(answered),
            "statuses": dict(statuses),
            "sent_per_second": self.sent_per_second,
        }


async def closed(arguments: argparse.Namespace, tally: Tally) -> float:
    """Runs the clients until the seconds or the requests are over; returns the seconds it took."""
    source = requests(arguments.texts, arguments.model, arguments.rows)
    began = time.time()

    async def client() -> None:
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(arguments.address, options) as channel:
            predict = channel.unary_unary(PREDICT)
            while time.time() - began < arguments.seconds and len(tally.calls) < arguments.requests:
                await tally.call(predict, next(source), arguments.deadline)

    await asyncio.gather(*(client() for _ in range(arguments.clients)))
    return time.time() - began


def shipped(arguments: argparse.Namespace) -> dict:
    """Figures of `Client.predict` over all texts, again and again until the seconds are over."""
    texts, took = json.loads(arguments.texts.read_text()), []
    with Client(arguments.address, arguments.model) as client:
        began = time.time()
        while time.time() - began < arguments.seconds:
            since = time.time()
            client.predict(texts[: arguments.rows])
            took.append(time.time() - since)
    return {"per_second": arguments.rows * len(took) / sum(took), "calls": len(took)}


async def opened(arguments: argparse.Namespace, tally: Tally) -> float:
    """Sends requests at a rate; returns the seconds until the last was answered."""
    source = requests(arguments.texts, arguments.model, arguments.rows)
    began = time.time()
    async with grpc.aio.insecure_channel(arguments.address) as channel:
        predict = channel.unary_unary(PREDICT)
        tasks = []
        for number in range(int(arguments.rate * arguments.seconds)):
            await asyncio.sleep(max(began + number / arguments.rate - time.time(), 0))
            tasks.append(asyncio.create_task(tally.call(predict, next(source), arguments.deadline)))
        tally.sent_per_second = len(tasks) / (time.time() - began)
        await asyncio.gather(*tasks)
    return time.time() - began


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address")
    parser.add_argument("model")
    parser.add_argument("texts", type=Path)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--rows", type=int, default=1, help="texts per request")
    parser.add_argument("--rate", type=float, help="requests per second, instead of clients")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--requests", type=float, default=float("inf"))
    parser.add_argument("--deadline", type=float, help="seconds a request may take")
    parser.add_argument("--calls", type=Path, help="file to write every call to: when, seconds, status")
    parser.add_argument("--shipped", action="store_true", help="bertline's own client, with --rows texts per call")
    arguments = parser.parse_args()
    if arguments.shipped:
        print(json.dumps(shipped(arguments)))
        return
    tally = Tally()
    seconds = asyncio.run((opened if arguments.rate else closed)(arguments, tally))
    if arguments.calls:
        arguments.calls.write_text(json.dumps(tally.calls))
    print(json.dumps(tally.figures(seconds, arguments.rows)))


if __name__ == "__main__":
    main()
