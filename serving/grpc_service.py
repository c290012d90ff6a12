"""The gRPC services of TF Serving over `Service`, each call counted and timed."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import grpc

from serving.errors import RequestError
from serving.metrics import Metrics
from serving.protos import (
    ModelServiceServicer,
    PredictionServiceServicer,
    add_ModelServiceServicer_to_server,
    add_PredictionServiceServicer_to_server,
)
from serving.service import Service

log = logging.getLogger("bertline.serving")

NAMES = ("tensorflow.serving.PredictionService", "tensorflow.serving.ModelService")
# The message travels in a header, of which gRPC takes 8 KiB in all, percent-encoded.
MESSAGE_CHARACTERS = 1500

Answer = TypeVar("Answer")


def add_services(server: grpc.aio.Server, service: Service, metrics: Metrics) -> None:
    """Registers PredictionService and ModelService."""
    calls = _Calls(service, metrics)
    add_PredictionServiceServicer_to_server(_PredictionService(calls, service), server)
    add_ModelServiceServicer_to_server(_ModelService(calls, service), server)


class _Calls:
    """Answers a call: its errors become gRPC's, and it is counted with the code it ended with."""

    def __init__(self, service: Service, metrics: Metrics):
        self._service = service
        self._metrics = metrics

    async def answer(
        self, method: str, model: str, context: grpc.aio.ServicerContext, answer: Callable[[], Awaitable[Answer]]
    ) -> Answer:
        began = time.perf_counter()
        code, message = grpc.StatusCode.OK, ""
        try:
            return await answer()
        except RequestError as error:
            code, message = error.code, str(error)
        except asyncio.CancelledError:
            late = (context.time_remaining() or 1.0) <= 0
            code = grpc.StatusCode.DEADLINE_EXCEEDED if late else grpc.StatusCode.CANCELLED
            raise
        except Exception as error:
            code = grpc.StatusCode.INTERNAL
            message = f"an error of the server's own, {type(error).__name__}; its log says more"
            log.exception("%s of model %s failed", method, model)
        finally:
            known = model if model in self._service.models.names() else ""  # strangers' names would fill the registry
            self._metrics.observe_request(known, method, "GRPC", code, time.perf_counter() - began)
        return await context.abort(code, message[:MESSAGE_CHARACTERS])


class _PredictionService(PredictionServiceServicer):
    """tensorflow.serving.PredictionService."""

    def __init__(self, calls: _Calls, service: Service):
        self._calls = calls
        self._service = service

    async def Predict(self, request, context):
        """The outputs of a signature for the request's tensors."""
        name = request.model_spec.name
        return await self._calls.answer("Predict", name, context, lambda: self._service.predict(request))

    async def Classify(self, request, context):
        """Classes and scores of tf.Examples."""
        name = request.model_spec.name
        return await self._calls.answer("Classify", name, context, lambda: self._service.classify(request))

    async def Regress(self, request, context):
        """A number for each tf.Example."""
        name = request.model_spec.name
        return await self._calls.answer("Regress", name, context, lambda: self._service.regress(request))

    async def MultiInference(self, request, context):
        """Several signatures over the same tf.Examples."""
        name = request.tasks[0].model_spec.name if request.tasks else ""
        return await self._calls.answer("MultiInference", name, context, lambda: self._service.multi_inference(request))

    async def GetModelMetadata(self, request, context):
        """The signatures of a model."""

        async def answer():
            return self._service.get_model_metadata(request)

        return await self._calls.answer("GetModelMetadata", request.model_spec.name, context, answer)


class _ModelService(ModelServiceServicer):
    """tensorflow.serving.ModelService."""

    def __init__(self, calls: _Calls, service: Service):
        self._calls = calls
        self._service = service

    async def GetModelStatus(self, request, context):
        """The states of a model's versions."""

        async def answer():
            return self._service.get_model_status(request)

        return await self._calls.answer("GetModelStatus", request.model_spec.name, context, answer)

    async def HandleReloadConfigRequest(self, request, context):
        """Changes what is served."""
        return await self._calls.answer(
            "HandleReloadConfigRequest", "", context, lambda: self._service.reload_config(request)
        )
