"""TF Serving's REST API over `Service`, and the metrics page.

Paths, HTTP statuses and bodies are those of https://www.tensorflow.org/tfx/serving/api_rest and of TF Serving 2.19.
"""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import logging
import re
import time
import zlib
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from urllib.parse import unquote_to_bytes

import grpc
from google.protobuf import json_format
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from bertline.errors import UserError
from bertline.serving import json_tensor
from bertline.serving.access import Access, key_of
from bertline.serving.bodies import LOOP_BYTES, Bodies, Share
from bertline.serving.errors import RequestError, frames, invalid
from bertline.serving.inference import Compute, Inference
from bertline.serving.metrics import Metrics
from bertline.serving.protos import (
    ClassificationRequest,
    GetModelMetadataRequest,
    GetModelStatusRequest,
    ModelSpec,
    PredictRequest,
    RegressionRequest,
    SignatureDefMap,
)
from bertline.serving.recording import ID_HEADER, Entry

if TYPE_CHECKING:  # both start TensorFlow, which a server does after it has taken its ports
    from bertline.serving.servable import Servable
    from bertline.serving.service import Service

log = logging.getLogger("bertline.serving")

Answer = TypeVar("Answer")

MESSAGE_CHARACTERS = 1500  # as over gRPC: names out of a request, which errors quote, can be of any length
MAX_VERSION = 2**63 - 1
GZIP = ("gzip", "x-gzip")  # Content-Encodings
RECORDED = ("predict", "classify")  # the methods that answer texts
_REQUESTS = {"predict": PredictRequest, "classify": ClassificationRequest, "regress": RegressionRequest}
SIGNATURE_DEF = "signature_def"
# What a text meets at the signature serving_default, by TensorFlow's words and ours; and the signature it is meant for
TEXT_SIGNATURE = "text"
_EXAMPLES_EXPECTED = re.compile(r"Could not parse example input|keys must be equal to examples\b")
TEXT_HINT = f'; this signature reads serialized tf.Examples: for plain texts add "signature_name": "{TEXT_SIGNATURE}"'

_MODEL = r"([^/:]+)(?:/versions/(\d+)|/labels/([^/:]+))?"
_POST = re.compile(rf"/v1/models/{_MODEL}:(predict|classify|regress)", re.IGNORECASE | re.ASCII)
_GET = re.compile(rf"/v1/models/{_MODEL}(/metadata)?", re.IGNORECASE | re.ASCII)

_CLIENT_CLOSED_REQUEST = 499  # nginx's, and TF Serving's for CANCELLED
STATUS = {
    grpc.StatusCode.CANCELLED: _CLIENT_CLOSED_REQUEST,
    grpc.StatusCode.INVALID_ARGUMENT: HTTPStatus.BAD_REQUEST,
    grpc.StatusCode.FAILED_PRECONDITION: HTTPStatus.BAD_REQUEST,
    grpc.StatusCode.OUT_OF_RANGE: HTTPStatus.BAD_REQUEST,
    grpc.StatusCode.UNAUTHENTICATED: HTTPStatus.UNAUTHORIZED,
    grpc.StatusCode.PERMISSION_DENIED: HTTPStatus.FORBIDDEN,
    grpc.StatusCode.NOT_FOUND: HTTPStatus.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS: HTTPStatus.CONFLICT,
    grpc.StatusCode.ABORTED: HTTPStatus.CONFLICT,
    grpc.StatusCode.RESOURCE_EXHAUSTED: HTTPStatus.TOO_MANY_REQUESTS,
    grpc.StatusCode.UNIMPLEMENTED: HTTPStatus.NOT_IMPLEMENTED,
    grpc.StatusCode.UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED: HTTPStatus.GATEWAY_TIMEOUT,
}


def application(
    service: Service,
    metrics: Metrics,
    *,
    timeout: float | None,
    metrics_path: str | None,
    max_request_bytes: int,
    cors: bool,
    access: Access | None,
) -> Starlette:
    """The REST API as an ASGI application.

    Args:
        service: answers the requests.
        metrics: counts them, and is shown.
        timeout: seconds that a request may take from its first byte to its answer; None or 0 for no limit.
        metrics_path: the path of the metrics; None for no metrics.
        max_request_bytes: the most that a request's body may have, as sent and unpacked.
        cors: whether pages of other sites may call.
        access: checked before anything is read; None lets everybody in.

    Raises:
        UserError: metrics_path does not start with a slash.
    """
    if metrics_path and not metrics_path.startswith("/"):
        raise UserError(f"the metrics' path {metrics_path!r} must start with /, as in /monitoring/prometheus/metrics")
    rest = _Rest(service, metrics, timeout or None, max_request_bytes, access)
    routes = [Route("/{path:path}", rest.answer, methods=["GET", "POST"])]
    if metrics_path:
        routes.insert(0, Route(metrics_path, rest.scrape, methods=["GET"]))
    allowed = {"allow_methods": ["GET", "POST"], "allow_headers": ["Content-Type", "Authorization", "X-API-Key"]}
    allowed["expose_headers"] = ["Retry-After"]
    middleware = [Middleware(CORSMiddleware, allow_origins=["*"], **allowed)] if cors else []
    starlette = Starlette(routes=routes, middleware=middleware, exception_handlers={HTTPException: _http_error})
    starlette.state.stopping = False
    return starlette


