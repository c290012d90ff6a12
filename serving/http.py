"""uvicorn's HTTP connections, with a time limit for a request's head, and one reading of where its body ends."""

from __future__ import annotations

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 20.0  # for the head of a request; rest.py limits the time for its body


class _Parser(h11.Connection):
    """Refuses a request that gives its body's length twice, by Content-Length and by Transfer-Encoding.

    h11 goes by the second, and a proxy in front may go by the first: then they disagree where the next request begins.
    RFC 9112, section 6.1, lets a server refuse it.
    """

    def next_event(self):
        """h11's next event."""
        event = super().next_event()
        if isinstance(event, h11.Request):
            names = {name for name, _ in event.headers}  # h11 writes them in lower case
            if {b"content-length", b"transfer-encoding"} <= names:
                raise h11.RemoteProtocolError("Content-Length together with Transfer-Encoding")
        return event


class Protocol(H11Protocol):
    """A connection that is closed when a request's head takes too long. uvicorn by itself waits for ever."""

    _late: asyncio.TimerHandle | None = None

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.conn = _Parser(h11.SERVER)

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Starts the clock for the first head."""
        super().connection_made(transport)
        self._time_head()

    def data_received(self, data: bytes) -> None:
        """Stops the clock when a request has begun, and starts it for the next one's first bytes."""
        super().data_received(data)
        if self._is_answering():
            self._stop_clock()
        elif self._late is None:
            self._time_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stops the clock."""
        self._stop_clock()
        super().connection_lost(exc)

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _time_head(self) -> None:
        self._late = self.loop.call_later(HEAD_SECONDS, self._give_up)

    def _stop_clock(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _give_up(self) -> None:
        if not self._is_answering():
            self.transport.close()
