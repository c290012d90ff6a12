"""TF Serving's methods, whatever the transport: protos in, protos out, RequestError for what cannot be answered."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import grpc
import numpy as np
from google.protobuf.message import Message

from bertline.serving import methods, record_rows
from bertline.serving.batching import Batcher, BatchingOptions
from bertline.serving.bodies import Bodies, Share
from bertline.serving.calls import Call
from bertline.serving.canary import Canary
from bertline.serving.canary_answers import Said
from bertline.serving.errors import RequestError, invalid
from bertline.serving.inference import Compute, Inference
from bertline.serving.limits import Limits
from bertline.serving.metrics import Metrics
from bertline.serving.models import Models, another_reload
from bertline.serving.monitored import TEXT
from bertline.serving.protos import (
    GetModelMetadataRequest,
    GetModelMetadataResponse,
    GetModelStatusRequest,
    GetModelStatusResponse,
    ModelSpec,
    PredictionLog,
    PredictRequest,
    ReloadConfigRequest,
    ReloadConfigResponse,
    SignatureDefMap,
    TensorInfo,
)
from bertline.serving.recording import Entry
from bertline.serving.records import Recorder
from bertline.serving.roots import Roots
from bertline.serving.servable import DEFAULT_SIGNATURE, Servable
from bertline.serving.threads import Threads

SIGNATURE_DEF = "signature_def"  # the one metadata field there is


class _Answer(NamedTuple):
    """What came of a request: as messages, and as the caller gets it."""

    request: Any
    response: Any
    result: Any


class Service:
    """Answers requests with the models. All methods are for one event loop; the models run in threads.

    A request that has not begun to run costs nothing more once its caller is gone (its task is cancelled).

    Args:
        models: what is served.
        metrics: where batches and requests in flight are counted.
        limits: the most that a request may take.
        batching: how requests share runs; None runs each by itself.
        reload_roots: gives the folders that HandleReloadConfigRequest may name; None refuses it.
        recorder: keeps what is asked and answered; None keeps nothing.
        canary: tries a new version in traffic; None leaves it to the models which version answers.
    """

    def __init__(
        self,
        models: Models,
        metrics: Metrics,
        limits: Limits,
        batching: BatchingOptions | None = None,
        *,
        reload_roots: Callable[[], Roots] | None = None,
        recorder: Recorder | None = None,
        canary: Canary | None = None,
    ):
        self.models = models
        self.canary = canary
        self.bodies = Bodies(limits)
        self._limits = limits
        self._new_lane = partial(_Lane, batching, metrics)
        self._lane = self._new_lane("request")
        # A canary that is slow, or hangs, holds up nobody else's run, and no later canary's.
        self._canary_lane: _Lane | None = None
        self._tried: int | None = None  # the version whose lane it is
        self._reloader = ThreadPoolExecutor(1, thread_name_prefix="reload")
        self._reload: Future | None = None  # the last one
        self._reload_roots = reload_roots
        self.recorder = recorder
        self._running = 0
        metrics.watch_requests(lambda: self._running)

    def acquire(self, spec: ModelSpec, key: bytes | None = None):
        """Context manager: the servable that a model_spec names, kept loaded until the block ends.

        Args:
            spec: of the request.
            key: as `Canary.key`: by it a canary gets its share of the requests that name no version.

        Raises:
            RequestError: NOT_FOUND, or INVALID_ARGUMENT for a label; the message says what is there instead.
        """
        if self.canary and self.canary.routes(spec):
            return self.canary.acquire(spec, key)
        return self.models.acquire(spec)

    async def infer_message(
        self, method: str, request: Message, *, as_content: bool = False, **options: Any
    ) -> Message:
        """A method's response to a message, which says itself what its tensors are, whatever the version.

        Args:
            method: Predict, Classify, Regress or MultiInference.
            request: its request.
            as_content: whether Predict answers values as packed bytes (tensor_content) rather than as lists.
            options: of `infer`.

        Raises:
            RequestError: as `infer`.
        """

        def exchange(_: Servable, compute: Compute) -> Awaitable[Message]:
            return compute(request)

        spec = methods.BY_NAME[method].spec(request)
        own = {"as_content": as_content} if isinstance(request, PredictRequest) else {}
        return await self.infer(Inference(method, spec, exchange, request.ByteSize(), own), **options)

    async def infer(
        self,
        inference: Inference,
        *,
        share: Share | None = None,
        entry: Entry | None = None,
        key: bytes | None = None,
        seconds: float | None = None,
    ) -> Any:
        """What the inference's `exchange` returns for the version that answers.

        Args:
            inference: the request.
            share: what it holds of the budget for bodies; None for nothing yet.
            entry: gets what is recorded of it; None records nothing.
            key: as in `acquire`.
            seconds: that its caller waits, as far as the transport knows, which then cancels this; None without an end.

        Raises:
            RequestError: what is wrong with the request (NOT_FOUND for the model or version, for the signature
                FAILED_PRECONDITION of Predict and INVALID_ARGUMENT of the others, INVALID_ARGUMENT for tensors), the
                graph's own error, RESOURCE_EXHAUSTED or UNAVAILABLE under too much load.
        """
        with self.admitted(), nullcontext(share) if share else self.bodies.share() as held:
            answer, servable = await self._routed(inference, held, entry, key, seconds)
        self._sample(servable, methods.BY_NAME[inference.method], answer)
        return answer.result

    def get_model_metadata(self, request: GetModelMetadataRequest) -> GetModelMetadataResponse:
        """The signatures of a model, packed as TF Serving packs them.

        Raises:
            RequestError: INVALID_ARGUMENT for unknown metadata fields, NOT_FOUND for the model.
        """
        if not request.HasField("model_spec"):
            raise invalid("Missing ModelSpec")
        if not request.metadata_field:
            raise invalid("GetModelMetadataRequest must specify at least one metadata_field")
        for name in request.metadata_field:
            if name != SIGNATURE_DEF:
                raise invalid(f"Metadata field {name} is not supported")
        signatures, response = SignatureDefMap(), GetModelMetadataResponse()
        with self.acquire(request.model_spec) as servable:
            for name, signature in servable.signatures.items():
                signatures.signature_def[name].CopyFrom(signature)
            response.model_spec.name = servable.model
            response.model_spec.version.value = servable.version
        response.metadata[SIGNATURE_DEF].Pack(signatures)
        return response

    def get_model_status(self, request: GetModelStatusRequest) -> GetModelStatusResponse:
        """The state of each version of a model, or of the version that the request names.

        Raises:
            RequestError: NOT_FOUND for the model or version, INVALID_ARGUMENT for a label that the model does not have.
        """
        if not request.HasField("model_spec"):
            raise invalid("Missing ModelSpec")
        name, states = request.model_spec.name, self.models.states(request.model_spec.name)
        version = self.models.version_of(request.model_spec)
        if version is not None:
            if version not in states:
                message = f"Could not find version {version} of model {name}"
                raise RequestError(grpc.StatusCode.NOT_FOUND, message)
            states = {version: states[version]}
        if not states:
            raise RequestError(grpc.StatusCode.NOT_FOUND, f"Could not find any versions of model {name}")
        response = GetModelStatusResponse()
        for version, state in sorted(states.items()):
            status = response.model_version_status.add(version=version, state=state.state)
            status.status.error_code = state.code
            status.status.error_message = state.message
        return response

    async def reload_config(self, request: ReloadConfigRequest) -> ReloadConfigResponse:
        """Serves the models of the request's config in place of the present ones; returns when they answer.

        Raises:
            RequestError: PERMISSION_DENIED if anybody on the network could do so; otherwise as `Models.reload`.
        """
        if self._reload_roots is None:
            raise RequestError(
                grpc.StatusCode.PERMISSION_DENIED,
                "this server listens beyond its own machine without API keys, so no caller is known to be its "
                "administrator: change its models through --model_config_file, or give it --api_keys_file",
            )
        if self.canary:
            raise RequestError(
                grpc.StatusCode.FAILED_PRECONDITION,
                "this server decides by serve.canary which versions it serves; push a version, or roll one back",
            )
        if request.config.WhichOneof("config") != "model_config_list":
            raise invalid(
                "ServerModelConfig type not supported by HandleReloadConfigRequest. Only ModelConfigList is currently "
                "supported"
            )
        if self._reload and not self._reload.done():  # it goes on when its caller has gone
            raise another_reload()
        self._reload = self._reloader.submit(self.models.reload, request.config, self._reload_roots())
        await asyncio.wrap_future(self._reload)
        return ReloadConfigResponse()

    def close(self) -> None:
        """Ends the threads."""
        for lane in filter(None, (self._lane, self._canary_lane)):
            lane.close()
        self.bodies.close()
        self._reloader.shutdown(wait=False, cancel_futures=True)

    async def _routed(
        self, inference: Inference, share: Share, entry: Entry | None, key: bytes | None, seconds: float | None
    ) -> tuple[_Answer, Servable]:
        with self.acquire(inference.spec, key) as servable:
            run = partial(self._run, inference, share)
            if self.canary is None or not self.canary.routes(inference.spec):
                return await run(servable, None, entry), servable
            beside = partial(self._run_beside, inference)
            return await self.canary.answer(run, beside, servable, entry, inference.size, seconds)

    async def _run_beside(
        self, inference: Inference, servable: Servable, said: Said | None, entry: Entry | None
    ) -> _Answer:
        """As `_run`, for a request that has been answered already."""
        with self.bodies.share() as share:
            return await self._run(inference, share, servable, said, entry)

    async def _run(
        self, inference: Inference, share: Share, servable: Servable, said: Said | None, entry: Entry | None
    ) -> _Answer:
        lane = self._lane_of(servable)
        made: tuple[Any, Any] = (None, None)

        async def compute(request: Any) -> Any:
            nonlocal made
            response = await self._computed(inference, request, share, lane, servable, said, entry)
            made = request, response
            return response

        with lane.used(), share.trying():  # a trial may end while the request is read
            result = await inference.exchange(servable, compute)
        return _Answer(*made, result)

    async def _computed(
        self,
        inference: Inference,
        request: Any,
        share: Share,
        lane: _Lane,
        servable: Servable,
        said: Said | None,
        entry: Entry | None,
    ) -> Any:
        """The response to a request as a message."""
        method = methods.BY_NAME[inference.method]
        spec = method.spec(request)
        try:
            if isinstance(request, PredictRequest):
                signature = servable.signature(spec.signature_name)
                size = self._limits.check(request.inputs, signature.inputs if signature else {})
            else:
                size = self._limits.check_input(request.input)
            share.grow(size)
            call = await self.bodies.work(size, method.prepare, servable, request)
            signature = spec.signature_name or DEFAULT_SIGNATURE
            outputs = await self._outputs(lane, servable, signature, call, entry)
            if said is not None:
                said.take(_by_alias(servable.signatures[signature].outputs, outputs))
            size = sum(output.nbytes for output in outputs.values())
            return await self.bodies.work(size, partial(method.answer, servable, request, outputs, **inference.options))
        except RequestError as error:
            named = f", signature {spec.signature_name}" if spec.signature_name else ""
            raise type(error)(error.code, f"{error} [{servable.where}{named}]") from error

    async def _outputs(
        self, lane: _Lane, servable: Servable, signature: str, call: Call, entry: Entry | None
    ) -> dict[str, np.ndarray]:
        """The outputs of a call by tensor names, which the entry gets as well, with what is only recorded."""
        monitored = servable.monitored if self.recorder and signature == TEXT else None
        if entry:
            self._note(entry, servable, signature, call, {}, {})
        if monitored is None:
            outputs = await lane.run(servable, signature, call)
            aliases = {name: info.name for name, info in servable.signatures[signature].outputs.items()}
            if entry:
                self._note(entry, servable, signature, call, aliases, outputs)
            return outputs
        # Also where this request is not recorded, so that all requests share batches.
        outputs = await lane.run(servable, signature, monitored.call(call))
        if entry:
            self._note(entry, servable, signature, call, monitored.aliases, outputs)
        return monitored.answer(outputs)

    def _lane_of(self, servable: Servable) -> _Lane:
        self._follow_trial()
        return self._canary_lane if self._canary_lane and servable.version == self._tried else self._lane

    def _follow_trial(self) -> None:
        """Gives each canary a lane of its own, until its trial ends."""
        tried = self.canary.trial.canary if self.canary else None
        if tried == self._tried:
            return
        if self._canary_lane:
            self._canary_lane.leave()
        self._canary_lane = None if tried is None else self._new_lane("request-canary")
        self._tried = tried

    def _note(
        self,
        entry: Entry,
        servable: Servable,
        signature: str,
        call: Call,
        aliases: Mapping[str, str],
        outputs: Mapping[str, np.ndarray],
    ) -> None:
        """Gives an entry what it needs to make its rows later."""
        names = {info.name: name for name, info in servable.signatures[signature].inputs.items()}
        inputs = {names[tensor]: feed for tensor, feed in call.feeds.items()}
        answer = {name: outputs[tensor] for name, tensor in aliases.items() if tensor in outputs}
        entry.version, entry.signature = servable.version, signature
        entry.content = partial(record_rows.of_call, inputs, answer, self.recorder.options)
        entry.size = sum(_bytes(array) for array in (*inputs.values(), *answer.values()))

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Counts a request in flight. One too many is refused at once rather than left to wait for long."""
        if self._running >= self._limits.max_concurrent_requests:
            raise RequestError(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"{self._running} requests are in flight, and no more are accepted; try again shortly",
            )
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1

    def _sample(self, servable: Servable, method: methods.Method, answer: _Answer) -> None:
        sampler = self.models.sampler(servable.model)
        if sampler is None or not sampler.is_next():
            return
        log = PredictionLog()
        getattr(log, method.log).request.CopyFrom(answer.request)
        getattr(log, method.log).response.CopyFrom(answer.response)
        sampler.offer(log)


