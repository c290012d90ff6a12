"""TF Serving's JSON: request messages out of REST bodies, and REST bodies out of response messages.

The forms are those of https://www.tensorflow.org/tfx/serving/api_rest. Errors name the place of a value, never the
value: a request's text stays out of whatever reads the errors. Needs no TensorFlow.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import grpc
import numpy as np
import orjson

from bertline.serving.calls import DEFAULT_SIGNATURE, PIECE
from bertline.serving.errors import RequestError, invalid
from bertline.serving.messages import unpacked_strings
from bertline.serving.protos import (
    ClassificationResult,
    DataType,
    Example,
    Input,
    PredictRequest,
    PredictResponse,
    RegressionResult,
    SignatureDef,
    TensorProto,
)

ROWS, COLUMNS = "instances", "inputs"  # a predict request has one of the two; they are its form
_ANSWERS = {ROWS: "predictions", COLUMNS: "outputs"}
_BYTES_SUFFIX = "_bytes"  # outputs with such names go out in base64
_MOST_DIMENSIONS = 64  # of a numpy array; TensorFlow's own limit is 254
_INT64 = range(-(2**63), 2**63)

_STRING = DataType.DT_STRING
# dtype -> numpy's, and the list that holds its values in a TensorProto
_INTEGERS = {
    DataType.DT_INT8: (np.int8, "int_val"),
    DataType.DT_UINT8: (np.uint8, "int_val"),
    DataType.DT_INT16: (np.int16, "int_val"),
    DataType.DT_INT32: (np.int32, "int_val"),
    DataType.DT_UINT32: (np.uint32, "uint32_val"),
    DataType.DT_INT64: (np.int64, "int64_val"),
    DataType.DT_UINT64: (np.uint64, "uint64_val"),
}
_FLOATS = {DataType.DT_FLOAT: (np.float32, "float_val"), DataType.DT_DOUBLE: (np.float64, "double_val")}
NUMBERS = {**_INTEGERS, **_FLOATS, DataType.DT_BOOL: (np.bool_, "bool_val")}
# What JSON's values are in Python, in an error's words.
_WORDS = {
    str: "a string",
    bool: "a boolean",
    int: "a whole number",
    float: "a number with a fraction",
    list: "a list",
    dict: "an object",
    type(None): "null",
}


# === Requests ===


def fill_request(body: bytes, request: Any, signatures: Mapping[str, SignatureDef]) -> str:
    """Completes a request with what its body holds: the signature's name, and tensors or examples.

    Args:
        body: JSON.
        request: a PredictRequest, ClassificationRequest or RegressionRequest.
        signatures: those of the model, by name.

    Returns:
        The form of a predict request, as `fill_predict`; "" for the others.

    Raises:
        RequestError: INVALID_ARGUMENT or UNIMPLEMENTED, naming the place. The signature's name is set if it was read.
    """
    document = parse(body)
    name = request.model_spec.signature_name = signature_name(document)
    if not isinstance(request, PredictRequest):
        fill_examples(document, request.input)
        return ""
    name = name or DEFAULT_SIGNATURE
    if name not in signatures:
        known = ", ".join(sorted(name for name in signatures if not name.startswith("__")))
        raise invalid(f'Serving signature name: "{name}" not found; there is {known}')
    return fill_predict(document, signatures[name].inputs, request)


def parse(body: bytes) -> dict[str, Any]:
    """The JSON object in a request's body; NaN, Infinity and -Infinity are numbers, as TF Serving has them.

    Of two members with the same name, the last counts.

    Raises:
        RequestError: INVALID_ARGUMENT with the place; the body is not UTF-8, not JSON or not an object.
    """
    body = body.removeprefix(codecs.BOM_UTF8)
    if not body:
        raise invalid("JSON Parse error: The document is empty")
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        document = _parse_lenient(body, error)
    if not isinstance(document, dict):
        raise invalid(f"the body must be a JSON object; it is {_WORDS[type(document)]}")
    return document


def signature_name(document: Mapping[str, Any]) -> str:
    """The signature that a request names; "" if it names none.

    Raises:
        RequestError: INVALID_ARGUMENT; the name is not a string.
    """
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise invalid(f"'signature_name' key must be a string value; it is {_WORDS[type(name)]}")
    return name


def fill_predict(document: Mapping[str, Any], infos: Mapping[str, Any], request: PredictRequest) -> str:
    """Puts the tensors of a predict request into its message.

    Args:
        document: the request's JSON.
        infos: the signature's inputs, name -> TensorInfo; their dtypes say what JSON's numbers and strings are.
        request: takes the tensors.

    Returns:
        The request's form, ROWS or COLUMNS: the answer has the same one.

    Raises:
        RequestError: INVALID_ARGUMENT, or UNIMPLEMENTED for a dtype without a JSON form; names the input and the place.
    """
    forms = [form for form in (ROWS, COLUMNS) if form in document]
    if not forms:
        raise invalid(f"Missing '{COLUMNS}' or '{ROWS}' key")
    if len(forms) > 1:
        raise invalid(f"Not formatted correctly expecting only one of '{COLUMNS}' or '{ROWS}' keys to exist")
    read = _columns_of_rows if forms == [ROWS] else _columns
    for name, values in read(document[forms[0]], sorted(infos)).items():
        _fill_tensor(name, values, infos[name].dtype, request.inputs[name])
    return forms[0]


def fill_examples(document: Mapping[str, Any], input: Input) -> None:
    """Puts the examples of a classify or regress request, and their context, into its message.

    Raises:
        RequestError: INVALID_ARGUMENT, naming the example and the feature.
    """
    examples = document.get("examples")
    if not isinstance(examples, list) or not examples:
        raise invalid("'examples' must be a list with at least one object, feature name -> value or list of values")
    listed = input.example_list
    if "context" in document:
        listed = input.example_list_with_context
        _fill_example("context", document["context"], listed.context)
    for number, example in enumerate(examples):
        _fill_example(f"examples[{number}]", example, listed.examples.add())


def _parse_lenient(body: bytes, strict: orjson.JSONDecodeError) -> Any:
    """Parses what orjson refused: numbers that JSON does not have (NaN, Infinity). Raises for anything else."""
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise invalid(f"JSON Parse error: not UTF-8: {error.reason} at offset {error.start}") from None
    if "NaN" not in text and "Infinity" not in text:
        raise _parse_error(strict)
    try:
        document = json.loads(text)
        # Raises for what orjson's parser refuses too: halves of surrogate pairs, numbers out of range.
        orjson.dumps(document)
    except json.JSONDecodeError as error:
        raise _parse_error(error) from None
    except RecursionError:
        raise invalid("JSON Parse error: nested too deep") from None
    except orjson.JSONEncodeError as error:
        raise invalid(f"JSON Parse error: {error}") from None
    except ValueError:  # Python reads no number of more than 4,300 digits
        raise invalid("JSON Parse error: a number has too many digits") from None
    return document


def _parse_error(error: json.JSONDecodeError) -> RequestError:
    return invalid(f"JSON Parse error: {error.msg} at offset {error.pos} (line {error.lineno}, column {error.colno})")


# === Tensors ===


def _columns_of_rows(rows: Any, names: Sequence[str]) -> dict[str, list]:
    """Input name -> its value in each row, from the row form: a list of objects, or of one input's values."""
    if not isinstance(rows, list):
        raise invalid(f"Expecting '{ROWS}' to be an list/array; it is {_WORDS[type(rows)]}")
    if not rows:
        raise invalid(f"No values in '{ROWS}' array")
    if not _is_named(rows[0]):
        return {_only(names, f"a row of '{ROWS}' must be an object"): rows}
    wanted = set(names)
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise invalid(f"{ROWS}[{number}]: Expecting object but got {_WORDS[type(row)]}")
        if row.keys() != wanted:
            raise invalid(f"{ROWS}[{number}]: keys must be equal to {', '.join(names)}; {_difference(row, wanted)}")
    return {name: [row[name] for row in rows] for name in names}


