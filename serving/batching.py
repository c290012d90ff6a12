"""Dynamic batching after TF Serving's: requests for the same tensors share one run of the graph.

A batch is run when a thread is free and it is full, or its oldest request has waited for `batch_timeout_micros`.
https://github.com/tensorflow/serving/blob/master/tensorflow_serving/batching/README.md
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections import deque
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import grpc
import numpy as np

from bertline.errors import UserError
from bertline.serving.calls import Call
from bertline.serving.configuration import BatchingParameters
from bertline.serving.errors import Overloaded, RequestError, invalid
from bertline.serving.metrics import Metrics

if TYPE_CHECKING:
    from bertline.serving.servable import Servable

# Parameters for which the file's message distinguishes absent from zero.
_WRAPPED = (
    "max_batch_size",
    "batch_timeout_micros",
    "max_enqueued_batches",
    "num_batch_threads",
    "enable_large_batch_splitting",
    "max_execution_batch_size",
)


@dataclass(frozen=True)
class BatchingOptions:
    """TF Serving's batching parameters, with its defaults.

    Args:
        max_batch_size: most rows in a request, and in a batch unless it is split.
        batch_timeout_micros: how long a request waits for others before a batch that is not full runs.
        max_enqueued_batches: most full batches that wait in a queue; a request beyond them is refused.
        num_batch_threads: how many batches run at the same time.
        allowed_batch_sizes: a batch is padded to the next of these by repeating its first row; () does not pad.
        pad_variable_length_inputs: rows of different shapes share a batch, each padded with its first value.
        enable_large_batch_splitting: requests are split into runs of max_execution_batch_size rows.
        max_execution_batch_size: with splitting, the most rows in one run; None for max_batch_size.

    Raises:
        UserError: parameters that contradict each other.
    """

    max_batch_size: int = 1000
    batch_timeout_micros: int = 0
    max_enqueued_batches: int = 10
    num_batch_threads: int = field(default_factory=lambda: os.cpu_count() or 1)
    allowed_batch_sizes: tuple[int, ...] = ()
    pad_variable_length_inputs: bool = False
    enable_large_batch_splitting: bool = False
    max_execution_batch_size: int | None = None

    def __post_init__(self):
        for name in ("max_batch_size", "max_enqueued_batches", "num_batch_threads"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.batch_timeout_micros < 0:
            raise UserError(f"batch_timeout_micros must not be negative, and is {self.batch_timeout_micros}")
        if not 1 <= self.run_size <= self.max_batch_size:
            raise UserError(f"max_execution_batch_size must be between 1 and max_batch_size, {self.max_batch_size}")
        allowed = self.allowed_batch_sizes
        if list(allowed) != sorted(set(allowed)) or (allowed and allowed[0] < 1):
            raise UserError(f"allowed_batch_sizes must grow from one to the next: {list(allowed)}")
        if allowed and allowed[-1] != self.run_size:
            raise UserError(
                f"the last of allowed_batch_sizes, {allowed[-1]}, must be the largest batch, {self.run_size}"
            )

    @classmethod
    def of(cls, parameters: BatchingParameters) -> BatchingOptions:
        """The options in a file's message, with TF Serving's defaults for what it leaves out."""
        values = {name: getattr(parameters, name).value for name in _WRAPPED if parameters.HasField(name)}
        return cls(
            **values,
            allowed_batch_sizes=tuple(parameters.allowed_batch_sizes),
            pad_variable_length_inputs=parameters.pad_variable_length_inputs,
        )

    @property
    def run_size(self) -> int:
        """Most rows in one run of the graph."""
        if self.enable_large_batch_splitting and self.max_execution_batch_size is not None:
            return self.max_execution_batch_size
        return self.max_batch_size

    def filled(self, rows: int) -> int:
        """The size that a batch of `rows` rows is padded to."""
        return next((size for size in self.allowed_batch_sizes if size >= rows > 0), rows)


@dataclass(frozen=True, eq=False)
class _Task:
    """A request's rows, or a part of them, that wait for their turn."""

    call: Call
    result: asyncio.Future
    since: float  # loop time


