"""uvicorn that leaves signals alone, limits the time for a request's head, and reads in one way where its body ends."""

from __future__ import annotations

import asyncio
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from bertline.serving import tls

if TYPE_CHECKING:
    from starlette.applications import Starlette

    from bertline.serving.configuration import SSLConfig

HEAD_SECONDS = 20.0  # for the head of a request; rest.py limits the time for its body


class Server(uvicorn.Server):
    """uvicorn on a listening socket, as the servers here run it beside gRPC: they take the signals, and end both.

    Args:
        application: answers.
        drain_seconds: in which requests in flight are answered at the end.
        config: of TLS; None speaks plain HTTP.
        options: others of uvicorn.Config.
    """

    def __init__(self, application: Starlette, drain_seconds: float, config: SSLConfig | None = None, **options):
        if config:
            options["ssl_context_factory"] = lambda *_: tls.ssl_context(config)
        super().__init__(
            uvicorn.Config(
                application,
                log_config=None,
                access_log=False,
                lifespan="off",
                server_header=False,
                timeout_graceful_shutdown=int(drain_seconds),
                http=Protocol,
                **options,
            )
        )

    def capture_signals(self) -> AbstractContextManager[None]:
        """Takes none. In the main thread uvicorn would, and begin to close before gRPC does."""
        return nullcontext()

    def close_listeners(self) -> None:
        """Takes no new connections from now on; those that are open go on."""
        if self.started:
            for listener in self.servers:
                listener.close()


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
