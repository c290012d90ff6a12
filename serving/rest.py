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
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
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
from bertline.serving.errors import RequestError, frames, invalid
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

if TYPE_CHECKING:  # both start TensorFlow, which a server does after it has taken its ports
    from bertline.serving.servable import Servable
    from bertline.serving.service import Service

log = logging.getLogger("bertline.serving")

Answer = TypeVar("Answer")

MESSAGE_CHARACTERS = 1500  # as over gRPC: names out of a request, which errors quote, can be of any length
# Parsing so many bytes of texts takes 1 ms, of numbers 5 ms. Larger bodies go to a thread, so that the loop stays free.
LOOP_BYTES = 64 << 10
# How many bodies of the largest size may be in flight, however many clients send slowly: 512 MiB by default.
BODIES = 32
MAX_VERSION = 2**63 - 1
SIGNATURE_DEF = "signature_def"
# What a text meets at the signature serving_default, by TensorFlow's words and ours; and the signature it is meant for
TEXT_SIGNATURE = "text"
_EXAMPLES_EXPECTED = re.compile(r"Could not parse example input|keys must be equal to examples\b")
TEXT_HINT = f'; this signature reads serialized tf.Examples: for plain texts add "signature_name": "{TEXT_SIGNATURE}"'

_MODEL = r"([^/:]+)(?:/versions/(\d+)|/labels/([^/:]+))?"
_POST = re.compile(rf"/v1/models/{_MODEL}:(predict|classify|regress)", re.IGNORECASE | re.ASCII)
_GET = re.compile(rf"/v1/models/{_MODEL}(/metadata)?", re.IGNORECASE | re.ASCII)

