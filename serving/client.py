"""A gRPC client of a served classifier: texts in, labels and probabilities out.

Works against the embedded server and tensorflow_model_server alike, and starts neither TensorFlow nor Keras.

    from bertline import Client

    with Client("127.0.0.1:8500", "reviews") as client:
        for prediction in client.predict(["arrived broken", "works like a charm"], timeout=5):
            print(prediction.label, prediction.probability)

A model that was trained with `data.multi_label` gives each text any number of labels, in `prediction.labels`.

`AsyncClient` is the same for asyncio: every method is awaited, and it is opened with `async with`. Both take any number
of texts in one call. The texts are sent longest first, in requests of texts of like length, several requests at once: a
server pads all texts of a request to its longest, and on a CPU padding costs as much as text. The answers come back in
the order of the texts.

A request that a server refuses with UNAVAILABLE (it restarts, or its queue is full) is tried up to five times, after
0.2, 0.4, 0.8 and 1.6 seconds, each give or take a fifth. Nothing else is retried: a request that was too large or too
late would only add to the load. `timeout` limits a whole call, retries included.

A server that keeps records tells each answer's id, and so does a client that keeps them itself (`log=`): with it
`bertline feedback` finds the answer again.

Where a name has several addresses, such as a headless Service of Kubernetes, they get the requests in turn.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from queue import SimpleQueue
from types import ModuleType
from typing import Any, ClassVar, TypeVar

import grpc
import grpc.aio

from bertline.serving import messages
from bertline.serving.connection import Connection, Pem
from bertline.serving.messages import Prediction, Signature, TensorInfo, VersionStatus
from bertline.serving.protos import (
    GetModelMetadataRequest,
    GetModelStatusRequest,
    ModelServiceStub,
    ModelSpec,
    PredictionServiceStub,
    PredictRequest,
    PredictResponse,
)
from bertline.serving.recording import ID_HEADER, Entry, RecordOptions

__all__ = ["AsyncClient", "Client", "Prediction", "ServingError", "Signature", "TensorInfo", "VersionStatus"]

SIGNATURE = "text"
BATCH_SIZE = 32  # BERT gains nothing from larger batches on a CPU, and memory grows with them
CONCURRENCY = 4  # two requests for the two threads of a small server, and two that wait while answers travel
REQUEST_SECONDS = 60.0  # 32 long documents take some 10 s on two cores, and CONCURRENCY requests share them
POLL_SECONDS = 0.1
ROWS_NAMED = 5  # in the message of an error; `ServingError.rows` has them all

# Errors that may pass while one waits for a server: it is not there, slow, has no version yet, or limits its callers.
PASSING = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}

Answer = TypeVar("Answer")


class ServingError(RuntimeError):
    """The server could not be reached, refused a request, or gave an answer that cannot be read.

    Attributes:
        code: gRPC's status code.
        rows: indices of the texts in the request that failed; () if it held no texts.
    """

    def __init__(self, code: grpc.StatusCode, message: str, rows: Sequence[int] = (), whole: bool = True):
        super().__init__(message if whole else f"{message} ({_in_words(rows)})")
        self.code = code
        self.rows = tuple(sorted(rows))


def _in_words(rows: Sequence[int]) -> str:
    named = ", ".join(str(row) for row in sorted(rows)[:ROWS_NAMED])
    more = f" and {len(rows) - ROWS_NAMED} more" if len(rows) > ROWS_NAMED else ""
    return f"in the request with texts {named}{more}, counted from 0"


# === What both clients share: everything except the waiting ===


class _Core:
    """Settings, the connection, and the requests and answers of each method."""

    _transport: ClassVar[ModuleType]

    def __init__(
        self,
        address: str,
        model_name: str,
        *,
        version: int | None = None,
        version_label: str | None = None,
        signature: str = SIGNATURE,
        timeout: float | None = None,
        batch_size: int = BATCH_SIZE,
        concurrency: int = CONCURRENCY,
        tls: bool | Pem = False,
        client_certificate: Pem | None = None,
        client_key: Pem | None = None,
        server_name: str | None = None,
        api_key: str | None = None,
        allow_insecure_key: bool = False,
        headers: Mapping[str, str] | None = None,
        log: RecordOptions | str | Path | None = None,
    ):
        for name, value in {"batch_size": batch_size, "concurrency": concurrency}.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        self.model_name = model_name
        self.version = version
        self.version_label = version_label
        self.signature = signature
        self.timeout = timeout
        self.batch_size = batch_size
        self.concurrency = concurrency
        self._spec(signature)  # refuses a version beside a label now rather than at the first call
        self._connection = Connection(
            address,
            tls=tls,
            client_certificate=client_certificate,
            client_key=client_key,
            server_name=server_name,
            api_key=api_key,
            allow_insecure_key=allow_insecure_key,
            headers=headers,
        )
        self._recorder = None
        if log is not None:
            from bertline.serving.records import Recorder  # pyarrow and numpy, which a client without records needs not

            self._recorder = Recorder(log if isinstance(log, RecordOptions) else RecordOptions(Path(log)))

    @property
    def address(self) -> str:
        """The server's, as given."""
        return self._connection.address

    @cached_property
    def _channel(self) -> Any:
        # Opened by the first call: a channel of grpc.aio belongs to the event loop it is opened in.
        return self._connection.open(self._transport)

    @cached_property
    def _prediction(self) -> PredictionServiceStub:
        return PredictionServiceStub(self._channel)

    @cached_property
    def _model(self) -> ModelServiceStub:
        return ModelServiceStub(self._channel)

    def _spec(self, signature: str = "", version: int | None = None, version_label: str | None = None) -> ModelSpec:
        """Names the model and the version: the call's, else the client's, else the server chooses."""
        if version is None and version_label is None:
            version, version_label = self.version, self.version_label
        if version is not None and version_label is not None:
            raise ValueError(f"give a version ({version}) or a version_label ({version_label!r}), not both")
        spec = ModelSpec(name=self.model_name, signature_name=signature, version_label=version_label)
        if version is not None:
            spec.version.value = version
        return spec

    def _limit(self, timeout: float | None) -> float | None:
        return self.timeout if timeout is None else timeout

    def _seconds(self, timeout: float | None) -> float:
        limit = self._limit(timeout)
        return REQUEST_SECONDS if limit is None else limit

    def _options(self, seconds: float) -> dict[str, Any]:
        return {"timeout": seconds, "metadata": self._connection.headers}

    def _error(self, error: grpc.RpcError, seconds: float, part: _Part | None = None) -> ServingError:
        message = self._connection.explain(error.code(), error.details() or "", seconds)
        return ServingError(error.code(), message, *([part.rows, part.whole] if part else []))

    def _begin(self) -> _Asked:
        return _Asked(self._recorder.begin() if self._recorder else None)

    def _end(self, asked: _Asked, part: _Part, predictions: Sequence[Prediction], code: grpc.StatusCode) -> None:
        """Records a request that was answered, or failed without predictions."""
        if asked.entry is None:
            return
        from bertline.serving import record_rows

        texts, pairs = part.inputs["text"], part.inputs.get("text_pair")
        content = partial(record_rows.of_predictions, texts, pairs, predictions, self._recorder.options)
        asked.entry.content, asked.entry.size = content, sum(map(len, texts)) + 1000 * len(texts)
        asked.entry.signature = part.request.model_spec.signature_name
        self._recorder.end(asked.entry, self.model_name, code.name, time.perf_counter() - asked.began)

    def _metadata_request(self) -> GetModelMetadataRequest:
        return GetModelMetadataRequest(model_spec=self._spec(), metadata_field=["signature_def"])

    def _status_request(self) -> GetModelStatusRequest:
        return GetModelStatusRequest(model_spec=self._spec())