class RestCall(NamedTuple):
    """What a request's path asks for."""

    method: str
    spec: ModelSpec


class _Refused(RequestError):
    """An error whose HTTP status says more than its gRPC code does."""

    def __init__(self, status: HTTPStatus, code: grpc.StatusCode, message: str):
        super().__init__(code, message)
        self.status = status


class _Rest:
    """The application's endpoints."""

    def __init__(
        self, service: Service, metrics: Metrics, timeout: float | None, max_request_bytes: int, access: Access | None
    ):
        self._service = service
        self._metrics = metrics
        self._timeout = timeout
        self._bodies = service.bodies
        self._most = max_request_bytes
        self._access = access

    async def scrape(self, request: Request) -> Response:
        """The metrics."""
        try:
            self._check_key(request)
        except RequestError as error:
            return error_response(error)
        body, content_type = self._metrics.render()
        return Response(body, headers={"content-type": content_type})

    async def answer(self, request: Request) -> Response:
        """Answers any other path. While the server is stopping, it is the last answer of its connection."""
        response = await self._counted(request)
        if request.app.state.stopping:
            response.headers["connection"] = "close"  # or the next request would meet a connection that is being closed
        return response

    async def _counted(self, request: Request) -> Response:
        """The answer, counted with the code it ends with."""
        began, code, call, entry = time.perf_counter(), grpc.StatusCode.OK, RestCall("", ModelSpec()), None
        try:
            self._check_key(request)
            call = call_of(request)
            if self._service.recorder and call.method in RECORDED:
                entry = self._service.recorder.begin(request.headers.get(ID_HEADER))
            headers = {ID_HEADER: entry.id} if entry else None
            return Response(await self._answer(request, call, entry), headers=headers, media_type="application/json")
        except RequestError as error:
            code = error.code
            return error_response(error)
        except asyncio.CancelledError:
            code = grpc.StatusCode.CANCELLED
            raise
        except Exception as error:
            code = grpc.StatusCode.INTERNAL
            log.error("%s failed: %s", call.method, frames(error))
            words = f"an error of the server's own, {type(error).__name__}; its log says more"
            return error_response(RequestError(code, words))
        finally:
            known = call.spec.name if call.spec.name in self._service.models.names() else ""
            seconds = time.perf_counter() - began
            self._metrics.observe_request(known, call.method, "REST", code, seconds)
            if entry and known:
                self._service.recorder.end(entry, known, code.name, seconds)

    def _check_key(self, request: Request) -> None:
        if self._access:
            self._access.check(key_of(request.headers))

    async def _answer(self, request: Request, call: RestCall, entry: Entry | None) -> bytes:
        if call.method == "status":
            return _json(self._service.get_model_status(GetModelStatusRequest(model_spec=call.spec)))
        if call.method == "metadata":
            return self._metadata(call.spec)
        try:
            async with asyncio.timeout(self._timeout) as limit:
                with self._bodies.share() as share:
                    body = await _body(request, self._most, share)
                    inferring = self._infer(request, call, body, share, entry, limit.when())
                    return await unless_gone(request, inferring)
        except TimeoutError:
            message = f"no answer within {self._timeout:g} s (rest_api_timeout_in_ms); send fewer rows, or try later"
            raise RequestError(grpc.StatusCode.DEADLINE_EXCEEDED, message) from None

    def _metadata(self, spec: ModelSpec) -> bytes:
        request = GetModelMetadataRequest(model_spec=spec, metadata_field=[SIGNATURE_DEF])
        response = self._service.get_model_metadata(request)
        signatures = SignatureDefMap()
        response.metadata[SIGNATURE_DEF].Unpack(signatures)
        fields = {"model_spec": _fields(response.model_spec), "metadata": {SIGNATURE_DEF: _fields(signatures)}}
        return json.dumps(fields, indent=1).encode() + b"\n"

    def _key(self, request: Request, body: _Body) -> bytes | None:
        """As `Canary.key`; None without a canary."""
        canary = self._service.canary
        return canary.key(request.headers.get(canary.plan.key), body.content) if canary else None

    async def _infer(
        self, request: Request, call: RestCall, body: _Body, share: Share, entry: Entry | None, until: float | None
    ) -> bytes:
        key = self._key(request, body)
        content = await self._unpacked(body, share)
        posted = _Posted(call, content, self._bodies, self._is_read_again(call.spec))
        options = {"as_content": True} if call.method == "predict" else {}
        inference = Inference(call.method.capitalize(), call.spec, posted.exchange, len(content), options)
        del content
        seconds = None if until is None else until - asyncio.get_running_loop().time()
        return await self._service.infer(inference, share=share, entry=entry, key=key, seconds=seconds)

    def _is_read_again(self, spec: ModelSpec) -> bool:
        """Whether a second version may be asked the same."""
        return self._service.canary is not None and self._service.canary.routes(spec)

    async def _unpacked(self, body: _Body, share: Share) -> bytes:
        content = body.take()
        if not body.packed:
            return content
        size = max(len(content), LOOP_BYTES + 1)  # how large it is unpacked, only unpacking tells
        content = await self._bodies.work(size, unzipped, content, self._most)
        share.grow(len(content))
        return content


