"""The gRPC services of TF Serving over `Service`, each call counted and timed."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from bertline.serving.errors import RequestError, frames, invalid
from bertline.serving.metrics import Metrics
from bertline.serving.protos import SERVICES, MultiInferenceRequest
from bertline.serving.service import Service

log = logging.getLogger("bertline.serving")

NAMES = tuple(f"tensorflow.serving.{service}" for service in SERVICES)
# The message travels in a header, of which gRPC takes 8 KiB in all, percent-encoded: up to three times as long.
MESSAGE_BYTES = 1500

Request = TypeVar("Request", bound=Message)


def add_services(server: grpc.aio.Server, service: Service, metrics: Metrics, as_content: bool = False) -> Calls:
    """Registers PredictionService and ModelService; Predict answers values as packed bytes with `as_content`."""
    calls = Calls(service, metrics, as_content)
    for name, methods in zip(NAMES, SERVICES.values(), strict=True):
        handlers = {
            method: grpc.unary_unary_rpc_method_handler(
                calls.answering(method), _reader(request), response.SerializeToString
            )
            for method, (request, response) in methods.items()
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, handlers),))
    return calls


class Calls:
    """Answers calls, turns their errors into gRPC's, and counts each with the code it ended with.

    A gRPC server that stops ends calls that it has received but not begun with CANCELLED, which no client retries. So
    calls are held until no more arrive, and then refused with UNAVAILABLE, on which clients go elsewhere.
    """

    def __init__(self, service: Service, metrics: Metrics, as_content: bool):
        self._service = service
        self._metrics = metrics
        self._stopping: asyncio.Event | None = None  # if there is one, calls wait until it is set
        self._answers: dict[str, Callable[[Message], Awaitable[Message]]] = {
            "Predict": partial(service.predict, as_content=as_content),
            "Classify": service.classify,
            "Regress": service.regress,
            "MultiInference": service.multi_inference,
            "GetModelMetadata": _at_once(service.get_model_metadata),
            "GetModelStatus": _at_once(service.get_model_status),
            "HandleReloadConfigRequest": service.reload_config,
        }

    def hold(self) -> None:
        """From now on new calls wait. Those in flight are answered."""
        self._stopping = asyncio.Event()

    def refuse_held(self) -> None:
        """Ends the calls that wait with UNAVAILABLE."""
        if self._stopping:
            self._stopping.set()

    def answering(self, method: str) -> Callable[[Message | RequestError, grpc.aio.ServicerContext], Awaitable]:
        """The handler of a method."""
        answer = self._answers[method]

        async def handle(request: Message | RequestError, context: grpc.aio.ServicerContext) -> Message:
            began = time.perf_counter()
            code, message = grpc.StatusCode.OK, ""
            try:
                if self._stopping:
                    await self._stopping.wait()
                    raise RequestError(grpc.StatusCode.UNAVAILABLE, "the server is stopping; try another, or later")
                if isinstance(request, RequestError):
                    raise request
                return await answer(request)
            except RequestError as error:
                code, message = error.code, str(error)
            except asyncio.CancelledError:
                late = context.time_remaining() == 0  # None without a deadline
                code = grpc.StatusCode.DEADLINE_EXCEEDED if late else grpc.StatusCode.CANCELLED
                raise
            except Exception as error:
                code = grpc.StatusCode.INTERNAL
                message = f"an error of the server's own, {type(error).__name__}; its log says more"
                log.error("%s failed: %s", method, frames(error))
            finally:
                self._metrics.observe_request(self._model(request), method, "GRPC", code, time.perf_counter() - began)
            return await context.abort(code, message.encode()[:MESSAGE_BYTES].decode(errors="ignore"))

        return handle

    def _model(self, request: Message | RequestError) -> str:
        """The model that a request names if it is served, else "": strangers' names would fill the registry."""
        if isinstance(request, MultiInferenceRequest):
            request = request.tasks[0] if request.tasks else request
        name = request.model_spec.name if hasattr(request, "model_spec") else ""
        return name if name in self._service.models.names() else ""


def _reader(kind: type[Request]) -> Callable[[bytes], Request | RequestError]:
    """Reads a message, or returns the error to answer with: gRPC's own for a malformed message says nothing."""

    def read(message: bytes) -> Request | RequestError:
        try:
            return kind.FromString(message)
        except DecodeError:
            return invalid(f"the request is not a {kind.DESCRIPTOR.full_name}")

    return read


def _at_once(answer: Callable[[Request], Message]) -> Callable[[Request], Awaitable[Message]]:
    async def answered(request: Request) -> Message:
        return answer(request)

    return answered
