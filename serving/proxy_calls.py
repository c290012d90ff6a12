"""gRPC through the log proxy: every call passes as it came; of those that answer texts a record is kept."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial

import grpc
from google.protobuf.message import DecodeError, Message

from bertline.serving import exchanges
from bertline.serving.access import HEALTH_SERVICE
from bertline.serving.bodies import LOOP_BYTES
from bertline.serving.errors import RequestError, frames
from bertline.serving.protos import ClassificationRequest, PredictRequest
from bertline.serving.proxy_metrics import ProxyMetrics
from bertline.serving.recording import ID_HEADER, Entry
from bertline.serving.records import Recorder
from bertline.serving.stopping import Stopping
from bertline.serving.upstream import Headers, Known, Models

log = logging.getLogger("bertline.serving")

SERVICE = "/tensorflow.serving.PredictionService/"
# The methods that answer texts, and their requests.
RECORDED: dict[str, type[Message]] = {
    f"{SERVICE}Predict": PredictRequest,
    f"{SERVICE}Classify": ClassificationRequest,
}
# Of a request that asks for more than its caller did: what would meet the caller's own request just as well.
OF_THE_SERVER = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.CANCELLED,
}

# In which a caller's one message has come whole, and a server behind has said that it does not know a method.
AT_ONCE_SECONDS = 0.02

Context = grpc.aio.ServicerContext


@dataclass
class _Exchange:
    """A call that is under way.

    Attributes:
        method: its full name.
        context: of the caller.
        headers: of the caller, passed on.
        entry: of its record; None where none is kept.
        began: when it came.
        away: seconds that the server behind has had it.
    """

    method: str
    context: Context
    headers: Headers
    entry: Entry | None
    began: float
    away: float = 0.0


@dataclass(frozen=True)
class _Answer:
    """Of the server behind: the message, what came before it and what came after."""

    message: bytes
    leading: Headers
    trailing: Headers


class Calls(grpc.GenericRpcHandler):
    """Passes all calls of a grpc.aio server on to a channel, whatever their method.

    Args:
        channel: to the server behind.
        models: of that server.
        recorder: keeps the records.
        metrics: counts.

    Attributes:
        stopping: holds and refuses calls when the proxy ends.
    """

    def __init__(self, channel: grpc.aio.Channel, models: Models, recorder: Recorder, metrics: ProxyMetrics):
        self._channel, self._models, self._recorder, self._metrics = channel, models, recorder, metrics
        self._methods = {method: channel.unary_unary(method) for method in RECORDED}
        self.stopping = Stopping()

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        """The handler of a method. Without serializers, messages stay bytes."""
        method = handler_call_details.method
        if method in RECORDED:
            return grpc.unary_unary_rpc_method_handler(partial(self._recorded, method))
        return grpc.stream_stream_rpc_method_handler(partial(self._passed, method))  # on the wire all calls are streams

    async def _passed(self, method: str, messages: AsyncIterator[bytes], context: Context) -> None:
        """Any other method: message for message, both ways."""
        if not method.startswith(HEALTH_SERVICE):
            await self._unless_stopping(context)
        with closing(_Sent(messages)) as sent:
            call = await self._begun(method, sent, context)
            try:
                await context.send_initial_metadata(tuple(await call.initial_metadata()))
                async for message in call:
                    await context.write(message)
                context.set_trailing_metadata(tuple(await call.trailing_metadata()))
            except grpc.aio.AioRpcError as error:
                await _refuse(context, error, ())
            finally:
                call.cancel()  # the caller may be gone

    async def _begun(
        self, method: str, sent: _Sent, context: Context
    ) -> grpc.aio.UnaryStreamCall | grpc.aio.StreamStreamCall:
        only = await sent.only()
        options = {"timeout": context.time_remaining(), "metadata": _forwarded(context)}
        if only is not None:
            return self._channel.unary_stream(method)(only, **options)
        ended = asyncio.Event()
        call = self._channel.stream_stream(method)(sent.until(ended), **options)
        call.add_done_callback(lambda _: ended.set())
        return call

    async def _recorded(self, method: str, message: bytes, context: Context) -> bytes:
        """A method that answers texts."""
        await self._unless_stopping(context)
        entry = self._entry(context)
        if entry and len(message) > exchanges.RECORDED_BYTES:
            self._recorder.leave_out()
            entry = None
        exchange = _Exchange(method, context, _forwarded(context), entry, time.perf_counter())
        code, model = grpc.StatusCode.CANCELLED, ""
        try:
            if exchange.entry is None:
                answer = await self._sent(exchange, message)
            else:
                request = await _parsed(RECORDED[method], message)
                model = request.model_spec.name if request else ""
                answer = await self._kept_or_passed(exchange, message, request)
            code = grpc.StatusCode.OK
        except grpc.aio.AioRpcError as error:
            code = error.code()
            return await _refuse(context, error, _own_id(exchange))
        finally:
            seconds = time.perf_counter() - exchange.began
            self._metrics.observe(method.rpartition("/")[2], "GRPC", code, seconds - exchange.away)
            if exchange.entry and self._models.is_served(model):
                self._recorder.end(exchange.entry, model, code.name, seconds)
        if answer.leading:
            await context.send_initial_metadata(tuple(answer.leading))
        context.set_trailing_metadata((*_without_id(answer.trailing), *_own_id(exchange)))
        return answer.message

    async def _kept_or_passed(self, exchange: _Exchange, message: bytes, request: Message | None) -> _Answer:
        """The answer of the server behind: a fault of the proxy's own is never in the way of it."""
        try:
            return await self._kept(exchange, message, request)
        except grpc.aio.AioRpcError:
            raise
        except Exception as error:  # such as an answer that cannot be read
            log.error("%s: passed on without vectors: %s", exchange.method, frames(error))
            return await self._sent(exchange, message)

    async def _kept(self, exchange: _Exchange, message: bytes, request: Message | None) -> _Answer:
        """The answer of the server behind, and in the entry what its record is made of."""
        if request is None:  # the server says what is wrong with it
            return await self._sent(exchange, message)
        known = await self._models.known(request.model_spec, exchange.headers)
        exchange.entry.signature = exchanges.signature_of(request.model_spec)
        rows = exchanges.predicted if isinstance(request, PredictRequest) else exchanges.classified
        self._note(exchange.entry, rows, request, len(message), None)
        answer, whole = await self._asked(exchange, message, request, known)
        if len(whole) > exchanges.RECORDED_BYTES:
            self._recorder.leave_out()
            exchange.entry = None
        else:
            self._note(exchange.entry, rows, request, len(message) + len(whole), whole)
        return answer

    def _note(
        self, entry: Entry, rows: Callable[..., object], request: Message, size: int, answer: bytes | None
    ) -> None:
        entry.content, entry.size = partial(rows, request, answer, self._recorder.options), size

    async def _asked(
        self, exchange: _Exchange, message: bytes, request: Message, known: Known | None
    ) -> tuple[_Answer, bytes]:
        """The caller's answer, and all that the server behind told."""
        more = None
        if isinstance(request, PredictRequest) and self._recorder.options.embeddings:
            more = exchanges.monitored(request, known)
        if more is not None:
            try:
                told = await self._sent(exchange, more)
            except grpc.aio.AioRpcError as error:
                if error.code() in OF_THE_SERVER:
                    raise
            else:
                message_of_text = exchanges.answer_of_text(told.message, request, known)
                if message_of_text is not None:
                    return _Answer(message_of_text, told.leading, told.trailing), told.message
            # The server's words on what the caller asked, or a version that is not known yet: as if nothing were kept.
            self._models.forget(request.model_spec)
        answer = await self._sent(exchange, message)
        return answer, answer.message

    async def _sent(self, exchange: _Exchange, message: bytes) -> _Answer:
        """The answer to a message, within what is left of the caller's time."""
        began = time.perf_counter()
        try:
            call = self._methods[exchange.method](
                message, timeout=exchange.context.time_remaining(), metadata=exchange.headers
            )
            answer = await call  # when the caller goes, this task is cancelled, and with it the call
            return _Answer(answer, tuple(await call.initial_metadata()), tuple(await call.trailing_metadata()))
        finally:
            exchange.away += time.perf_counter() - began

    def _entry(self, context: Context) -> Entry | None:
        """The entry of a call; None if it is not recorded."""
        return self._recorder.begin(next((v for key, v in context.invocation_metadata() if key == ID_HEADER), None))

    async def _unless_stopping(self, context: Context) -> None:
        try:
            await self.stopping.check()
        except RequestError as error:
            await context.abort(error.code, str(error))


