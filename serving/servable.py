"""One loaded version of a SavedModel, answering Predict as tensorflow_model_server does."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

import grpc
import numpy as np

from serving.errors import RequestError, invalid
from serving.protos import (
    DataType,
    PredictionLog,
    PredictRequest,
    PredictResponse,
    SavedModel,
    TensorProto,
    TensorShapeProto,
)
from serving.runtime import tf

log = logging.getLogger("bertline.serving")

DEFAULT_SIGNATURE = "serving_default"
SERVE_TAG = "serve"
EXAMPLES = "examples"  # the input that takes serialized tf.Examples, as TFX names it
WARMUP_FILE = Path("assets.extra") / "tf_serving_warmup_requests"  # TF Serving's own place for it
WARMUP_RECORDS = 1000  # TF Serving's own limit

# Results travel in the typed fields, as from tensorflow_model_server, so that clients without a decoder for
# tensor_content (Java, Go, JSON) can read them.
_FIELDS = {
    tf.float32: "float_val",
    tf.float64: "double_val",
    tf.int32: "int_val",
    tf.int16: "int_val",
    tf.int8: "int_val",
    tf.uint16: "int_val",
    tf.uint8: "int_val",
    tf.int64: "int64_val",
    tf.uint32: "uint32_val",
    tf.uint64: "uint64_val",
    tf.bool: "bool_val",
    tf.string: "string_val",
}
_NOTHING = tf.train.Feature(bytes_list=tf.train.BytesList(value=[b""]))
_BLANK_EXAMPLE = tf.train.Example(
    features=tf.train.Features(feature={"text": _NOTHING, "text_pair": _NOTHING, "label": _NOTHING})
).SerializeToString()
_CODES = {code.value[0]: code for code in grpc.StatusCode}


class Servable:
    """The SavedModel of one version folder, loaded; safe to call from many threads.

    Args:
        path: folder with saved_model.pb, variables/ and assets/.
        model: the name requests call it by.
        version: its number, the folder's name.

    Raises:
        ValueError: the folder holds no SavedModel that serves; the message names the folder.
    """

    def __init__(self, path: Path, model: str, version: int):
        self.model = model
        self.version = version
        self.path = path
        self.signatures = _signature_defs(path)
        try:
            self._loaded = tf.saved_model.load(str(path), tags=[SERVE_TAG])
        except (tf.errors.OpError, OSError, ValueError, RuntimeError, KeyError) as error:
            raise ValueError(f"{path}: this SavedModel does not load: {error}") from error
        self._functions = dict(self._loaded.signatures)

    def predict(self, request: PredictRequest) -> PredictResponse:
        """Runs the signature that the request names on its tensors.

        Args:
            request: model_spec.signature_name (serving_default if empty), inputs as the signature has them, and an
                output_filter of output names (all if empty).

        Returns:
            The outputs asked for, and the model, version and signature that made them.

        Raises:
            RequestError: what the request has wrong (FAILED_PRECONDITION for an unknown signature, as
                tensorflow_model_server answers; INVALID_ARGUMENT for tensors), or the error of the graph itself.
        """
        name = request.model_spec.signature_name or DEFAULT_SIGNATURE
        if name not in self._functions:
            raise RequestError(
                grpc.StatusCode.FAILED_PRECONDITION,
                f'Serving signature key "{name}" not found. Model {self.model}, version {self.version}, has: '
                f"{', '.join(sorted(self._functions))}.",
            )
        try:
            outputs = self._run(name, request)
        except RequestError as error:
            where = f"model {self.model}, version {self.version}, signature {name}"
            raise RequestError(error.code, f"{error} [{where}]") from error
        response = PredictResponse()
        response.model_spec.name = self.model
        response.model_spec.version.value = self.version
        response.model_spec.signature_name = name
        for alias, tensor in outputs.items():
            response.outputs[alias].CopyFrom(_to_proto(tensor))
        return response

    def warm_up(self) -> None:
        """Runs every signature once, so that no client waits for the graph to be optimised.

        Requests recorded in assets.extra/tf_serving_warmup_requests are replayed, as tensorflow_model_server does.
        Signatures without any get one blank row; one that refuses it is left cold.
        """
        cold = set(self._functions)
        for request in _recorded_requests(self.path / WARMUP_FILE):
            self.predict(request)
            cold.discard(request.model_spec.signature_name or DEFAULT_SIGNATURE)
        for name in sorted(cold):
            request = PredictRequest()
            request.model_spec.signature_name = name
            for alias, info in self.signatures[name].inputs.items():
                request.inputs[alias].CopyFrom(_to_proto(_blank(alias, info)))
            try:
                self.predict(request)
            except RequestError as error:
                log.info(
                    "version %d: signature %s refused a blank row, so it stays cold: %s", self.version, name, error
                )

    def _run(self, name: str, request: PredictRequest) -> dict[str, tf.Tensor]:
        """The outputs asked for, by name."""
        signature = self.signatures[name]
        inputs = _checked_inputs(signature.inputs, request.inputs)
        wanted = _wanted_outputs(signature.outputs, request.output_filter)
        try:
            outputs = self._functions[name](**inputs)
        except tf.errors.OpError as error:
            raise RequestError(_CODES[error.error_code], error.message) from error
        except UnicodeDecodeError as error:  # the graph's error quotes the request's bytes, and TensorFlow decodes it
            raise invalid(error.object.decode(errors="backslashreplace")) from error
        return {alias: outputs[alias] for alias in wanted}


def _signature_defs(path: Path) -> dict:
    """Signature name -> SignatureDef, of the meta graph that is tagged to serve."""
    file = path / "saved_model.pb"
    try:
        saved_model = SavedModel.FromString(file.read_bytes())
    except OSError as error:
        raise ValueError(f"{file}: cannot be read: {error.strerror}") from error
    except Exception as error:  # protobuf's DecodeError has a different base class in each of its implementations
        raise ValueError(f"{file}: not a SavedModel: {error}") from error
    for meta_graph in saved_model.meta_graphs:
        if SERVE_TAG in meta_graph.meta_info_def.tags:
            return dict(meta_graph.signature_def)
    raise ValueError(f"{file}: no graph tagged {SERVE_TAG!r}; export it with tf.saved_model.save")


def _recorded_requests(file: Path) -> Iterator[PredictRequest]:
    if not file.is_file():
        return
    for record in tf.data.TFRecordDataset(str(file)).take(WARMUP_RECORDS).as_numpy_iterator():
        logged = PredictionLog.FromString(record)
        if logged.HasField("predict_log"):
            yield logged.predict_log.request


def _checked_inputs(expected: Mapping, given: Mapping[str, TensorProto]) -> dict[str, tf.Tensor]:
    """The request's tensors, which must be exactly those of the signature."""
    if set(given) != set(expected):
        extra, missing = sorted(set(given) - set(expected)), sorted(set(expected) - set(given))
        raise invalid(
            f"input size does not match signature: {len(given)}!={len(expected)} len({{{','.join(sorted(given))}}}) != "
            f"len({{{','.join(sorted(expected))}}}). Sent extra: {{{','.join(extra)}}}. Missing but required: "
            f"{{{','.join(missing)}}}."
        )
    return {alias: _to_tensor(alias, expected[alias], proto) for alias, proto in given.items()}