class _Posted:
    """The body of a request for inference, which each version that is asked reads by its own signatures.

    Args:
        call: what the path asks for.
        content: the body, unpacked.
        bodies: decode it.
        is_read_again: whether another version may be asked after the first; else the content goes once it is read.
    """

    def __init__(self, call: RestCall, content: bytes, bodies: Bodies, is_read_again: bool):
        self._call, self._content, self._bodies, self._is_read_again = call, content, bodies, is_read_again

    async def exchange(self, servable: Servable, compute: Compute) -> bytes:
        """A servable's answer as JSON."""
        method, work = self._call.method, self._bodies.work
        message = _REQUESTS[method](model_spec=self._call.spec)
        with _hinted(servable):
            with _placed(servable, message.model_spec):
                form = await self._bodies.decode(self._content, message, servable.signatures)
            if not self._is_read_again:
                self._content = b""
            response = await compute(message)
        if method == "regress":
            return await work(response.ByteSize(), json_tensor.regressions, response.result)
        if method == "classify":
            return await work(response.ByteSize(), json_tensor.classifications, response.result)
        with _placed(servable, message.model_spec):
            return await work(response.ByteSize(), json_tensor.predictions, response, form)


# === Requests ===


def call_of(request: Request) -> RestCall:
    """What the path asks for. Reads the path as it was sent, since a name may hold an escaped / or :."""
    path = request.scope["raw_path"].decode("latin-1")
    if not re.match(r"/v1(/|$)", path, re.IGNORECASE):
        raise RequestError(grpc.StatusCode.NOT_FOUND, f"Malformed request: {request.method} {path}: all is under /v1")
    match = (_POST if request.method == "POST" else _GET).fullmatch(path)
    if match is None and request.method == "GET" and path.rstrip("/").lower() == "/v1/models":
        raise invalid("Missing model name in request; it should be GET /v1/models/NAME")
    if match is None:
        raise invalid(
            f"Malformed request: {request.method} {path}: it should be POST /v1/models/NAME:predict, :classify or "
            ":regress, or GET /v1/models/NAME or /v1/models/NAME/metadata; NAME may be NAME/versions/N or NAME/labels/L"
        )
    name, version, label, rest = match.groups()
    spec = ModelSpec(name=_unquoted("model name", name))
    if version:
        digits = version.lstrip("0") or "0"
        if len(digits) > len(str(MAX_VERSION)) or int(digits) > MAX_VERSION:
            raise invalid(f"Failed to convert version: {version} is not a 64-bit number")
        spec.version.value = int(digits)
    elif label:
        spec.version_label = _unquoted("model version label", label)
    if request.method == "POST":
        return RestCall(rest.lower(), spec)
    return RestCall("metadata" if rest else "status", spec)


def _unquoted(what: str, text: str) -> str:
    try:
        return unquote_to_bytes(text.encode("latin-1")).decode()
    except UnicodeDecodeError:
        raise invalid(f"Failed to decode {what}: {text} is not UTF-8") from None


class _Body:
    """A body, until it is taken: nothing else keeps it in memory then."""

    def __init__(self, packed: bool):
        self.packed = packed
        self.content = bytearray()

    def take(self) -> bytes:
        """The body, as it was sent."""
        content, self.content = bytes(self.content), bytearray()
        return content