def _columns(inputs: Any, names: Sequence[str]) -> dict[str, Any]:
    """Input name -> its value, of the columnar form: an object, or the value of the one input.

    Names that the signature does not have are ignored, as in TF Serving.
    """
    if not _is_named(inputs):
        return {_only(names, f"'{COLUMNS}' must be an object"): inputs}
    missing = [name for name in names if name not in inputs]
    if missing:
        raise invalid(
            f"Missing named input: {', '.join(missing)} in '{COLUMNS}' object; it must have {', '.join(names)}"
        )
    return {name: inputs[name] for name in names}


def _only(names: Sequence[str], otherwise: str) -> str:
    if len(names) != 1:
        raise invalid(f"{otherwise}, name -> value: the signature has {len(names)} inputs: {', '.join(names)}")
    return names[0]


def _difference(row: dict[str, Any], wanted: set[str]) -> str:
    missing, unknown = sorted(wanted - row.keys()), sorted(row.keys() - wanted)
    parts = [f"{word}: {', '.join(keys)}" for word, keys in (("missing", missing), ("unknown", unknown)) if keys]
    return "; ".join(parts)


def _is_named(value: Any) -> bool:
    """Whether the value is an object of inputs by name, and not one value in base64."""
    return isinstance(value, dict) and not _is_base64(value)