def _own_id(exchange: _Exchange) -> Headers:
    """The id of the record, for the caller."""
    return ((ID_HEADER, exchange.entry.id),) if exchange.entry else ()


class _Sent:
    """A caller's messages, which may be one or a stream.

    gRPC's Python loses the status with which a server ends a call while a stream is being written to it: the caller
    would read INTERNAL where it says UNIMPLEMENTED. So one message goes out with the call's beginning, as it came in,
    and the first one of a stream only after a server that knows no such method has had the time to say so.
    """

    def __init__(self, messages: AsyncIterator[bytes]):
        self._messages = messages
        self._ahead: list[asyncio.Task[bytes | None]] = []  # read, or being read, and not yet sent on

    async def only(self) -> bytes | None:
        """The message of a caller that sends one; None where there is none yet, or more may come."""
        first = await self._next_one()
        if first is None or first.result() is None:
            return None
        second = await self._next_one()
        return first.result() if second and second.result() is None else None

    async def _next_one(self) -> asyncio.Task[bytes | None] | None:
        reading = asyncio.create_task(self._read())
        self._ahead.append(reading)
        await asyncio.wait([reading], timeout=AT_ONCE_SECONDS)
        return reading if reading.done() else None

    async def _read(self) -> bytes | None:
        return await anext(self._messages, None)

    async def until(self, ended: asyncio.Event) -> AsyncIterator[bytes]:
        """The messages of a stream, as long as its call has not ended."""
        with suppress(TimeoutError):
            await asyncio.wait_for(ended.wait(), AT_ONCE_SECONDS)
        while not ended.is_set():
            message = await (self._ahead.pop(0) if self._ahead else self._read())
            if message is None:
                return
            yield message

    def close(self) -> None:
        """Reads no more."""
        for reading in self._ahead:
            reading.cancel()


async def _parsed(kind: type[Message], message: bytes) -> Message | None:
    """The request; None for bytes that are none."""
    try:
        if len(message) <= LOOP_BYTES:
            return kind.FromString(message)
        return await asyncio.to_thread(kind.FromString, message)
    except DecodeError:
        return None


async def _refuse(context: Context, error: grpc.aio.AioRpcError, own: Headers) -> Awaitable[None]:
    """Ends a call as the server behind ended it."""
    trailing = (*_without_id(error.trailing_metadata() or ()), *own)
    await context.abort(error.code(), error.details() or "", trailing)


def _forwarded(context: Context) -> Headers:
    """The caller's metadata without gRPC's own, which each connection has for itself."""
    return tuple(
        (key, value)
        for key, value in context.invocation_metadata()
        if not key.startswith(("grpc-", ":")) and key not in ("user-agent", "te", "content-type")
    )


def _without_id(metadata: Headers) -> Headers:
    """Metadata without another server's id of the request: the proxy's record is the one to find."""
    return tuple((key, value) for key, value in metadata if key != ID_HEADER)
