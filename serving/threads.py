"""Threads for the work of requests, whose callers may go."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

Answer = TypeVar("Answer")


class Threads:
    """A number of threads for one event loop.

    What waits for a thread waits in the loop: when its caller goes, it is dropped with all that it holds. An executor's
    own queue would keep it until a thread is free.
    """

    def __init__(self, number: int, name: str):
        self._threads = ThreadPoolExecutor(number, thread_name_prefix=name)
        self._free = asyncio.Semaphore(number)

    async def run(self, work: Callable[..., Answer], *arguments: object) -> Answer:
        """The result of `work`, called in a thread. Work that has begun goes on when its caller is gone."""
        await self._free.acquire()
        loop = asyncio.get_running_loop()
        running = self._threads.submit(partial(work, *arguments))
        running.add_done_callback(lambda _: loop.call_soon_threadsafe(self._free.release))
        return await asyncio.wrap_future(running)

    def close(self) -> None:
        """Ends the threads once their work is done."""
        self._threads.shutdown(wait=False, cancel_futures=True)