def _is_base64(value: Any) -> bool:
    return isinstance(value, dict) and len(value) == 1 and isinstance(value.get("b64"), str)


def _fill_tensor(name: str, value: Any, dtype: int, tensor: TensorProto) -> None:
    """Sets dtype, shape and values; `value` is a scalar or a nested list."""
    shape, values = _flatten(name, value)
    tensor.dtype = dtype
    tensor.tensor_shape.SetInParent()  # a scalar's shape is known, and empty
    for size in shape:
        tensor.tensor_shape.dim.add(size=size)
    if dtype == _STRING:
        tensor.string_val.extend(_strings(name, values, shape))
    else:
        tensor.tensor_content = _numbers(name, values, shape, dtype).tobytes()


def _flatten(name: str, value: Any) -> tuple[list[int], list]:
    """Shape and values of a nested list, level by level, so that no depth ends in a recursion error."""
    shape: list[int] = []
    level = [value]
    while list in (kinds := set(map(type, level))):
        if len(kinds) > 1:
            odd = next(place for place, item in enumerate(level) if type(item) is not list)
            word = _WORDS[type(level[odd])]
            raise invalid(f"{_place(name, shape, odd)}: Expecting shape of the lists beside it but got: {word}")
        size = len(level[0])
        if len(set(map(len, level))) > 1:
            odd = next(place for place, item in enumerate(level) if len(item) != size)
            raise invalid(
                f"{_place(name, shape, odd)}: Expecting tensor size: {size} but got: {len(level[odd])}; all lists of a "
                "level must be of one length"
            )
        shape.append(size)
        if len(shape) > _MOST_DIMENSIONS:
            raise invalid(f"input {name}: lists are nested deeper than {_MOST_DIMENSIONS}")
        level = list(chain.from_iterable(level))
    return shape, level


def _strings(name: str, values: list, shape: list[int]) -> list[bytes]:
    if set(map(type, values)) <= {str}:
        return [text.encode() for text in values]
    return [_string(_place(name, shape, place), value) for place, value in enumerate(values)]


def _not_of(dtype: int) -> str:
    """TF Serving's words for a value of another type."""
    return f"not of expected type: {_type(dtype)}"


def _type(dtype: int) -> str:
    return DataType.Name(dtype).removeprefix("DT_").lower()


def _string(place: str, value: Any) -> bytes:
    """The bytes of a JSON string, or of an object with base64."""
    if isinstance(value, str):
        return value.encode()
    if not _is_base64(value):
        raise invalid(f'{place} is {_WORDS[type(value)]}, {_not_of(_STRING)}; it must be a string or {{"b64": "..."}}')
    try:
        text = "".join(value["b64"].split())  # wrapped lines and no padding are fine with TF Serving too
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise invalid(f"{place}: b64: {error}") from None


