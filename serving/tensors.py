"""TensorProto to array and back. A request's tensor must have the dtype of its signature's input."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from bertline.serving import messages
from bertline.serving.calls import PIECE
from bertline.serving.errors import invalid
from bertline.serving.protos import DataType, TensorProto
from bertline.serving.runtime import tf

MAX_DIMENSIONS = 64  # numpy's; TensorFlow's are 254
_STRING = DataType.Value("DT_STRING")
# The lists of values that hold a dtype as it is. The others (half, bfloat16, complex) are packed, as TensorFlow knows.
_FIELDS = {
    np.dtype(name): field
    for name, field in {
        "float32": "float_val",
        "float64": "double_val",
        "int64": "int64_val",
        "int32": "int_val",
        "int16": "int_val",
        "int8": "int_val",
        "uint8": "int_val",
        "uint16": "int_val",
        "uint32": "uint32_val",
        "uint64": "uint64_val",
        "bool": "bool_val",
    }.items()
}
_DATA_TYPES = {dtype: tf.dtypes.as_dtype(dtype).as_datatype_enum for dtype in _FIELDS}


def decode(alias: str, info, proto: TensorProto) -> np.ndarray:
    """The array in a request's tensor, of the signature's dtype. Only the graph checks its shape, as in TF Serving.

    Args:
        alias: the input's name, for messages.
        info: its TensorInfo.
        proto: the tensor sent, within the server's limits; values in its lists or in tensor_content, and a short list
            repeats its last value.

    Raises:
        RequestError: INVALID_ARGUMENT; another dtype, or values that do not fill the shape.
    """
    if proto.dtype != info.dtype:
        raise invalid(f"input {alias}: expected {dtype_name(info.dtype)}, got {dtype_name(proto.dtype)}")
    if proto.tensor_shape.unknown_rank:
        raise invalid(f"input {alias}: tensor parsing error: the shape has no rank")
    sent = [dimension.size for dimension in proto.tensor_shape.dim]
    if len(sent) > MAX_DIMENSIONS:
        raise invalid(f"input {alias}: {len(sent)} dimensions; there can be {MAX_DIMENSIONS}")
    if any(size < 0 for size in sent):
        raise invalid(f"input {alias}: shape {sent} has a negative size")
    elements = math.prod(sent)
    if proto.dtype == _STRING:
        return _strings(alias, proto, sent, elements)
    dtype = tf.dtypes.as_dtype(proto.dtype)
    return _numbers(alias, proto, sent, elements, dtype)


def encode(value: np.ndarray, proto: TensorProto, as_content: bool = False) -> None:
    """Writes a response's tensor.

    Args:
        value: numbers, or bytes objects.
        proto: empty; what is written.
        as_content: packed as bytes (tensor_content) rather than as a list of values.
    """
    if value.dtype == object:
        proto.dtype = _STRING
        strings = value.ravel().tolist()
        if as_content:
            proto.tensor_content = b"".join([*(_varint(len(string)) for string in strings), *strings])
        else:
            proto.string_val.extend(strings)
    else:
        field = _FIELDS.get(value.dtype)
        if field is None or as_content:
            proto.dtype = tf.dtypes.as_dtype(value.dtype).as_datatype_enum
            proto.tensor_content = np.ascontiguousarray(value).tobytes()
        else:
            proto.dtype = _DATA_TYPES[value.dtype]
            values, listed = value.ravel(), getattr(proto, field)
            for start in range(0, values.size, PIECE):
                listed.extend(values[start : start + PIECE].tolist())
    proto.tensor_shape.SetInParent()  # a scalar's shape is known, and empty
    for size in value.shape:
        proto.tensor_shape.dim.add(size=size)


def dtype_name(number: int) -> str:
    """The dtype's name, such as DT_FLOAT, or its number if there is no such dtype."""
    return DataType.Name(number) if number in DataType.values() else f"data type {number}"


def _varint(number: int) -> bytes:
    """Protobuf's encoding of a number, which a packed tensor has for the length of each string."""
    low, rest = number & 0x7F, number >> 7
    return bytes([low | 0x80]) + _varint(rest) if rest else bytes([low])


def _strings(alias: str, proto: TensorProto, shape: list[int], elements: int) -> np.ndarray:
    values = proto.string_val
    if proto.tensor_content:
        try:
            values = messages.unpacked_strings(proto.tensor_content, elements)
        except ValueError as error:
            raise invalid(f"input {alias}: tensor parsing error: {error}") from error
    return _filled(alias, values, shape, elements, object)


def _numbers(alias: str, proto: TensorProto, shape: list[int], elements: int, dtype: tf.DType) -> np.ndarray:
    numpy_dtype = dtype.as_numpy_dtype
    if proto.tensor_content:
        if len(proto.tensor_content) != elements * dtype.size:
            raise invalid(
                f"input {alias}: tensor parsing error: shape {shape} of {dtype_name(proto.dtype)} has "
                f"{elements * dtype.size} bytes, and tensor_content has {len(proto.tensor_content)}"
            )
        return np.frombuffer(proto.tensor_content, numpy_dtype).reshape(shape)
    field = _FIELDS.get(np.dtype(numpy_dtype))
    if field is None:
        return _packed_numbers(alias, proto, shape)
    try:
        return _filled(alias, getattr(proto, field), shape, elements, numpy_dtype)
    except OverflowError as error:
        raise invalid(f"input {alias}: tensor parsing error: {error} ({dtype_name(proto.dtype)})") from error


def _packed_numbers(alias: str, proto: TensorProto, shape: list[int]) -> np.ndarray:
    """Decodes dtypes whose lists hold bit patterns or pairs, with TensorFlow's own decoder."""
    try:
        return tf.make_ndarray(proto).reshape(shape)
    except (ValueError, TypeError, IndexError) as error:
        raise invalid(f"input {alias}: tensor parsing error: {error}") from error


def _filled(alias: str, values: Sequence, shape: list[int], elements: int, dtype: type) -> np.ndarray:
    """An array of the shape. A short list repeats its last value, which is TensorProto's own rule."""
    count = len(values)
    if count > elements or (elements and not count):
        raise invalid(f"input {alias}: tensor parsing error: shape {shape} has {elements} values, got {count}")
    array = np.empty(elements, dtype)
    for start in range(0, count, PIECE):
        array[start : start + PIECE] = np.array(values[start : start + PIECE], dtype)
    if count < elements:
        array[count:] = array[count - 1]
    return array.reshape(shape)