async def _body(request: Request, most: int, share: Share) -> _Body:
    """The body. Reading stops as soon as it is clear that it is too large, or that there is no room for it."""
    encoding = encoding_of(request.headers)
    if encoding not in ("identity", *GZIP):
        raise _Refused(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            grpc.StatusCode.INVALID_ARGUMENT,
            f"Content-Encoding {encoding} is not supported; send gzip or none",
        )
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared[:20]) > most:
        raise _too_large(most)
    body = _Body(packed=encoding in GZIP)
    try:
        async for chunk in request.stream():
            share.grow(len(chunk))
            body.content += chunk
            if len(body.content) > most:
                raise _too_large(most)
    except ClientDisconnect:
        raise _gone() from None
    return body


def encoding_of(headers: Mapping[str, str]) -> str:
    """How a body is packed: its Content-Encoding in lower case, "identity" where none is said."""
    return headers.get("content-encoding", "identity").strip().lower()


def unzipped(body: bytes, most: int) -> bytes:
    """What a body of gzip holds.

    Raises:
        RequestError: it is no gzip, or holds more than `most` bytes.
    """
    try:
        plain = gzip.GzipFile(fileobj=io.BytesIO(body)).read(most + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise invalid(f"the body is not gzip, which its Content-Encoding says it is: {error}") from None
    if len(plain) > most:
        raise _too_large(most)
    return plain


@contextmanager
def _placed(servable: Servable, spec: ModelSpec) -> Iterator[None]:
    """Adds model, version and signature to an error's words, as Service does to its own."""
    try:
        yield
    except RequestError as error:
        signature = f", signature {spec.signature_name}" if spec.signature_name else ""
        raise type(error)(error.code, f"{error} [{servable.where}{signature}]") from error


@contextmanager
def _hinted(servable: Servable) -> Iterator[None]:
    """Adds the way out to the error of texts that were sent to the default signature, which reads tf.Examples."""
    try:
        yield
    except RequestError as error:
        if TEXT_SIGNATURE not in servable.signatures or not _EXAMPLES_EXPECTED.search(str(error)):
            raise
        place = (
            f" [{servable.where}"  # keeps its place before the hint, however long the text is that TensorFlow quotes
        )
        words, _, rest = str(error).rpartition(place)
        words = words[: MESSAGE_CHARACTERS - len(place + rest + TEXT_HINT)]
        raise RequestError(error.code, f"{words}{place}{rest}{TEXT_HINT}") from error


# === Running ===


async def unless_gone(request: Request, work: Coroutine[Any, Any, Answer], read: asyncio.Event | None = None) -> Answer:
    """The result of `work`. Cancels it when the client disconnects, of which an ASGI server only informs.

    Args:
        request: whose client it is.
        work: for it.
        read: set as soon as the request's body is read; None where it is.
    """

    async def gone() -> None:
        if read:
            await read.wait()
        await request.receive()  # the one message left is http.disconnect

    working, going = asyncio.create_task(work), asyncio.create_task(gone())
    try:
        await asyncio.wait((working, going), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise _gone()
    finally:
        working.cancel()
        going.cancel()


# === Answers ===


def _gone() -> RequestError:
    return RequestError(grpc.StatusCode.CANCELLED, "the client closed the connection")


def _too_large(most: int) -> _Refused:
    message = f"the body has more than {most} bytes, which is the most (max_request_bytes); send fewer rows"
    return _Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, grpc.StatusCode.RESOURCE_EXHAUSTED, message)


def error_response(error: RequestError) -> Response:
    """TF Serving's form of an error."""
    status = error.status if isinstance(error, _Refused) else STATUS.get(error.code, HTTPStatus.INTERNAL_SERVER_ERROR)
    headers = {}
    if status == HTTPStatus.UNAUTHORIZED:
        headers["www-authenticate"] = "Bearer"
    if status in (HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.GATEWAY_TIMEOUT):
        headers["connection"] = "close"  # the rest of the body is not waited for
    if status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
        headers["retry-after"] = str(error.retry_after)
    return Response(_error_body(str(error)), status, headers, "application/json")


async def _http_error(request: Request, error: HTTPException) -> Response:
    """Starlette's own errors, such as 405, in the same form."""
    message = f"Malformed request: {request.method} {request.url.path}: {error.detail}"
    return Response(_error_body(message), error.status_code, error.headers, "application/json")


def _error_body(message: str) -> bytes:
    return json.dumps({"error": message[:MESSAGE_CHARACTERS]}).encode() + b"\n"


def _json(message: Any) -> bytes:
    return json.dumps(_fields(message), indent=1).encode() + b"\n"


def _fields(message: Any) -> dict[str, Any]:
    """A message's fields under their proto names, with those that have their default value."""
    return json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