def _numbers(name: str, values: list, shape: list[int], dtype: int) -> np.ndarray:
    if dtype not in NUMBERS:
        raise RequestError(
            grpc.StatusCode.UNIMPLEMENTED, f"input {name}: JSON has no form for {DataType.Name(dtype)}; call over gRPC"
        )
    allowed = {int, float} if dtype in _FLOATS else {int} if dtype in _INTEGERS else {bool}
    if not set(map(type, values)) <= allowed:
        place = next(place for place, value in enumerate(values) if type(value) not in allowed)
        raise invalid(f"{_place(name, shape, place)} is {_WORDS[type(values[place])]}, {_not_of(dtype)}")
    try:
        with np.errstate(over="ignore"):  # what is too large for float32 is infinite, as in TF Serving
            return np.array(values, NUMBERS[dtype][0])
    except OverflowError:
        limits = np.iinfo(NUMBERS[dtype][0])
        place = next(place for place, value in enumerate(values) if not limits.min <= value <= limits.max)
        raise invalid(f"{_place(name, shape, place)} is out of range for {DataType.Name(dtype)}") from None


def _place(name: str, shape: Sequence[int], flat: int) -> str:
    """Where a value is, as in `input x[2][0]`, from its position in the flattened lists."""
    indices = np.unravel_index(flat, shape) if shape else ()
    return f"input {name}{''.join(f'[{index}]' for index in indices)}"


# === Examples ===


def _fill_example(place: str, features: Any, example: Example) -> None:
    if not isinstance(features, dict):
        raise invalid(
            f"{place} must be an object, feature name -> value or list of values; it is {_WORDS[type(features)]}"
        )
    for name, content in features.items():
        values = content if isinstance(content, list) else [content]
        _fill_feature(f"{place}.{name}", values, example.features.feature[name])


def _fill_feature(place: str, values: list, feature: Any) -> None:
    """Texts and base64 become bytes, whole numbers and booleans int64, other numbers float. One kind per feature."""
    kinds = set(map(type, values))
    if kinds <= {str, dict}:
        feature.bytes_list.value.extend(_string(place, value) for value in values)
    elif kinds <= {int, bool}:
        if any(value not in _INT64 for value in values):
            raise invalid(f"{place}: a whole number is out of range for int64")
        feature.int64_list.value.extend(map(int, values))
    elif kinds == {float}:
        feature.float_list.value.extend(values)
    else:
        words = ", ".join(sorted(_WORDS[kind] for kind in kinds))
        raise invalid(
            f"{place} must be strings, whole numbers or numbers with a fraction, and one kind; it has {words}"
        )


# === Answers ===


def predictions(response: PredictResponse, form: str) -> bytes:
    """The body of a predict response, in the form of its request.

    Raises:
        RequestError: INVALID_ARGUMENT, naming the output; it has no JSON form, or has no rows in the row form.
    """
    outputs = {name: _values(name, tensor) for name, tensor in sorted(response.outputs.items())}
    if form == ROWS:
        _check_rows(response)
    if len(outputs) == 1:
        answer = next(iter(outputs.values()))
    elif form == ROWS:
        answer = [dict(zip(outputs, row, strict=True)) for row in zip(*outputs.values(), strict=True)]
    else:
        answer = outputs
    return _dumps({_ANSWERS[form]: answer}, outputs.values())


def classifications(result: ClassificationResult) -> bytes:
    """The body of a classify response: for each example a list of [label, score]."""
    scores = [np.array([entry.score for entry in row.classes], np.float32) for row in result.classifications]
    labels = [[entry.label for entry in row.classes] for row in result.classifications]
    rows = [[list(pair) for pair in zip(*row, strict=True)] for row in zip(labels, scores, strict=True)]
    return _dumps({"results": rows}, scores)