class _Queue:
    """Tasks that may share a batch: same servable, same tensors and, unless padded, same shape per row."""

    def __init__(self, servable: Servable, signature: str):
        self.servable = servable
        self.signature = signature
        self.tasks: deque[_Task] = deque()
        self.rows = 0

    def add(self, task: _Task) -> None:
        self.tasks.append(task)
        self.rows += task.call.rows

    def take(self, most: int) -> list[_Task]:
        """The oldest tasks that fit in a batch of `most` rows."""
        batch: list[_Task] = []
        rows = 0
        while self.tasks and rows + self.tasks[0].call.rows <= most:
            batch.append(self.tasks.popleft())
            rows += batch[-1].call.rows
        self.rows -= rows
        return batch

    def discard(self, task: _Task) -> None:
        """Drops a task whose caller is gone, if it is still waiting."""
        if task in self.tasks:
            self.tasks.remove(task)
            self.rows -= task.call.rows


class Batcher:
    """Runs calls in batches. All methods are for the event loop's thread.

    Args:
        options: sizes, times and threads.
        metrics: counts batches and the queue's length.
    """

    def __init__(self, options: BatchingOptions, metrics: Metrics):
        self.options = options
        self._metrics = metrics
        self._queues: dict[tuple, _Queue] = {}
        # Executors of one thread each. The one that ran last goes first: its core's caches still hold the model.
        self._threads = [ThreadPoolExecutor(1, f"batch-{number}") for number in range(options.num_batch_threads)]
        self._free = [*self._threads]
        self._wake: asyncio.TimerHandle | None = None
        metrics.watch_queue(self.waiting)

    def waiting(self) -> int:
        """Requests in the queues."""
        return sum(len(queue.tasks) for queue in list(self._queues.values()))

    async def run(self, servable: Servable, signature: str, call: Call) -> dict[str, np.ndarray]:
        """The outputs of a call, computed in one batch with others. Cancelling the caller removes it from the queue.

        Args:
            servable: runs it; the caller keeps it loaded.
            signature: its name, for the metrics.
            call: feeds with the same number of rows each.

        Raises:
            RequestError: INVALID_ARGUMENT for feeds of different numbers of rows or more than a batch holds; what the
                graph says; Overloaded, UNAVAILABLE, when the queue is full.
        """
        rows = call.rows
        if any(feed.shape[0] != rows for feed in call.feeds.values()):
            sizes = sorted({feed.shape[0] for feed in call.feeds.values()})
            raise invalid(f"Batching session Run() input tensors must have equal 0th-dimension size, and have {sizes}")
        if rows > self.options.max_batch_size:
            raise invalid(
                f"Task size {rows} is larger than maximum input batch size {self.options.max_batch_size}; send the "
                "rows in several requests"
            )
        queue = self._queue(servable, signature, call)
        if queue.rows + rows > self.options.max_enqueued_batches * self.options.run_size:
            raise Overloaded(
                grpc.StatusCode.UNAVAILABLE,
                "The batch scheduling queue to which this task was submitted is full; try again shortly "
                f"(max_enqueued_batches is {self.options.max_enqueued_batches})",
            )
        return _joined(await self._enqueue(queue, _parts(call, self.options.run_size)))

    def close(self) -> None:
        """Ends the threads once their batches are done."""
        if self._wake:
            self._wake.cancel()
        for thread in self._threads:
            thread.shutdown(wait=False)

    async def _enqueue(self, queue: _Queue, parts: list[Call]) -> list[dict[str, np.ndarray]]:
        loop = asyncio.get_running_loop()
        tasks = [_Task(part, loop.create_future(), loop.time()) for part in parts]
        for task in tasks:
            queue.add(task)
        self._dispatch()
        try:
            return await asyncio.gather(*(task.result for task in tasks))
        finally:
            for task in tasks:
                if task.result.cancelled() or not task.result.done():
                    queue.discard(task)

    def _queue(self, servable: Servable, signature: str, call: Call) -> _Queue:
        pad = self.options.pad_variable_length_inputs
        shapes = tuple(feed.ndim if pad else feed.shape[1:] for feed in call.feeds.values())
        key = id(servable), tuple(call.feeds), call.fetches, shapes
        if key not in self._queues:
            self._queues[key] = _Queue(servable, signature)
        return self._queues[key]

    def _dispatch(self) -> None:
        """Starts batches while there are free threads, and sets a timer for the next batch that will be due."""
        if not self._free:
            return  # the next thread to finish dispatches again
        now = asyncio.get_running_loop().time()
        while self._free:
            ready = [queue for queue in self._queues.values() if queue.tasks and self._due(queue) <= now]
            if not ready:
                break
            # The one whose oldest request has waited longest, so that no model starves another.
            queue = min(ready, key=lambda queue: queue.tasks[0].since)
            self._start(queue)
        self._queues = {key: queue for key, queue in self._queues.items() if queue.tasks}
        self._set_clock(now)

    def _due(self, queue: _Queue) -> float:
        """Loop time at which the queue's next batch may run."""
        if queue.rows >= self.options.run_size:
            return 0.0
        return queue.tasks[0].since + self.options.batch_timeout_micros / 1e6

    def _set_clock(self, now: float) -> None:
        if self._wake:
            self._wake.cancel()
            self._wake = None
        due = min((self._due(queue) for queue in self._queues.values() if queue.tasks), default=None)
        if due is not None and due > now:
            self._wake = asyncio.get_running_loop().call_at(due, self._dispatch)

    def _start(self, queue: _Queue) -> None:
        batch = queue.take(self.options.run_size)
        loop = asyncio.get_running_loop()
        rows = sum(task.call.rows for task in batch)
        oldest = loop.time() - batch[0].since
        self._metrics.observe_batch(
            queue.servable.model, queue.signature, rows, self.options.filled(rows) - rows, oldest
        )
        thread = self._free.pop()
        work = thread.submit(_run_batch, queue.servable, [task.call for task in batch], self.options)
        work.add_done_callback(lambda done: loop.call_soon_threadsafe(self._finish, thread, batch, done.result()))

    def _finish(
        self, thread: ThreadPoolExecutor, batch: list[_Task], outcomes: list[dict[str, np.ndarray] | BaseException]
    ) -> None:
        self._free.append(thread)
        self._dispatch()  # first, so that the thread works while the answers are written
        for task, outcome in zip(batch, outcomes, strict=True):
            if task.result.done():
                continue
            if isinstance(outcome, BaseException):
                task.result.set_exception(outcome)
            else:
                task.result.set_result(outcome)


