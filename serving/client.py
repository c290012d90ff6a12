"""A gRPC client of a served classifier: texts in, labels and probabilities out.

Works against the embedded server and tensorflow_model_server alike, and starts neither TensorFlow nor Keras.
"""

from __future__ import annotations

import json
import sys
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import grpc

from serving.protos import (
    DataType,
    GetModelMetadataRequest,
    GetModelStatusRequest,
    ModelServiceStub,
    ModelVersionStatus,
    PredictionServiceStub,
    PredictRequest,
    PredictResponse,
    SignatureDefMap,
    TensorProto,
)

SIGNATURE = "text"
BATCH_SIZE = 32  # BERT gains nothing from larger batches on a CPU, and memory grows with them
TIMEOUT_SECONDS = 30.0  # 32 long documents on two cores take some 10 s
POLL_SECONDS = 0.1

# grpc's own retries, for requests that never reached the model: a server that restarts is back within seconds. Not for
# ModelService: who asks for the state wants the present one.
_SERVICE_CONFIG = json.dumps(
    {
        "methodConfig": [
            {
                "name": [{"service": "tensorflow.serving.PredictionService"}],
                "retryPolicy": {
                    "maxAttempts": 4,
                    "initialBackoff": "0.2s",
                    "maxBackoff": "1s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ]
    }
)

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Prediction:
    """What the model says of one text: its label, that label's probability, and the probability of each label."""

    label: str
    probability: float
    probabilities: dict[str, float]


@dataclass(frozen=True)
class VersionStatus:
    """State of a version as the server tells it: START, LOADING, AVAILABLE, UNLOADING or END; an error or ""."""

    version: int
    state: str
    error: str


@dataclass(frozen=True)
class TensorInfo:
    """An input or output of a signature: its dtype (as "DT_STRING") and shape, -1 where it is free."""

    dtype: str
    shape: tuple[int, ...] | None


@dataclass(frozen=True)
class Signature:
    """Inputs and outputs of a signature by name."""

    inputs: dict[str, TensorInfo]
    outputs: dict[str, TensorInfo]


class ServingError(RuntimeError):
    """The server could not be reached or refused the request; `code` is gRPC's status code."""

    def __init__(self, code: grpc.StatusCode, message: str):
        super().__init__(message)
        self.code = code


class Client:
    """Talks to one model on one server. Usable from many threads; close it, or use it as a context manager.

    Args:
        address: HOST:PORT, or unix:PATH.
        model_name: the name the server serves the model by.
        timeout: seconds that one request may take, retries included.
        batch_size: most texts sent in one request.
    """

    def __init__(
        self, address: str, model_name: str, *, timeout: float = TIMEOUT_SECONDS, batch_size: int = BATCH_SIZE
    ):
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        self.address = address
        self.model_name = model_name
        self.timeout = timeout
        self.batch_size = batch_size
        options = [
            ("grpc.enable_retries", 1),
            ("grpc.service_config", _SERVICE_CONFIG),
            ("grpc.max_receive_message_length", -1),
            ("grpc.initial_reconnect_backoff_ms", 200),  # grpc's own second makes a fresh server look slow
            ("grpc.max_reconnect_backoff_ms", 1000),
            ("grpc.enable_http_proxy", 0),  # a proxy for the web does not lead to a model server
        ]
        self._channel = grpc.insecure_channel(address, options)
        self._prediction = PredictionServiceStub(self._channel)
        self._model = ModelServiceStub(self._channel)

    def predict(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> list[Prediction]:
        """Labels of texts, in their order.

        Args:
            texts: any number of texts; sent `batch_size` at a time.
            pairs: the second texts, as many, for a model of text pairs.

        Raises:
            ValueError: `texts` is a single string, or `pairs` has another length.
            ServingError: the server does not answer in time, or refuses.
        """
        if isinstance(texts, str):
            raise ValueError("texts must be a list of strings, not one string")
        if pairs is not None and len(pairs) != len(texts):
            raise ValueError(f"{len(texts)} texts and {len(pairs)} pairs: there must be one pair for each text")
        predictions = []
        for start in range(0, len(texts), self.batch_size):
            part = slice(start, start + self.batch_size)
            request = PredictRequest()
            request.model_spec.name = self.model_name
            request.model_spec.signature_name = SIGNATURE
            _set_strings(request.inputs["text"], texts[part])
            if pairs is not None:
                _set_strings(request.inputs["text_pair"], pairs[part])
            predictions += _predictions(self._call(self._prediction.Predict, request))
        return predictions

    def metadata(self) -> tuple[int, dict[str, Signature]]:
        """The served version, and its signatures by name.

        Raises:
            ServingError: as `predict`.
        """
        request = GetModelMetadataRequest(metadata_field=["signature_def"])
        request.model_spec.name = self.model_name
        response = self._call(self._prediction.GetModelMetadata, request)
        definitions = SignatureDefMap()
        response.metadata["signature_def"].Unpack(definitions)
        signatures = {
            name: Signature(_tensor_infos(definition.inputs), _tensor_infos(definition.outputs))
            for name, definition in definitions.signature_def.items()
            if not name.startswith("__")  # TensorFlow's own initialisation
        }
        return response.model_spec.version.value, signatures

    def status(self) -> list[VersionStatus]:
        """The state of every version that the server knows of, ascending.

        Raises:
            ServingError: as `predict`; NOT_FOUND while it knows of none.
        """
        return self._status(self.timeout)

    def wait_until_ready(self, timeout: float) -> int:
        """Waits until a version is available, at most `timeout` seconds; returns the version.

        Raises:
            ServingError: none was, with the last answer's code and reason.
        """
        deadline = time.monotonic() + timeout
        failure = None
        while True:
            remaining = max(deadline - time.monotonic(), 0.0)
            try:
                statuses = self._status(max(remaining, POLL_SECONDS))
            except ServingError as error:
                if failure is None or error.code != grpc.StatusCode.DEADLINE_EXCEEDED:
                    failure = error  # the last try is cut short, so the one before knows more
            else:
                available = [status.version for status in statuses if status.state == "AVAILABLE"]
                if available:
                    return max(available)
                failure = ServingError(grpc.StatusCode.UNAVAILABLE, f"{self.model_name} is not ready: {statuses[-1]}")
            if remaining <= POLL_SECONDS:
                raise failure
            time.sleep(POLL_SECONDS)

    def close(self) -> None:
        """Closes the connection."""
        self._channel.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _status(self, timeout: float) -> list[VersionStatus]:
        request = GetModelStatusRequest()
        request.model_spec.name = self.model_name
        response = self._call(self._model.GetModelStatus, request, timeout)
        statuses = [
            VersionStatus(each.version, ModelVersionStatus.State.Name(each.state), each.status.error_message)
            for each in response.model_version_status
        ]
        return sorted(statuses, key=lambda status: status.version)

    def _call(self, method: Callable[..., Answer], request: object, timeout: float | None = None) -> Answer:
        seconds = self.timeout if timeout is None else timeout
        try:
            return method(request, timeout=seconds)
        except grpc.RpcError as error:
            raise ServingError(error.code(), self._explain(error.code(), error.details(), seconds)) from error

    def _explain(self, code: grpc.StatusCode, details: str, seconds: float) -> str:
        if code == grpc.StatusCode.UNAVAILABLE:
            return f"no model server answers at {self.address}: start it with `bertline serve` ({details})"
        if code == grpc.StatusCode.DEADLINE_EXCEEDED:
            return (
                f"{self.address} gave no answer within {seconds:g} s: send fewer or shorter texts, or allow more time"
            )
        return f"{self.address} answered {code.name}: {details}"


def _set_strings(proto: TensorProto, values: Sequence[str]) -> None:
    """Fills a string tensor of shape [len(values)]."""
    proto.dtype = DataType.Value("DT_STRING")
    proto.tensor_shape.dim.add(size=len(values))
    proto.string_val.extend(value.encode() for value in values)


def _predictions(response: PredictResponse) -> list[Prediction]:
    labels = [label.decode() for label in response.outputs["label"].string_val]
    names = [name.decode() for name in response.outputs["classes"].string_val]
    values = _floats(response.outputs["probabilities"])
    predictions = []
    for row, label in enumerate(labels):
        part = slice(row * len(names) // len(labels), (row + 1) * len(names) // len(labels))
        probabilities = dict(zip(names[part], values[part], strict=True))
        predictions.append(Prediction(label, probabilities[label], probabilities))
    return predictions


def _floats(proto: TensorProto) -> list[float]:
    """Values of a float32 tensor in either of the encodings that servers use."""
    if not proto.tensor_content:
        return list(proto.float_val)
    values = array("f", proto.tensor_content)
    if sys.byteorder == "big":  # tensor_content is little-endian
        values.byteswap()
    return list(values)


def _tensor_infos(infos) -> dict[str, TensorInfo]:
    return {
        alias: TensorInfo(
            DataType.Name(info.dtype),
            None if info.tensor_shape.unknown_rank else tuple(dimension.size for dimension in info.tensor_shape.dim),
        )
        for alias, info in infos.items()
    }