def regressions(result: RegressionResult) -> bytes:
    """The body of a regress response: a number for each example."""
    values = np.array([regression.value for regression in result.regressions], np.float32)
    return _dumps({"results": values}, [values])


def _values(name: str, tensor: TensorProto) -> Any:
    """An output as orjson takes it: an array or scalar of numbers, or texts in nested lists."""
    if tensor.dtype != _STRING and tensor.dtype not in NUMBERS:
        raise invalid(f"output {name}: JSON has no form for tensor type: {_type(tensor.dtype)}; call over gRPC")
    shape = [dimension.size for dimension in tensor.tensor_shape.dim]
    if tensor.dtype == _STRING:
        texts = np.empty(math.prod(shape), object)
        packed = tensor.tensor_content
        texts[:] = _texts(name, unpacked_strings(packed, texts.size) if packed else list(tensor.string_val))
        return texts.reshape(shape).tolist()  # a scalar's is its text
    dtype, field = NUMBERS[tensor.dtype]
    array = (
        np.frombuffer(tensor.tensor_content, dtype)
        if tensor.tensor_content
        else np.array(getattr(tensor, field), dtype)
    )
    return array.reshape(shape)[()]  # a scalar rather than an array without dimensions


def _texts(name: str, values: list[bytes]) -> list:
    if name.endswith(_BYTES_SUFFIX):
        return [{"b64": base64.b64encode(value).decode()} for value in values]
    try:
        return [value.decode() for value in values]
    except UnicodeDecodeError as error:
        raise invalid(
            f"output {name} is not UTF-8 text, so JSON has no form for it: call over gRPC, or export the model with an "
            f"output name that ends in {_BYTES_SUFFIX}"
        ) from error


def _check_rows(response: PredictResponse) -> None:
    rows = {}
    for name, tensor in sorted(response.outputs.items()):
        if not tensor.tensor_shape.dim:
            raise invalid(f"output {name} is a scalar and has no rows; ask in columnar form, with '{COLUMNS}'")
        rows[name] = tensor.tensor_shape.dim[0].size
    if len(set(rows.values())) > 1:
        sizes = ", ".join(f"{name} has {size}" for name, size in rows.items())
        raise invalid(f"outputs have inconsistent batch size: {sizes}; ask in columnar form, with '{COLUMNS}'")


def _dumps(answer: Any, numbers: Iterable[Any]) -> bytes:
    """JSON, with the tokens NaN and Infinity where one of the numbers is not finite: orjson would write null."""
    finite = all(isinstance(values, list | str | dict) or np.isfinite(values).all() for values in numbers)
    return b"".join(_pieces(answer, _finite if finite else _with_tokens)) + b"\n"


def _finite(value: Any) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def _with_tokens(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, default=_plain, separators=(",", ":")).encode()


def _pieces(value: Any, dumps: Callable[[Any], bytes]) -> Iterator[bytes]:
    """JSON in pieces of some 65,536 numbers: no other thread runs while one is made, and each takes memory."""
    if isinstance(value, dict):
        yield b"{"
        for number, (name, member) in enumerate(value.items()):
            yield (b"," if number else b"") + orjson.dumps(name) + b":"
            yield from _pieces(member, dumps)
        yield b"}"
    elif isinstance(value, np.ndarray) and value.size > PIECE:
        row = value.size // len(value)
        step = max(PIECE // row, 1)
        yield b"["
        for start in range(0, len(value), step):
            yield b"," if start else b""
            if row > PIECE:
                yield from _pieces(value[start], dumps)
            else:
                yield dumps(value[start : start + step])[1:-1]
        yield b"]"
    else:
        yield dumps(value)


def _plain(values: np.ndarray | np.generic) -> Any:
    """An array as Python's numbers, float32 with the fewest digits that give it back: 0.2, not 0.20000000298."""
    if values.dtype == np.float32:
        values = np.asarray(values).astype(str).astype(np.float64)
    return values.tolist()
