"""What the bodies of all requests under way may take: memory by one budget, time in threads of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import grpc

from bertline.serving import json_tensor
from bertline.serving.decoder import APART_BYTES, Decoder
from bertline.serving.errors import Overloaded, RequestError
from bertline.serving.limits import Limits
from bertline.serving.protos import SignatureDef
from bertline.serving.threads import Threads

# Reading so many bytes of texts takes 1 ms, of numbers 5 ms. Larger ones go to a thread, so that the loop stays free.
LOOP_BYTES = 64 << 10
THREADS = 2  # Python runs one at a time; unpacking and numpy's work go on beside it
# A gRPC message tells its size only once it is there. One that takes longer gives its place to those that wait.
PATIENCE_SECONDS = 2.0
ARRIVAL_SECONDS = 30.0  # for a message that nobody else's waits for, as REST has by default

Answer = TypeVar("Answer")


class Bodies:
    """The budget, the threads and the places for messages that arrive. All methods are for one event loop."""

    def __init__(self, limits: Limits):
        self._most = max(limits.max_bytes_in_flight, limits.max_request_bytes)
        self.held = 0  # bytes
        self._places = asyncio.Semaphore(self._most // limits.max_request_bytes)
        self._threads = Threads(THREADS, "bodies")
        self._decoder = Decoder()
        self._apart = Threads(1, "bodies-apart")  # waits for the decoder

    def share(self) -> Share:
        """A context manager: what one request holds of the budget, until the block ends."""
        return Share(self)

    def place(self) -> Place:
        """An async context manager, in which a message of unknown size may arrive."""
        return Place(self._places)

    def take(self, size: int, own: int) -> None:
        """Adds to what is held.

        Args:
            size: bytes.
            own: what the same request holds already. The only request under way is never refused.

        Raises:
            Overloaded: RESOURCE_EXHAUSTED; there is no room for it.
        """
        others = self.held - own
        if others and self.held + size > self._most:
            raise Overloaded(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"the other requests under way hold {others} bytes, and this one needs {own + size}; the most in all "
                f"is {self._most} (max_bytes_in_flight); try again shortly",
            )
        self.held += size

    async def work(self, size: int, work: Callable[..., Answer], *arguments: object) -> Answer:
        """The result of `work`; called in a thread if the size says that it would hold up the loop."""
        if size <= LOOP_BYTES:
            return work(*arguments)
        return await self._threads.run(work, *arguments)

    async def decode(self, body: bytes, request: Any, signatures: Mapping[str, SignatureDef]) -> str:
        """As `json_tensor.fill_request`; a large body in a thread, a very large one in a process of its own."""
        if len(body) <= APART_BYTES:
            return await self.work(len(body), json_tensor.fill_request, body, request, signatures)
        return await self._apart.run(self._decoder.fill, body, request, signatures)

    def close(self) -> None:
        """Ends the threads once their work is done, and the process; work that has not begun is dropped."""
        for threads in (self._threads, self._apart):
            threads.close()
        self._decoder.close()


class Share:
    """What one request holds of the budget: its body as sent, unpacked, and as tensors."""

    __slots__ = ("_bodies", "size")

    def __init__(self, bodies: Bodies):
        self._bodies = bodies
        self.size = 0  # bytes

    def grow(self, size: int) -> None:
        """Takes more of the budget.

        Raises:
            Overloaded: RESOURCE_EXHAUSTED; the requests under way hold all of it.
        """
        self._bodies.take(size, self.size)
        self.size += size

    @contextmanager
    def trying(self) -> Iterator[None]:
        """Gives back what the block took if it fails: the request may be tried again with another version."""
        before = self.size
        try:
            yield
        except BaseException:
            self._bodies.held -= self.size - before
            self.size = before
            raise

    def __enter__(self) -> Share:
        return self

    def __exit__(self, *_: object) -> None:
        self._bodies.held -= self.size
        self.size = 0


class Place:
    """One of the places for messages that arrive. Messages beyond them wait, unread, in their sender's window."""

    def __init__(self, places: asyncio.Semaphore):
        self._places = places

    async def __aenter__(self) -> None:
        await self._places.acquire()
        self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        self._began, self._late = self._loop.time(), False
        self._timer = self._loop.call_later(PATIENCE_SECONDS, self._look)

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._timer.cancel()
        self._places.release()
        if self._late and kind is asyncio.CancelledError and not self._task.uncancel():
            raise RequestError(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"the request's message did not arrive within {self._loop.time() - self._began:.0f} s, and others wait",
            )

    def _look(self) -> None:
        """Ends the wait for a message that keeps others waiting, or takes far too long."""
        if self._places.locked() or self._loop.time() - self._began > ARRIVAL_SECONDS:
            self._late = True
            self._task.cancel()
        else:
            self._timer = self._loop.call_later(PATIENCE_SECONDS, self._look)
