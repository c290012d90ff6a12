"""The monitor's page over HTTP, on loopback: for whoever works on this machine, or tunnels to it."""

from __future__ import annotations

import base64
import binascii
import html
import threading
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import grpc

from bertline.errors import UserError
from bertline.serving.access import Access, key_of
from bertline.serving.errors import RequestError
from bertline.serving.keys import ADMIN

HOST = "127.0.0.1"
NAMES = (HOST, "localhost")  # under any other name a stranger's page in the browser would ask (DNS rebinding)
REFRESH = 60  # seconds, after which a browser asks anew
SECONDS = 20.0  # for a request
WAITING = "No window has been judged yet. This page asks again by itself."
PLAIN = "default-src 'none'; base-uri 'none'; form-action 'none'"


class Live:
    """Serves the newest page from a thread.

    Args:
        port: 0 takes a free one.
        access: checks a key of each request, with the role ADMIN since the page shows what people wrote; None for none.

    Attributes:
        address: HOST:PORT.

    Raises:
        UserError: the port is taken.
    """

    def __init__(self, port: int, access: Access | None = None):
        self._access, self._page, self._policy = access, "", PLAIN
        try:
            self._server = make_server(HOST, port, self._answer, server_class=_Server, handler_class=_Handler)
        except OSError as error:
            raise UserError(f"port {port} of {HOST}: {error.strerror}; choose another.") from error
        self.address = f"{HOST}:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, name="page", daemon=True).start()

    def show(self, page: str, policy: str) -> None:
        """Shows a page in place of the one before.

        Args:
            page: HTML.
            policy: its Content-Security-Policy.
        """
        self._policy, self._page = policy, page

    def close(self) -> None:
        """Stops."""
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        status, text, headers = self._answered(environ)
        body = text.encode()
        headers = {
            "content-type": "text/html; charset=utf-8",
            "content-length": str(len(body)),
            "content-security-policy": self._policy if status == "200 OK" else PLAIN,
            "cache-control": "no-store",
            "referrer-policy": "no-referrer",
            "x-content-type-options": "nosniff",
            **headers,
        }
        start(status, [*headers.items()])
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]

    def _answered(self, environ: dict[str, Any]) -> tuple[str, str, dict[str, str]]:
        if environ.get("HTTP_HOST", "").rpartition(":")[0] not in NAMES:
            return "421 Misdirected Request", f"Ask under the name {self.address}.", {}
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return "405 Method Not Allowed", "This page is only read.", {"allow": "GET, HEAD"}
        if self._access:
            try:
                self._access.check(_key(environ), role=ADMIN)
            except RequestError as error:
                if error.code is grpc.StatusCode.RESOURCE_EXHAUSTED:
                    return "429 Too Many Requests", html.escape(str(error)), {"retry-after": str(error.retry_after)}
                asks = {"www-authenticate": 'Basic realm="bertline monitor: the key is the password"'}
                return "401 Unauthorized", html.escape(str(error)), asks
        if environ.get("PATH_INFO") not in ("/", ""):
            return "404 Not Found", "There is only the page at /.", {}
        if not self._page:
            return "503 Service Unavailable", WAITING, {"refresh": "5"}
        return "200 OK", self._page, {}


def _key(environ: dict[str, Any]) -> str | None:
    """The key of a request: as elsewhere, or as the password that a browser asks for."""
    named = {"authorization": environ.get("HTTP_AUTHORIZATION", ""), "x-api-key": environ.get("HTTP_X_API_KEY", "")}
    scheme, _, token = named["authorization"].partition(" ")
    if scheme.lower() != "basic":
        return key_of(named)
    try:
        return base64.b64decode(token.strip(), validate=True).decode().partition(":")[2] or None
    except (binascii.Error, UnicodeDecodeError):
        return None


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Handler(WSGIRequestHandler):
    timeout = SECONDS

    def log_message(self, format: str, *arguments: Any) -> None:  # the screen is the monitor's
        return
