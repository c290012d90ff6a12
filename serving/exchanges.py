"""From a request and its answer as they passed through the log proxy to rows of records.

A model's texts are asked through its signature `monitored`, which answers as `text` does and gives vectors and
wordpieces beside that: the caller gets what `text` would have answered, and the record has the rest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from bertline.serving import json_tensor, record_rows
from bertline.serving.calls import DEFAULT_SIGNATURE
from bertline.serving.examples import serialized
from bertline.serving.limits import Limits
from bertline.serving.messages import unpacked_strings
from bertline.serving.monitored import MONITORED, TEXT
from bertline.serving.protos import (
    ClassificationRequest,
    ClassificationResponse,
    DataType,
    ModelSpec,
    PredictRequest,
    PredictResponse,
    TensorProto,
)
from bertline.serving.recording import RecordOptions, Rows
from bertline.serving.records import PART_ROWS, WAITING_BYTES
from bertline.serving.upstream import Known

Arrays = dict[str, np.ndarray]

# The most of a request, and of its answer, that the proxy reads, as sent and unpacked. A larger one passes as it
# came, unrecorded. Python does one thing at a time: a megabyte takes some milliseconds, in which no other call goes on.
RECORDED_BYTES = 1 << 20
# Texts of a request whose vectors are asked for: so many vectors of 384 numbers are a megabyte.
MOST_WITH_VECTORS = 1000
# What is read into a record, since a tensor of a few bytes can stand for terabytes: as much as may wait as it was sent,
# and the rows of a whole part. Only a request says how many rows there are.
MOST_READ = Limits(max_batch_rows=PART_ROWS, max_text_bytes=WAITING_BYTES, max_request_bytes=WAITING_BYTES)
MOST_ANSWERED = replace(MOST_READ, max_batch_rows=WAITING_BYTES)


def signature_of(spec: ModelSpec) -> str:
    """The signature that a request names."""
    return spec.signature_name or DEFAULT_SIGNATURE


# === Vectors beside the answer ===


def monitored(request: PredictRequest, known: Known | None) -> bytes | None:
    """The request that asks for vectors too.

    None where the model has none, the request is not for its texts, or has more than MOST_WITH_VECTORS of them.
    """
    if known is None or known.monitored is None or request.model_spec.signature_name != TEXT:
        return None
    if any(size.size > MOST_WITH_VECTORS for tensor in request.inputs.values() for size in tensor.tensor_shape.dim):
        return None
    wanted = list(request.output_filter)
    if len(set(wanted)) < len(wanted) or not set(wanted) <= set(known.signatures[TEXT].outputs):
        return None  # a mistake of the caller's, of which the server shall tell in its own words
    changed = PredictRequest()
    changed.CopyFrom(request)
    changed.model_spec.signature_name = MONITORED
    del changed.output_filter[:]
    return changed.SerializeToString()


def answer_of_text(answer: bytes, request: PredictRequest, known: Known) -> bytes | None:
    """What TEXT would have answered; None if the version is another than the one that is known."""
    response = PredictResponse.FromString(answer)
    if response.model_spec.version.value != known.version:
        return None
    wanted = set(request.output_filter) or set(known.signatures[TEXT].outputs)
    for name in set(response.outputs) - wanted:
        del response.outputs[name]
    response.model_spec.signature_name = TEXT
    return response.SerializeToString()


# === Rows ===


def predicted(request: PredictRequest, answer: bytes | None, options: RecordOptions, keep_texts: bool) -> Rows:
    """The rows of a Predict request, as `record_rows.of_call`; without an answer it failed.

    Raises:
        RequestError: it is too large to be read.
    """
    response = PredictResponse.FromString(answer) if answer is not None else PredictResponse()
    rows = record_rows.of_call(
        _arrays(request.inputs, MOST_READ), _arrays(response.outputs, MOST_ANSWERED), options, keep_texts
    )
    return _of_version(response.model_spec, rows)


def classified(request: ClassificationRequest, answer: bytes | None, options: RecordOptions, keep_texts: bool) -> Rows:
    """The rows of a Classify request. Its answer has scores but no probabilities, of which no server keeps a record.

    Raises:
        RequestError: it is too large to be read.
    """
    MOST_READ.check_input(request.input)
    spec = ClassificationResponse.FromString(answer).model_spec if answer is not None else ModelSpec()
    return _of_version(spec, record_rows.of_call({"inputs": serialized(request.input)}, {}, options, keep_texts))


def predicted_as_json(
    request: PredictRequest, answer: bytes | None, known: Known, options: RecordOptions, keep_texts: bool
) -> Rows:
    """The rows of a Predict request over REST; `answer` is the answer's body, without one it failed."""
    outputs: Arrays = {}
    if answer is not None:
        names = list(request.output_filter) or list(known.signatures[signature_of(request.model_spec)].outputs)
        outputs = _json_outputs(json_tensor.parse(answer), names)
    return record_rows.of_call(_arrays(request.inputs, MOST_READ), outputs, options, keep_texts)


def _of_version(spec: ModelSpec, rows: Rows) -> Rows:
    """Rows with the version that answered, if one did."""
    return {**rows, "version": [spec.version.value] * len(rows["characters"])} if spec.HasField("version") else rows


def _arrays(tensors: Mapping[str, TensorProto], most: Limits) -> Arrays:
    """The tensors that this module can read: strings as bytes objects, and numbers; others are left out."""
    most.check(tensors, {})
    read = {name: _array(tensor) for name, tensor in tensors.items()}
    return {name: array for name, array in read.items() if array is not None}


def _array(tensor: TensorProto) -> np.ndarray | None:
    shape = [dimension.size for dimension in tensor.tensor_shape.dim]
    size = math.prod(shape)
    if tensor.dtype == DataType.DT_STRING:
        values = unpacked_strings(tensor.tensor_content, size) if tensor.tensor_content else tensor.string_val
        array = np.empty(len(values), object)
        array[:] = list(values)
    elif tensor.dtype == DataType.DT_HALF:  # whose list holds the bits of each number
        packed = tensor.tensor_content
        bits = np.frombuffer(packed, np.uint16) if packed else np.array(tensor.half_val, np.uint16)
        array = bits.view(np.float16)
    elif tensor.dtype in json_tensor.NUMBERS:
        dtype, field = json_tensor.NUMBERS[tensor.dtype]
        packed = tensor.tensor_content
        array = np.frombuffer(packed, dtype) if packed else np.array(getattr(tensor, field), dtype)
    else:
        return None
    if len(array) < size:  # a short list repeats its last value
        array = np.concatenate([array, np.repeat(array[-1:], size - len(array))])
    return array.reshape(shape)


def _json_outputs(document: Mapping[str, Any], names: list[str]) -> Arrays:
    """The outputs in TF Serving's JSON, in rows or in columns; one output alone stands there without its name."""
    rows, columns = document.get("predictions"), document.get("outputs")
    if columns is None:
        named = bool(rows) and isinstance(rows[0], dict) and len(names) > 1
        columns = {name: [row[name] for row in rows] for name in rows[0]} if named else rows
    if not isinstance(columns, dict):
        columns = {names[0]: columns}
    return {name: _of_list(values) for name, values in columns.items()}


def _of_list(values: Any) -> np.ndarray:
    array = np.array(values)
    return array.astype(object) if array.dtype.kind == "U" else array