class _Lane:
    """Where calls run: in batches, or in threads of their own."""

    def __init__(self, batching: BatchingOptions | None, metrics: Metrics, name: str):
        self._batcher = Batcher(batching, metrics) if batching else None
        # TensorFlow spreads one run over all cores: more runs at once would only wait for each other.
        self._threads = Threads(os.cpu_count() or 1, name)
        self._users = 0
        self._left = False

    @contextmanager
    def used(self) -> Iterator[None]:
        """Keeps the threads until the block ends, also where the lane is left meanwhile."""
        self._users += 1
        try:
            yield
        finally:
            self._users -= 1
            if self._left and not self._users:
                self.close()

    async def run(self, servable: Servable, signature: str, call: Call) -> dict[str, np.ndarray]:
        """The outputs of a call by tensor names. The caller is one of the lane's users."""
        if self._batcher and call.has_rows and servable.is_batchable([*call.feeds, *call.fetches]):
            return await self._batcher.run(servable, signature, call)
        return await self._threads.run(servable.run, call)

    def leave(self) -> None:
        """Ends the threads as soon as nobody uses them. No other user may come."""
        self._left = True
        if not self._users:
            self.close()

    def close(self) -> None:
        """Ends the threads once their work is done."""
        if self._batcher:
            self._batcher.close()
        self._threads.close()


def _by_alias(infos: Mapping[str, TensorInfo], outputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The outputs of a signature that were fetched, by its own names."""
    return {alias: outputs[info.name] for alias, info in infos.items() if info.name in outputs}


def _bytes(array: np.ndarray) -> int:
    """Bytes that an array holds, the strings of one of objects among them."""
    if array.dtype != object:
        return array.nbytes
    return sum(len(value) for value in array.ravel().tolist() if isinstance(value, bytes)) + array.nbytes