# === In a batch's thread ===


def _run_batch(
    servable: Servable, calls: list[Call], options: BatchingOptions
) -> list[dict[str, np.ndarray] | BaseException]:
    """The outcome of each call: its outputs or its error."""
    try:
        return _run_together(servable, calls, options)
    except RequestError as error:
        if len(calls) == 1:
            return [error]
        # One caller's bad row must not fail the others. Halves find it in 13 runs among 64 calls, one by one in 65.
        half = len(calls) // 2
        return _run_batch(servable, calls[:half], options) + _run_batch(servable, calls[half:], options)
    except Exception as error:  # whatever it is, every caller gets it; the service logs it with its traceback
        return [error] * len(calls)


def _run_together(servable: Servable, calls: list[Call], options: BatchingOptions) -> list[dict[str, np.ndarray]]:
    sizes = [call.rows for call in calls]
    rows = sum(sizes)
    fill = options.filled(rows) - rows
    feeds = {}
    for name in calls[0].feeds:
        parts = [call.feeds[name] for call in calls]
        if options.pad_variable_length_inputs:
            parts = _padded(parts)
        if fill:
            first = next(part[:1] for part in parts if len(part))
            parts.append(np.repeat(first, fill, axis=0))
        feeds[name] = np.concatenate(parts) if len(parts) > 1 else parts[0]
    outputs = servable.run(Call(feeds, calls[0].fetches))
    for name, value in outputs.items():
        if value.ndim == 0 or value.shape[0] != rows + fill:
            raise RequestError(
                grpc.StatusCode.FAILED_PRECONDITION,
                "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension sizes of the input "
                f"tensors: {name} has shape {list(value.shape)} for {rows + fill} rows; serve it without batching",
            )
    bounds = np.cumsum([0, *sizes])
    return [{name: value[begin:end] for name, value in outputs.items()} for begin, end in itertools.pairwise(bounds)]


def _padded(parts: list[np.ndarray]) -> list[np.ndarray]:
    """Arrays of one rank, each padded to the largest size in every dimension except the first."""
    largest = np.max([part.shape[1:] for part in parts], axis=0, initial=0)
    padded = []
    for part in parts:
        widths = [(0, 0), *((0, int(size) - own) for size, own in zip(largest, part.shape[1:], strict=True))]
        if any(after for _, after in widths):
            if not part.size:
                raise invalid("Got empty tensor in batch of non-empty tensors.")
            part = np.pad(part, widths, constant_values=part.flat[0])
        padded.append(part)
    return padded


def _parts(call: Call, most: int) -> list[Call]:
    """A call in pieces of at most `most` rows."""
    starts = range(0, max(call.rows, 1), most)
    if len(starts) == 1:
        return [call]
    return [
        Call({name: feed[start : start + most] for name, feed in call.feeds.items()}, call.fetches) for start in starts
    ]


def _joined(parts: Iterable[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    parts = list(parts)
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
