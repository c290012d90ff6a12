"""REST through the log proxy: every request passes as it came; of those that answer texts a record is kept.

TF Serving's JSON does not tell the version that answered, so a record has the one that GetModelMetadata tells.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus

import grpc
import httpx
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from bertline.serving import exchanges, json_tensor, rest
from bertline.serving.errors import RequestError
from bertline.serving.protos import ClassificationRequest, PredictRequest
from bertline.serving.proxy_metrics import ProxyMetrics
from bertline.serving.recording import ID_HEADER, Entry, RecordOptions, Rows
from bertline.serving.records import Recorder
from bertline.serving.upstream import Known, Models

METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
# Of one connection alone (RFC 9110, section 7.6.1), and what says where a body ends: the next connection has its own.
OF_THE_CONNECTION = {
    *("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection"),
    *("te", "trailer", "transfer-encoding", "upgrade", "content-length", "expect"),
}
SIZE = {"content-length"}  # of a body that passes chunk by chunk
_CODES = {int(status): code for code, status in reversed(rest.STATUS.items())}


def application(
    address: str,
    models: Models,
    recorder: Recorder,
    metrics: ProxyMetrics,
    verify: ssl.SSLContext | None = None,
    server_name: str | None = None,
) -> Starlette:
    """The proxy as an ASGI application.

    Args:
        address: of the server behind, http://HOST:PORT or https://HOST:PORT.
        models: of that server.
        recorder: keeps the records.
        metrics: counts.
        verify: the certificates that are trusted, and the proxy's own, for https.
        server_name: in the server's certificate, where it is another than in its address.
    """
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
    # The server behind has a limit for the time of a request; no proxy of the environment leads to it.
    client = httpx.AsyncClient(verify=verify or True, timeout=httpx.Timeout(None), limits=limits, trust_env=False)
    extensions = {"sni_hostname": server_name} if server_name else {}
    proxy = _Proxy(httpx.URL(address), client, extensions, models, recorder, metrics)
    starlette = Starlette(routes=[Route("/{path:path}", proxy.answer, methods=METHODS)])
    starlette.state.stopping = False
    starlette.state.proxy = proxy
    return starlette


@dataclass(frozen=True)
class _Answer:
    """Of the server behind.

    Attributes:
        status: HTTP's.
        headers: as they came.
        body: as it was sent, up to RECORDED_BYTES.
        chunks: all of a larger body; None for others.
    """

    status: int
    headers: httpx.Headers
    body: bytes
    chunks: AsyncIterator[bytes] | None = None

    @property
    def code(self) -> grpc.StatusCode:
        """What gRPC would have answered."""
        return grpc.StatusCode.OK if self.status == HTTPStatus.OK else _CODES.get(self.status, grpc.StatusCode.INTERNAL)


@dataclass(frozen=True)
class _Exchange:
    """A request as it came, and its answer.

    Attributes:
        call: what its path asks for.
        body: as it was sent.
        packed: whether that is gzip.
        answer: of the server behind.
        known: of the model.
    """

    call: rest.RestCall
    body: bytes
    packed: bool
    answer: _Answer
    known: Known

    def rows(self, options: RecordOptions, keep_texts: bool) -> Rows:
        """Of records. In the recorder's thread, which counts what cannot be read."""
        spec, succeeded = self.call.spec, self.answer.code is grpc.StatusCode.OK
        request = (PredictRequest if self.call.method == "predict" else ClassificationRequest)(model_spec=spec)
        try:
            body = rest.unzipped(self.body, exchanges.RECORDED_BYTES) if self.packed else self.body
            json_tensor.fill_request(body, request, self.known.signatures)
        except RequestError:
            if succeeded:
                raise
            return {"characters": [None]}  # refused for what it is
        if isinstance(request, ClassificationRequest):
            rows = exchanges.classified(request, None, options, keep_texts)
        else:
            answer = _unpacked(self.answer) if succeeded else None
            rows = exchanges.predicted_as_json(request, answer, self.known, options, keep_texts)
        return {**rows, "signature": [exchanges.signature_of(request.model_spec)] * len(rows["characters"])}


