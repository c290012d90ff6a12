"""The gRPC services of TF Serving over `Service`, each call counted and timed."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from bertline.serving.bodies import Share
from bertline.serving.errors import RequestError, frames, invalid
from bertline.serving.metrics import Metrics
from bertline.serving.protos import SERVICES, MultiInferenceRequest, ReloadConfigRequest, ReloadConfigResponse
from bertline.serving.recording import ID_HEADER, Entry
from bertline.serving.service import Service
from bertline.serving.stopping import Stopping

log = logging.getLogger("bertline.serving")

NAMES = tuple(f"tensorflow.serving.{service}" for service in SERVICES)
# The message travels in a header, of which gRPC takes 8 KiB in all, percent-encoded: up to three times as long.
MESSAGE_BYTES = 1500

RECORDED = ("Predict", "Classify")  # the methods that answer texts
ROUTED = (*RECORDED, "Regress", "MultiInference")  # of which a canary answers some

Request = TypeVar("Request", bound=Message)


def add_services(server: grpc.aio.Server, service: Service, metrics: Metrics, as_content: bool = False) -> Calls:
    """Registers PredictionService and ModelService; Predict answers values as packed bytes with `as_content`."""
    calls = Calls(service, metrics, as_content)
    for name, methods in zip(NAMES, SERVICES.values(), strict=True):
        handlers = {
            method: grpc.stream_unary_rpc_method_handler(calls.answering(method, request))
            for method, (request, _) in methods.items()
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, handlers),))
    return calls


class Calls:
    """Answers calls, turns their errors into gRPC's, and counts each with the code it ended with.

    Each method has one message both ways. To gRPC's Python it is a stream of one, which alone is read when we say so.

    Attributes:
        stopping: holds and refuses calls when the server ends.
    """

    def __init__(self, service: Service, metrics: Metrics, as_content: bool):
        self._service = service
        self._bodies = service.bodies
        self._metrics = metrics
        self.stopping = Stopping()
        self._answers: dict[str, Callable[..., Awaitable[Message]]] = {
            method: partial(service.infer_message, method, as_content=as_content) for method in ROUTED
        } | {
            "GetModelMetadata": _at_once(service.get_model_metadata),
            "GetModelStatus": _at_once(service.get_model_status),
            "HandleReloadConfigRequest": self._reload,
        }

    def answering(
        self, method: str, kind: type[Message]
    ) -> Callable[[AsyncIterator[bytes], grpc.aio.ServicerContext], Awaitable[bytes]]:
        """The handler of a method whose requests are of this kind."""
        answer = self._answers[method]

        async def handle(_: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> bytes:
            began = time.perf_counter()
            code, message, request = grpc.StatusCode.OK, "", None
            entry = self._entry(context) if method in RECORDED else None
            try:
                await self.stopping.check()
                with self._bodies.share() as share:
                    message = await self._message(kind, context, share)
                    request = await self._bodies.work(len(message), _parsed, kind, message)
                    options = {"entry": entry} if entry else {}
                    if method in ROUTED and self._service.canary:
                        own = _metadata(context, self._service.canary.plan.key)
                        options["key"] = self._service.canary.key(own, message)
                        options["seconds"] = context.time_remaining()
                    del message
                    response = await answer(request, share=share, **options)
                    return await self._bodies.work(response.ByteSize(), response.SerializeToString)
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
                model, seconds = self._model(request), time.perf_counter() - began
                self._metrics.observe_request(model, method, "GRPC", code, seconds)
                if entry and model:
                    self._service.recorder.end(entry, model, code.name, seconds)
            return await context.abort(code, message.encode()[:MESSAGE_BYTES].decode(errors="ignore"))

        return handle

    def _entry(self, context: grpc.aio.ServicerContext) -> Entry | None:
        """The entry of a call, of whose id the caller is told; None if it is not recorded."""
        if self._service.recorder is None:
            return None
        own = _metadata(context, ID_HEADER)
        entry = self._service.recorder.begin(own)
        if entry:
            context.set_trailing_metadata(((ID_HEADER, entry.id),))
        return entry

    async def _reload(self, request: ReloadConfigRequest, share: Share) -> ReloadConfigResponse:
        return await self._service.reload_config(request)

    async def _message(self, kind: type[Message], context: grpc.aio.ServicerContext, share: Share) -> bytes:
        async with self._bodies.place():
            message = await context.read()
            if message is grpc.aio.EOF:
                raise invalid(f"the call holds no {kind.DESCRIPTOR.full_name}")
            share.grow(len(message))
        return message

    def _model(self, request: Message | None) -> str:
        """The model that a request names if it is served, else "": strangers' names would fill the registry."""
        if isinstance(request, MultiInferenceRequest):
            request = request.tasks[0] if request.tasks else request
        name = request.model_spec.name if hasattr(request, "model_spec") else ""
        return name if name in self._service.models.names() else ""


def _metadata(context: grpc.aio.ServicerContext, name: str) -> str | None:
    return next((value for key, value in context.invocation_metadata() if key == name), None)


def _parsed(kind: type[Request], message: bytes) -> Request:
    try:
        return kind.FromString(message)
    except DecodeError:  # gRPC's own error for a malformed message says nothing
        raise invalid(f"the request is not a {kind.DESCRIPTOR.full_name}") from None


def _at_once(answer: Callable[[Request], Message]) -> Callable[..., Awaitable[Message]]:
    async def answered(request: Request, share: Share) -> Message:
        return answer(request)

    return answered
