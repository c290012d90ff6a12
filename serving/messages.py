"""A client's texts as TF Serving's messages, and a server's messages as results, without numpy or TensorFlow."""

from __future__ import annotations

import itertools
import math
import sys
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field

from bertline.serving.protos import (
    DataType,
    GetModelMetadataResponse,
    GetModelStatusResponse,
    ModelVersionStatus,
    PredictResponse,
    SignatureDefMap,
    TensorProto,
)

# === Results ===


@dataclass(frozen=True, slots=True)
class Prediction:
    """The model's answer to one text.

    Attributes:
        label: the most probable label; None of a multi-label model.
        probability: the probability of that label, 0 to 1; None of a multi-label model.
        probabilities: label -> its probability. They add up to 1; of a multi-label model each is on its own.
        version: the model version that answered, if the server tells it. While a new version takes over, either may
            answer the texts of one call.
        abstained: whether the model is less sure than the threshold it was exported with; None if it has none.
        labels: of a multi-label model the labels that the text gets, the most probable first; there may be none. Of any
            other model the one label.
        id: of the record that is kept of this answer; None where none is.
    """

    label: str | None
    probability: float | None
    probabilities: dict[str, float]
    version: int | None = None
    abstained: bool | None = None
    labels: tuple[str, ...] = ()
    id: str | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if self.label is not None:
            object.__setattr__(self, "labels", (self.label,))


@dataclass(frozen=True)
class VersionStatus:
    """A version's state at the server, START, LOADING, AVAILABLE, UNLOADING or END, and its error or ""."""

    version: int
    state: str
    error: str


@dataclass(frozen=True)
class TensorInfo:
    """An input or output of a signature: its dtype, such as "DT_STRING", and its shape.

    Attributes:
        dtype: TensorFlow's name of it.
        shape: a size per dimension, -1 where it is free; None where the rank is unknown.
    """

    dtype: str
    shape: tuple[int, ...] | None


@dataclass(frozen=True)
class Signature:
    """Inputs and outputs of a signature by name."""

    inputs: dict[str, TensorInfo]
    outputs: dict[str, TensorInfo]


# === Requests and answers ===


def encoded(name: str, texts: Iterable[str]) -> list[bytes]:
    """The texts as UTF-8.

    Raises:
        ValueError: one string in place of a list, a value that is no string, or a lone surrogate; names it and its row.
    """
    if isinstance(texts, str):
        raise ValueError(f"{name} must be a list of strings, not one string")
    encoded = []
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(f"{name}[{row}] is {text!r}, not a string")
        try:
            encoded.append(text.encode())
        except UnicodeEncodeError as error:
            raise ValueError(f"{name}[{row}] is not valid Unicode: {error}") from error
    return encoded


def set_strings(proto: TensorProto, values: list[bytes]) -> None:
    """Fills a string tensor of shape [len(values)]."""
    proto.dtype = DataType.Value("DT_STRING")
    proto.tensor_shape.dim.add(size=len(values))
    proto.string_val.extend(values)


def predictions(response: PredictResponse, rows: int) -> list[Prediction]:
    """The answer to a request of `rows` texts: `label` [rows], `classes` and `probabilities` [rows, classes].

    Of a model that abstains also `abstained` [rows]; of a multi-label model `assigned` [rows, classes] in place of
    `label`.

    Raises:
        ValueError: an output is missing, or has another number of values.
    """
    if "assigned" in response.outputs:
        return _label_sets(response, rows)
    missing = {"label", "classes", "probabilities"} - set(response.outputs)
    if missing:
        raise ValueError(f"no {', '.join(sorted(missing))} among its outputs {', '.join(sorted(response.outputs))}")
    labels = _strings(response.outputs["label"])
    names = _strings(response.outputs["classes"])
    values = _floats(response.outputs["probabilities"])
    abstained = _bools(response.outputs["abstained"]) if "abstained" in response.outputs else [None] * rows
    if len(abstained) != rows:
        raise ValueError(f"{len(abstained)} values of abstained for {rows} texts")
    if len(labels) != rows or len(names) != len(values) or not names or len(names) % rows:
        raise ValueError(f"{len(labels)} labels, {len(names)} classes and {len(values)} probabilities for {rows} texts")
    version = _version(response)
    width = len(names) // rows
    answers = []
    for start, label, abstains in zip(range(0, len(names), width), labels, abstained, strict=True):
        part = slice(start, start + width)
        probabilities = dict(zip(names[part], values[part], strict=True))
        if label not in probabilities:
            raise ValueError(f"the label {label!r} is none of the classes {', '.join(names[part])}")
        answers.append(Prediction(label, probabilities[label], probabilities, version, abstains))
    return answers


