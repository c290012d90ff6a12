"""How a gRPC server ends without a call that no client would retry."""

from __future__ import annotations

import asyncio

import grpc

from bertline.serving.errors import RequestError


class Stopping:
    """Holds new calls of a server that ends, and then refuses them.

    A gRPC server that stops ends calls that it has received but not begun with CANCELLED, which no client retries. So
    calls are held until no more arrive, and then refused with UNAVAILABLE, on which clients go elsewhere.
    """

    def __init__(self):
        self._refusing: asyncio.Event | None = None  # if there is one, calls wait until it is set

    def hold(self) -> None:
        """From now on new calls wait. Those in flight are answered."""
        self._refusing = asyncio.Event()

    def refuse_held(self) -> None:
        """Ends the calls that wait."""
        if self._refusing:
            self._refusing.set()

    async def check(self) -> None:
        """Lets a new call pass, unless the server is stopping.

        Raises:
            RequestError: UNAVAILABLE, once held calls are refused.
        """
        if self._refusing:
            await self._refusing.wait()
            raise RequestError(grpc.StatusCode.UNAVAILABLE, "the server is stopping; try another, or later")