class _Proxy:
    """The application's one endpoint."""

    def __init__(
        self,
        address: httpx.URL,
        client: httpx.AsyncClient,
        extensions: dict[str, str],
        models: Models,
        recorder: Recorder,
        metrics: ProxyMetrics,
    ):
        self._address, self._client, self._extensions = address, client, extensions
        self._models, self._recorder, self._metrics = models, recorder, metrics

    async def close(self) -> None:
        """Closes the connections to the server behind."""
        await self._client.aclose()

    async def answer(self, request: Request) -> Response:
        """Passes a request on; while the proxy is stopping, its answer is the last of its connection."""
        try:
            response = await self._answer(request)
        except RequestError as error:
            response = rest.error_response(error)
        except ClientDisconnect:
            response = Response(status_code=499)  # nobody reads it
        if request.app.state.stopping:
            response.headers["connection"] = "close"
        return response

    async def _answer(self, request: Request) -> Response:
        call = _recorded(request)
        entry = self._recorder.begin(request.headers.get(ID_HEADER)) if call else None
        began, code, known = time.perf_counter(), grpc.StatusCode.CANCELLED, None
        away = 0.0
        try:
            chunks = request.stream()
            body, is_whole = await _beginning(chunks)
            if entry and not is_whole:
                self._recorder.leave_out()
                entry = None
            known = await self._models.known(call.spec, ()) if entry else None
            sent = time.perf_counter()
            try:
                content, read = (body or None, None) if is_whole else _joined(body, chunks)
                answered = await rest.unless_gone(request, self._sent(request, content), read)
            finally:
                away = time.perf_counter() - sent
            code = answered.code
            if entry and answered.chunks:
                self._recorder.leave_out()
                entry = None
            if entry and known:
                packed = rest.encoding_of(request.headers) in rest.GZIP
                self._note(entry, _Exchange(call, body, packed, answered, known))
            return _response(answered, entry)
        except RequestError as error:
            code = error.code
            raise
        finally:
            seconds = time.perf_counter() - began
            if call:
                self._metrics.observe(call.method.capitalize(), "REST", code, seconds - away)
            if entry and self._models.is_served(call.spec.name):
                self._recorder.end(entry, call.spec.name, code.name, seconds)

    async def _sent(self, request: Request, content: bytes | AsyncIterator[bytes] | None) -> _Answer:
        path, query = request.scope["raw_path"], request.scope["query_string"]
        headers = [(name, value) for name, value in request.headers.raw if name.decode() not in OF_THE_CONNECTION]
        if not isinstance(content, bytes | None):  # where its size is not said, it goes on without as well
            headers += [(name, value) for name, value in request.headers.raw if name.decode() in SIZE]
        # As it was sent: httpx would write some signs of a path in its own way.
        extensions = {"target": path + b"?" + query if query else path} | self._extensions
        outgoing = httpx.Request(request.method, self._address, headers=headers, content=content, extensions=extensions)
        try:
            response = await self._client.send(outgoing, stream=True)
            try:
                chunks = response.aiter_raw()
                body, is_whole = await _beginning(chunks)
            except BaseException:
                await response.aclose()
                raise
        except httpx.TransportError as error:
            words = (
                f"the server behind the log proxy, {self._address}, does not answer: {error or type(error).__name__}"
            )
            raise RequestError(grpc.StatusCode.UNAVAILABLE, words) from error
        if is_whole:
            await response.aclose()
            return _Answer(response.status_code, response.headers, body)
        return _Answer(response.status_code, response.headers, b"", _answer_of(body, chunks, response))

    def _note(self, entry: Entry, exchange: _Exchange) -> None:
        entry.content = partial(exchange.rows, self._recorder.options)
        entry.size = len(exchange.body) + len(exchange.answer.body)
        if exchange.answer.code is grpc.StatusCode.OK:
            entry.version = exchange.known.version


def _recorded(request: Request) -> rest.RestCall | None:
    """What a request that answers texts asks for; None for any other."""
    if request.method != "POST":
        return None
    try:
        call = rest.call_of(request)
    except RequestError:  # the server says so in its own words
        return None
    return call if call.method in rest.RECORDED else None


async def _beginning(chunks: AsyncIterator[bytes]) -> tuple[bytes, bool]:
    """A body's chunks up to RECORDED_BYTES and the one that goes beyond, and whether that is all of it."""
    content = bytearray()
    async for chunk in chunks:
        content += chunk
        if len(content) > exchanges.RECORDED_BYTES:
            return bytes(content), False
    return bytes(content), True


def _joined(beginning: bytes, chunks: AsyncIterator[bytes]) -> tuple[AsyncIterator[bytes], asyncio.Event]:
    """All chunks of a request's body, and what is set when they have come."""
    read = asyncio.Event()

    async def joined() -> AsyncIterator[bytes]:
        yield beginning
        async for chunk in chunks:
            if chunk:  # the last one is empty
                yield chunk
        read.set()

    return joined(), read


async def _answer_of(beginning: bytes, chunks: AsyncIterator[bytes], response: httpx.Response) -> AsyncIterator[bytes]:
    """All chunks of an answer's body."""
    try:
        yield beginning
        async for chunk in chunks:
            yield chunk
    finally:
        await response.aclose()


def _response(answered: _Answer, entry: Entry | None) -> Response:
    own = {ID_HEADER: entry.id} if entry else {}
    if answered.chunks is None:
        response, left_out = Response(answered.body, answered.status, own), OF_THE_CONNECTION | own.keys()
    else:
        response, left_out = StreamingResponse(answered.chunks, answered.status, own), OF_THE_CONNECTION - SIZE
    response.raw_headers += [
        (name.lower(), value) for name, value in answered.headers.raw if name.lower().decode() not in left_out
    ]
    return response


def _unpacked(answered: _Answer) -> bytes:
    packed = rest.encoding_of(answered.headers) in rest.GZIP
    return rest.unzipped(answered.body, exchanges.RECORDED_BYTES) if packed else answered.body