def _label_sets(response: PredictResponse, rows: int) -> list[Prediction]:
    """The answer of a multi-label model."""
    missing = {"classes", "probabilities"} - set(response.outputs)
    if missing:
        raise ValueError(f"no {', '.join(sorted(missing))} among its outputs {', '.join(sorted(response.outputs))}")
    names = _strings(response.outputs["classes"])
    values, assigned = _floats(response.outputs["probabilities"]), _bools(response.outputs["assigned"])
    if not names or len(names) % rows or not len(names) == len(values) == len(assigned):
        raise ValueError(
            f"{len(names)} classes, {len(values)} probabilities and {len(assigned)} values of assigned for {rows} texts"
        )
    version, width, answers = _version(response), len(names) // rows, []
    for start in range(0, len(names), width):
        part = slice(start, start + width)
        probabilities = dict(zip(names[part], values[part], strict=True))
        given = [name for name, has in zip(names[part], assigned[part], strict=True) if has]
        labels = tuple(sorted(given, key=lambda name: -probabilities[name]))
        answers.append(Prediction(None, None, probabilities, version, labels=labels))
    return answers


def _version(response: PredictResponse) -> int | None:
    return response.model_spec.version.value if response.model_spec.HasField("version") else None


def _strings(proto: TensorProto) -> list[str]:
    """Values of a string tensor in either of the encodings that servers use."""
    values = proto.string_val
    if proto.tensor_content:
        count = math.prod(dimension.size for dimension in proto.tensor_shape.dim)
        values = unpacked_strings(proto.tensor_content, count)
    return [value.decode() for value in values]


def unpacked_strings(content: bytes, count: int) -> list[bytes]:
    """The strings in a tensor_content: the lengths of all strings as varints, then the bytes of all strings.

    EncodeStringList in TensorFlow's core/platform/tensor_coding.h; what tensorflow_model_server sends with
    --enable_serialization_as_tensor_content.

    Raises:
        ValueError: the lengths do not add up to the content.
    """
    lengths, position = [], 0
    for _ in range(count):
        length, position = _varint(content, position)
        lengths.append(length)
    if position + sum(lengths) != len(content):
        raise ValueError(f"a string tensor of {len(content)} bytes should have {position + sum(lengths)}")
    ends = itertools.accumulate(lengths, initial=position)
    return [content[start:end] for start, end in itertools.pairwise(ends)]


def _varint(content: bytes, position: int) -> tuple[int, int]:
    """A number in protobuf's base 128, and the position after it."""
    value = shift = 0
    while position < len(content):
        byte = content[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise ValueError("a string tensor ends within its lengths")


def _bools(proto: TensorProto) -> list[bool]:
    """Values of a bool tensor in either of the encodings that servers use."""
    return [bool(byte) for byte in proto.tensor_content] if proto.tensor_content else list(proto.bool_val)


def _floats(proto: TensorProto) -> list[float]:
    """Values of a float32 tensor in either of the encodings that servers use."""
    if not proto.tensor_content:
        return list(proto.float_val)
    values = array("f", proto.tensor_content)
    if sys.byteorder == "big":  # tensor_content is little-endian
        values.byteswap()
    return list(values)


def metadata(response: GetModelMetadataResponse) -> tuple[int, dict[str, Signature]]:
    """The version that answered, and its signatures by name."""
    definitions = SignatureDefMap()
    response.metadata["signature_def"].Unpack(definitions)
    signatures = {
        name: Signature(_tensor_infos(definition.inputs), _tensor_infos(definition.outputs))
        for name, definition in definitions.signature_def.items()
        if not name.startswith("__")  # TensorFlow's own initialisation
    }
    return response.model_spec.version.value, signatures


def _tensor_infos(infos) -> dict[str, TensorInfo]:
    return {
        alias: TensorInfo(
            DataType.Name(info.dtype),
            None if info.tensor_shape.unknown_rank else tuple(dimension.size for dimension in info.tensor_shape.dim),
        )
        for alias, info in infos.items()
    }


def statuses(response: GetModelStatusResponse) -> list[VersionStatus]:
    """The versions' states, ascending."""
    listed = [
        VersionStatus(entry.version, ModelVersionStatus.State.Name(entry.state), entry.status.error_message)
        for entry in response.model_version_status
    ]
    return sorted(listed, key=lambda status: status.version)