_CLIENT_CLOSED_REQUEST = 499  # nginx's, and TF Serving's for CANCELLED
_STATUS = {
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


class _Call(NamedTuple):
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
        self._bodies = _Bodies(max_request_bytes)
        self._access = access

    async def scrape(self, request: Request) -> Response:
        """The metrics."""
        try:
            self._check_key(request)
        except RequestError as error:
            return _error(error)
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
        began, code, call = time.perf_counter(), grpc.StatusCode.OK, _Call("", ModelSpec())
        try:
            self._check_key(request)
            call = _call(request)
            return Response(await self._answer(request, call), media_type="application/json")
        except RequestError as error:
            code = error.code
            return _error(error)
        except asyncio.CancelledError:
            code = grpc.StatusCode.CANCELLED
            raise
        except Exception as error:
            code = grpc.StatusCode.INTERNAL
            log.error("%s failed: %s", call.method, frames(error))
            words = f"an error of the server's own, {type(error).__name__}; its log says more"
            return _error(RequestError(code, words))
        finally:
            known = call.spec.name if call.spec.name in self._service.models.names() else ""
            self._metrics.observe_request(known, call.method, "REST", code, time.perf_counter() - began)

    def _check_key(self, request: Request) -> None:
        if self._access:
            self._access.check(key_of(request.headers))

    async def _answer(self, request: Request, call: _Call) -> bytes:
        if call.method == "status":
            return _json(self._service.get_model_status(GetModelStatusRequest(model_spec=call.spec)))
        if call.method == "metadata":
            return self._metadata(call.spec)
        try:
            async with asyncio.timeout(self._timeout):
                async with self._bodies.read(request) as body:
                    return await _unless_gone(request, self._infer(call, body))
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

    async def _infer(self, call: _Call, body: bytes) -> bytes:
        with self._service.acquire(call.spec) as servable:
            if call.method == "predict":
                return await self._predict(call.spec, servable, body)
            if call.method == "classify":
                request = await _off_loop(body, _with_examples, ClassificationRequest(model_spec=call.spec), servable)
                response = await self._service.classify(request, servable=servable)
                return json_tensor.classifications(response.result)
            request = await _off_loop(body, _with_examples, RegressionRequest(model_spec=call.spec), servable)
            response = await self._service.regress(request, servable=servable)
            return json_tensor.regressions(response.result)

    async def _predict(self, spec: ModelSpec, servable: Servable, body: bytes) -> bytes:
        with _hinted(servable):
            request, form = await _off_loop(body, _with_tensors, PredictRequest(model_spec=spec), servable)
            response = await self._service.predict(request, servable=servable)
        with _placed(servable, request.model_spec):
            return json_tensor.predictions(response, form)


# === Requests ===


def _call(request: Request) -> _Call:
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
        return _Call(rest.lower(), spec)
    return _Call("metadata" if rest else "status", spec)


def _unquoted(what: str, text: str) -> str:
    try:
        return unquote_to_bytes(text.encode("latin-1")).decode()
    except UnicodeDecodeError:
        raise invalid(f"Failed to decode {what}: {text} is not UTF-8") from None


class _Bodies:
    """Reads bodies, up to a size for each and a size for all in flight."""

    def __init__(self, most: int):
        self._most = most
        self._held = 0  # bytes of the bodies in flight, however slowly they arrive

    @asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[bytes]:
        """The body, unpacked. Reading stops as soon as it is clear that the body is too large."""
        encoding = request.headers.get("content-encoding", "identity").strip().lower()
        if encoding not in ("identity", "gzip", "x-gzip"):
            raise _Refused(
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
                grpc.StatusCode.INVALID_ARGUMENT,
                f"Content-Encoding {encoding} is not supported; send gzip or none",
            )
        declared = request.headers.get("content-length", "")
        if declared.isdecimal() and int(declared[:20]) > self._most:
            raise _too_large(self._most)
        body = bytearray()
        try:
            await self._fill(body, request)
            yield bytes(body) if encoding == "identity" else _unzipped(bytes(body), self._most)
        finally:
            self._held -= len(body)

    async def _fill(self, body: bytearray, request: Request) -> None:
        try:
            async for chunk in request.stream():
                body += chunk
                self._held += len(chunk)
                if len(body) > self._most:
                    raise _too_large(self._most)
                if self._held > self._most * BODIES:
                    message = f"the bodies of all requests in flight have more than {self._most * BODIES} bytes"
                    raise RequestError(grpc.StatusCode.RESOURCE_EXHAUSTED, f"{message}; try again shortly")
        except ClientDisconnect:
            raise _gone() from None


def _unzipped(body: bytes, most: int) -> bytes:
    try:
        plain = gzip.GzipFile(fileobj=io.BytesIO(body)).read(most + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise invalid(f"the body is not gzip, which its Content-Encoding says it is: {error}") from None
    if len(plain) > most:
        raise _too_large(most)
    return plain


def _with_tensors(body: bytes, request: PredictRequest, servable: Servable) -> tuple[PredictRequest, str]:
    """The request, completed with its signature and tensors, and its form."""
    with _placed(servable, request.model_spec):
        document = json_tensor.parse(body)
        name = request.model_spec.signature_name = json_tensor.signature_name(document)
        signature = servable.signature(name)
        if signature is None:
            known = ", ".join(sorted(name for name in servable.signatures if not name.startswith("__")))
            raise invalid(f'Serving signature name: "{name or "serving_default"}" not found; there is {known}')
        return request, json_tensor.fill_predict(document, signature.inputs, request)


def _with_examples(body: bytes, request: Any, servable: Servable) -> Any:
    """The request, completed with its signature and examples."""
    with _placed(servable, request.model_spec):
        document = json_tensor.parse(body)
        request.model_spec.signature_name = json_tensor.signature_name(document)
        json_tensor.fill_examples(document, request.input)
    return request


@contextmanager
def _placed(servable: Servable, spec: ModelSpec) -> Iterator[None]:
    """Adds model, version and signature to an error's words, as Service does to its own."""
    try:
        yield
    except RequestError as error:
        signature = f", signature {spec.signature_name}" if spec.signature_name else ""
        raise RequestError(error.code, f"{error} [{servable.where}{signature}]") from error


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


async def _off_loop(body: bytes, read: Callable[..., Answer], *arguments: Any) -> Answer:
    """The result of `read` on a body; a large body is read in a thread."""
    if len(body) <= LOOP_BYTES:
        return read(body, *arguments)
    return await asyncio.to_thread(read, body, *arguments)


async def _unless_gone(request: Request, work: Coroutine[Any, Any, Answer]) -> Answer:
    """The result of `work`. Cancels it when the client disconnects, of which an ASGI server only informs."""
    working = asyncio.create_task(work)
    going = asyncio.create_task(request.receive())  # the body was read: the one message left is http.disconnect
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


def _error(error: RequestError) -> Response:
    """TF Serving's form of an error."""
    status = error.status if isinstance(error, _Refused) else _STATUS.get(error.code, HTTPStatus.INTERNAL_SERVER_ERROR)
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