@dataclass(frozen=True)
class _Asked:
    """A request under way: the entry of its record, if this client keeps one, and when it was sent."""

    entry: Entry | None
    began: float = field(default_factory=time.perf_counter)

    def ids(self, rows: int, trailing: Iterable[tuple[str, str]] | None) -> list[str | None]:
        """The id of the record of each text: this client's own, else the one that the server tells; None without."""
        told = next((value for key, value in trailing or () if key == ID_HEADER), None)
        entry = self.entry or (Entry(told) if told else None)
        return entry.row_ids(rows) if entry else [None] * rows


@dataclass(frozen=True)
class _Part:
    """A request, the indices of its texts in the call, its texts as UTF-8 by input, and whether these are all."""

    request: PredictRequest
    rows: list[int]
    inputs: dict[str, list[bytes]]
    whole: bool


class _Call:
    """One call of `predict`: its requests, the time that is left, and the answers so far."""

    def __init__(
        self,
        spec: ModelSpec,
        texts: Iterable[str],
        pairs: Iterable[str] | None,
        batch_size: int,
        timeout: float | None,
    ):
        self._spec = spec
        self._inputs = {"text": messages.encoded("texts", texts)}
        self._rows = len(self._inputs["text"])
        if pairs is not None:
            self._inputs["text_pair"] = messages.encoded("pairs", pairs)
            if len(self._inputs["text_pair"]) != self._rows:
                raise ValueError(
                    f"{self._rows} texts and {len(self._inputs['text_pair'])} pairs: there must be one pair for each"
                )
        self._batch_size = batch_size
        self._answers: dict[int, Prediction] = {}
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self.seconds = REQUEST_SECONDS if timeout is None else timeout
        self.requests = -(-self._rows // batch_size)

    def parts(self) -> Iterator[_Part]:
        """Requests of texts of like length, longest first: a text that is too long fails before the rest has run."""
        order = sorted(range(self._rows), key=lambda row: -sum(len(texts[row]) for texts in self._inputs.values()))
        for start in range(0, self._rows, self._batch_size):
            rows = order[start : start + self._batch_size]
            request = PredictRequest(model_spec=self._spec)
            inputs = {name: [texts[row] for row in rows] for name, texts in self._inputs.items()}
            for name, texts in inputs.items():
                messages.set_strings(request.inputs[name], texts)
            yield _Part(request, rows, inputs, whole=self.requests == 1)

    def seconds_left(self) -> float:
        """What the next request may take."""
        return self.seconds if self._deadline is None else max(self._deadline - time.monotonic(), 0.0)

    def add(self, part: _Part, response: PredictResponse, ids: Sequence[str | None]) -> list[Prediction]:
        """Takes the answer to a part, and the id of each record of it; returns the predictions."""
        try:
            predictions = messages.predictions(response, len(part.rows))
        except ValueError as error:
            message = f"signature {self._spec.signature_name} of {self._spec.name} does not classify texts: {error}"
            raise ServingError(grpc.StatusCode.INTERNAL, message, part.rows, part.whole) from error
        if any(ids):
            predictions = [replace(each, id=own) for each, own in zip(predictions, ids, strict=True)]
        self._answers.update(zip(part.rows, predictions, strict=True))
        return predictions

    def predictions(self) -> list[Prediction]:
        """All answers, in the order of the texts."""
        return [self._answers[row] for row in range(self._rows)]


class _Readiness:
    """What a client that waits for a version has seen so far, and how long it goes on waiting."""

    def __init__(self, model_name: str, version_label: str | None, timeout: float):
        self._model_name = model_name
        # So a server answers for a label that it does not know, which may be given to a version yet.
        self._passing = PASSING | ({grpc.StatusCode.INVALID_ARGUMENT} if version_label is not None else set())
        self._deadline = time.monotonic() + timeout
        self._failure: ServingError | None = None

    def seconds_left(self) -> float:
        """How long the next look may take."""
        return max(self._deadline - time.monotonic(), POLL_SECONDS)

    def version(self, statuses: list[VersionStatus]) -> int | None:
        """The newest available version, if any."""
        available = [status.version for status in statuses if status.state == "AVAILABLE"]
        if available:
            return max(available)
        state = statuses[-1] if statuses else "it has no version"
        self.failed(ServingError(grpc.StatusCode.UNAVAILABLE, f"{self._model_name} is not ready: {state}"))
        return None

    def failed(self, error: ServingError) -> None:
        """Notes an error, or raises it if the time is up or waiting does not help."""
        if error.code not in self._passing:
            raise error
        if self._failure is None or error.code != grpc.StatusCode.DEADLINE_EXCEEDED:
            self._failure = error  # the last look is cut short, so the one before knows more
        if self._deadline - time.monotonic() <= POLL_SECONDS:
            raise self._failure


# === The clients ===


class Client(_Core):
    """Calls one model on one server. Many threads may share it. Close it, or use it as a context manager.

    Args:
        address: HOST:PORT, or unix:PATH.
        model_name: the name the server serves the model by.
        version: the version that answers; by default the server chooses, which is its newest.
        version_label: the label of the version that answers, such as "stable", in place of its number.
        signature: the signature to call. Its input is `text` (and `text_pair`), strings of shape [batch]. Its outputs
            are `label`, strings of shape [batch], and `classes` and `probabilities`, of shape [batch, classes]. A
            multi-label model has `assigned`, booleans of shape [batch, classes], in place of `label`.
        timeout: seconds that one call may take, with all its requests and their retries. By default a call has no
            limit, however many texts it has, and each request has REQUEST_SECONDS.
        batch_size: most texts in one request.
        concurrency: most requests of one call in flight at once.
        tls: True for a server whose certificate a public authority signed, else the certificates (PEM: a file's path,
            or the bytes) of the authority that signed it.
        client_certificate: for mutual TLS, the client's certificate chain, PEM as above.
        client_key: for mutual TLS, the client's private key, PEM as above.
        server_name: the name in the server's certificate, if it is not the address's.
        api_key: sent with each request as `authorization: Bearer KEY`.
        allow_insecure_key: whether to send the key without TLS to an address that is not on this machine.
        headers: sent with each request as gRPC metadata, names in lower case, such as {"x-session-id": "ann"}, by which
            a server that tries a new version keeps a caller on one version.
        log: a folder in which this client keeps a record of each text and its answer, for `bertline monitor`, or
            RecordOptions. For a server that keeps none, such as tensorflow_model_server.

    Raises:
        ValueError: settings contradict each other, or the API key would travel unencrypted.
        OSError: a certificate or key file cannot be read.
        UserError: the folder of `log` cannot be written.
    """

    _transport = grpc

    def predict(
        self,
        texts: Iterable[str],
        pairs: Iterable[str] | None = None,
        *,
        timeout: float | None = None,
        version: int | None = None,
        version_label: str | None = None,
        signature: str | None = None,
    ) -> list[Prediction]:
        """Labels of texts, in their order.

        Args:
            texts: any number of texts; the signature's input `text` gets them as strings of shape [batch].
            pairs: the second text of each pair, for a model of text pairs; as many as `texts`.
            timeout: seconds for this call, in place of the client's.
            version: the version for this call, in place of the client's version or label.
            version_label: the version's label for this call, in place of the client's version or label.
            signature: the signature for this call, in place of the client's.

        Returns:
            One Prediction per text, in the order of the texts; [] for no texts.

        Raises:
            ValueError: `texts` or `pairs` is a single string or holds something that is no string, `pairs` has another
                length, or both a version and a label are given.
            ServingError: the server does not answer in time, refuses, or gives an answer that cannot be read. No
                answers are returned then.
        """
        spec = self._spec(signature or self.signature, version, version_label)
        call = _Call(spec, texts, pairs, self.batch_size, self._limit(timeout))
        if call.requests == 1:  # without a future it takes a quarter of a millisecond less
            (part,) = call.parts()
            self._one(call, part)
        else:
            self._pipeline(call)
        return call.predictions()

    def metadata(self, *, timeout: float | None = None) -> tuple[int, dict[str, Signature]]:
        """The version that answers, and its signatures.

        Args:
            timeout: seconds for this call, in place of the client's.

        Returns:
            The version, and its signatures by name; the shape of an input or output has -1 where a size is free.

        Raises:
            ServingError: as `predict`.
        """
        answer = self._ask(self._prediction.GetModelMetadata, self._metadata_request(), self._seconds(timeout))
        return messages.metadata(answer)

    def status(self, *, timeout: float | None = None) -> list[VersionStatus]:
        """The state of each version that the server knows, or only of the client's `version`.

        Args:
            timeout: seconds for this call, in place of the client's.

        Returns:
            The versions' states, ascending by version.

        Raises:
            ServingError: as `predict`; NOT_FOUND while the server knows no version, INVALID_ARGUMENT for a label that
                it does not know. UNAVAILABLE is not retried.
        """
        return messages.statuses(self._ask(self._model.GetModelStatus, self._status_request(), self._seconds(timeout)))

    def wait_until_ready(self, timeout: float) -> int:
        """Waits until a version is available.

        Args:
            timeout: seconds to wait.

        Returns:
            The newest version that is available.

        Raises:
            ServingError: no version was available in time, with the last answer's code and reason. It is raised at once
                if waiting does not help.
        """
        readiness = _Readiness(self.model_name, self.version_label, timeout)
        while True:
            try:
                statuses = self.status(timeout=readiness.seconds_left())
            except ServingError as error:
                readiness.failed(error)
            else:
                if (version := readiness.version(statuses)) is not None:
                    return version
            time.sleep(POLL_SECONDS)

    def close(self) -> None:
        """Closes the connection, and writes the records that wait."""
        self._channel.close()
        if self._recorder:
            self._recorder.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _one(self, call: _Call, part: _Part) -> None:
        asked = self._begin()
        try:
            response, rpc = self._prediction.Predict.with_call(part.request, **self._options(call.seconds))
        except grpc.RpcError as error:
            self._end(asked, part, (), error.code())
            raise self._error(error, call.seconds, part) from error
        predictions = call.add(part, response, asked.ids(len(part.rows), rpc.trailing_metadata()))
        self._end(asked, part, predictions, grpc.StatusCode.OK)

    def _pipeline(self, call: _Call) -> None:
        parts = call.parts()
        under_way: dict[grpc.Future, tuple[_Part, _Asked]] = {}
        done: SimpleQueue[grpc.Future] = SimpleQueue()
        try:
            while True:
                for part in islice(parts, self.concurrency - len(under_way)):
                    asked = self._begin()
                    future = self._prediction.Predict.future(part.request, **self._options(call.seconds_left()))
                    under_way[future] = part, asked
                    future.add_done_callback(done.put)
                if not under_way:
                    return
                future = done.get()
                part, asked = under_way.pop(future)
                try:
                    response = future.result()
                except grpc.RpcError as error:
                    self._end(asked, part, (), error.code())
                    raise self._error(error, call.seconds, part) from error
                predictions = call.add(part, response, asked.ids(len(part.rows), future.trailing_metadata()))
                self._end(asked, part, predictions, grpc.StatusCode.OK)
        finally:
            for future, (part, asked) in under_way.items():
                future.cancel()
                self._end(asked, part, (), grpc.StatusCode.CANCELLED)

    def _ask(self, method: Callable[..., Answer], request: object, seconds: float) -> Answer:
        try:
            return method(request, **self._options(seconds))
        except grpc.RpcError as error:
            raise self._error(error, seconds) from error


class AsyncClient(_Core):
    """`Client` for asyncio: the same arguments, methods and errors, with `await`.

    One client serves any number of tasks of one event loop. A call that is cancelled cancels its requests.
    """

    _transport = grpc.aio

    async def predict(
        self,
        texts: Iterable[str],
        pairs: Iterable[str] | None = None,
        *,
        timeout: float | None = None,
        version: int | None = None,
        version_label: str | None = None,
        signature: str | None = None,
    ) -> list[Prediction]:
        """Labels of texts, in their order; as `Client.predict`."""
        spec = self._spec(signature or self.signature, version, version_label)
        call = _Call(spec, texts, pairs, self.batch_size, self._limit(timeout))
        parts = call.parts()

        async def work() -> None:
            for part in parts:
                asked = self._begin()
                rpc = self._prediction.Predict(part.request, **self._options(call.seconds_left()))
                try:
                    response = await rpc
                except grpc.RpcError as error:
                    self._end(asked, part, (), error.code())
                    raise self._error(error, call.seconds, part) from error
                except asyncio.CancelledError:
                    self._end(asked, part, (), grpc.StatusCode.CANCELLED)
                    raise
                predictions = call.add(part, response, asked.ids(len(part.rows), await rpc.trailing_metadata()))
                self._end(asked, part, predictions, grpc.StatusCode.OK)

        workers = [asyncio.create_task(work()) for _ in range(min(self.concurrency, call.requests))]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
        return call.predictions()

    async def metadata(self, *, timeout: float | None = None) -> tuple[int, dict[str, Signature]]:
        """The served version, and its signatures by name; as `Client.metadata`."""
        answer = await self._ask(self._prediction.GetModelMetadata, self._metadata_request(), self._seconds(timeout))
        return messages.metadata(answer)

    async def status(self, *, timeout: float | None = None) -> list[VersionStatus]:
        """The state of the versions that the server knows of; as `Client.status`."""
        answer = await self._ask(self._model.GetModelStatus, self._status_request(), self._seconds(timeout))
        return messages.statuses(answer)

    async def wait_until_ready(self, timeout: float) -> int:
        """Waits until a version is available and returns it; as `Client.wait_until_ready`."""
        readiness = _Readiness(self.model_name, self.version_label, timeout)
        while True:
            try:
                statuses = await self.status(timeout=readiness.seconds_left())
            except ServingError as error:
                readiness.failed(error)
            else:
                if (version := readiness.version(statuses)) is not None:
                    return version
            await asyncio.sleep(POLL_SECONDS)

    async def close(self) -> None:
        """Closes the connection, and writes the records that wait."""
        await self._channel.close()
        if self._recorder:
            await asyncio.to_thread(self._recorder.close)

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_) -> None:
        await self.close()

    async def _ask(self, method: Callable[..., Any], request: object, seconds: float) -> Any:
        try:
            return await method(request, **self._options(seconds))
        except grpc.RpcError as error:
            raise self._error(error, seconds) from error