def _wanted_outputs(outputs: Mapping, output_filter: list[str]) -> list[str]:
    """Names of the outputs to send: the filter's, each known and named once, or all."""
    for position, alias in enumerate(output_filter):
        if alias not in outputs:
            raise invalid(
                f"output tensor alias not found in signature: {alias} Outputs expected to be in the set "
                f"{{{','.join(sorted(outputs))}}}."
            )
        if alias in output_filter[:position]:
            raise invalid(f"duplicate output tensor alias: {alias}")
    return list(output_filter) or list(outputs)


def _to_tensor(alias: str, info, proto: TensorProto) -> tf.Tensor:
    """The tensor in `proto`, checked against what the signature says of `alias`."""
    if proto.dtype != info.dtype:
        raise invalid(f"input {alias}: expected {_dtype(info.dtype)}, got {_dtype(proto.dtype)}")
    sent = None if proto.tensor_shape.unknown_rank else [dimension.size for dimension in proto.tensor_shape.dim]
    if sent is None or not _fits(sent, info.tensor_shape):
        raise invalid(f"input {alias}: expected shape {_shape(info.tensor_shape)}, got {_shape(proto.tensor_shape)}")
    try:
        # TensorFlow's own decoder: all dtypes, both encodings, and the rule that a short list repeats its last value.
        return tf.raw_ops.ParseTensor(serialized=proto.SerializeToString(), out_type=info.dtype)
    except tf.errors.OpError as error:
        raise invalid(f"tensor parsing error: {alias}: {error.message}") from error


def _dtype(number: int) -> str:
    return DataType.Name(number) if number in DataType.values() else f"data type {number}"


def _fits(sent: list[int], expected: TensorShapeProto) -> bool:
    if expected.unknown_rank:
        return True
    known = [dimension.size for dimension in expected.dim]
    return len(sent) == len(known) and all(k in (-1, s) for s, k in zip(sent, known, strict=True))


def _shape(shape: TensorShapeProto) -> str:
    if shape.unknown_rank:
        return "unknown"
    return "[" + ",".join("?" if dimension.size == -1 else str(dimension.size) for dimension in shape.dim) + "]"


def _blank(alias: str, info) -> tf.Tensor:
    """A tensor of one row of zeros, of empty strings, or of an Example with empty texts, that fits the input."""
    shape = [1 if dimension.size == -1 else dimension.size for dimension in info.tensor_shape.dim]
    if alias == EXAMPLES and info.dtype == tf.string.as_datatype_enum:
        return tf.fill(shape, _BLANK_EXAMPLE)
    return tf.zeros(shape, dtype=tf.dtypes.as_dtype(info.dtype))


def _to_proto(tensor: tf.Tensor) -> TensorProto:
    field = _FIELDS.get(tensor.dtype)
    array = tensor.numpy()
    if field is None:  # half, bfloat16, complex: rare as outputs, and TensorFlow's own encoder knows their layout
        return tf.make_tensor_proto(array)
    proto = TensorProto(dtype=tensor.dtype.as_datatype_enum)
    for size in tensor.shape:
        proto.tensor_shape.dim.add(size=size)
    getattr(proto, field).extend(np.ravel(array).tolist())
    return proto
