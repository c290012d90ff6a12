"""How much one request may take, so that no single caller can use up the memory or the time of all.

The limits are checked on the request as it arrived, before anything is decoded or allocated. A tensor of a few bytes on
the wire can stand for terabytes (TensorProto lets a short list repeat its last value), and an Input's context is copied
into each of its examples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields

from bertline.errors import UserError
from bertline.serving.errors import invalid
from bertline.serving.protos import DataType, Example, Input, TensorInfo, TensorProto

KIB, MIB = 1 << 10, 1 << 20

# Bytes that an element takes in memory; 4 for types not named. A string is TensorFlow's tstring, plus its characters.
_ELEMENT_BYTES = {
    **dict.fromkeys((DataType.DT_BOOL, DataType.DT_INT8, DataType.DT_UINT8), 1),
    **dict.fromkeys((DataType.DT_INT16, DataType.DT_UINT16, DataType.DT_HALF, DataType.DT_BFLOAT16), 2),
    **dict.fromkeys((DataType.DT_INT64, DataType.DT_UINT64, DataType.DT_DOUBLE, DataType.DT_COMPLEX64), 8),
    DataType.DT_COMPLEX128: 16,
    DataType.DT_STRING: 24,
}


@dataclass(frozen=True)
class Limits:
    """The most that one request, and all requests in flight, may take; every limit is a positive whole number.

    Raises:
        UserError: a limit below 1, by name.
    """

    # Just over the 1,000 rows that TF Serving's own batches hold by default. BERT-base's attention over this many texts
    # takes 0.2 GiB at 64 tokens but 12 GiB at 512: lower it for long texts.
    max_batch_rows: int = 1024
    # BERT reads 512 tokens, some 12 KiB at most. But the line accepts rows of 100,000 characters, which the graph cuts
    # off, and a model should answer every text that it can be trained on. Tokenising such a text takes milliseconds.
    max_text_bytes: int = 512 * KIB
    # Four times the 64 clients that two cores are measured with: half a second of single texts, or 4 GiB if every
    # request has the largest size. A request that would wait longer had better go elsewhere at once.
    max_concurrent_requests: int = 256
    # A batch of 1,024 rows with 16 KiB each. gRPC's own default for what a server receives is 4 MiB.
    max_request_bytes: int = 16 * MIB
    # Of all requests under way: as sent, unpacked and as tensors. Room for 256 requests of 32 documents of 512 tokens,
    # or for eight of the largest size; the process then grows by some 0.5 GiB. Never less than one request may have.
    max_bytes_in_flight: int = 256 * MIB

    def __post_init__(self):
        for field in fields(self):
            if getattr(self, field.name) < 1:
                raise UserError(f"{field.name} is {getattr(self, field.name)}: it must be at least 1")

    def check(self, inputs: Mapping[str, TensorProto], infos: Mapping[str, TensorInfo]) -> int:
        """Refuses tensors that have too many rows, too long a text or too large a total size.

        A tensor's rows are its first dimension, unless the signature fixes its size. String tensors in the packed form
        (`tensor_content`) are held to max_text_bytes as a whole: only decoding shows where one text ends.

        Args:
            inputs: the request's tensors by input name.
            infos: the signature's inputs by name.

        Returns:
            Bytes that the tensors take in memory.

        Raises:
            RequestError: INVALID_ARGUMENT, naming the input and the limit.
        """
        total = 0
        for name, tensor in inputs.items():
            total += self._size(name, tensor, has_rows=name not in infos or _has_rows(infos[name]))
            if total > self.max_request_bytes:
                raise invalid(
                    f"input {name}: the request's tensors take {total} bytes or more in memory; the most is "
                    f"{self.max_request_bytes} (max_request_bytes)"
                )
        return total

    def check_input(self, input: Input) -> int:
        """Refuses an Input, of Classify or Regress, with too many examples, too long a value or too large a context.

        Returns:
            Bytes of the serialized examples.

        Raises:
            RequestError: INVALID_ARGUMENT, naming the example and feature, and the limit.
        """
        kind = input.WhichOneof("kind")
        if kind is None:
            return 0
        listed = getattr(input, kind)
        self._check_rows("input", len(listed.examples))
        total = 0
        for number, example in enumerate(listed.examples):
            total += self._check_example(f"input: example {number}", example)
        if kind == "example_list_with_context":
            self._check_example("input: context", listed.context)
            size = listed.context.ByteSize() * len(listed.examples)
            if size > self.max_request_bytes:
                raise invalid(
                    f"input: the context copied into each of {len(listed.examples)} examples takes {size} bytes; the "
                    f"most is {self.max_request_bytes} (max_request_bytes)"
                )
            total += size
        return total

    def _size(self, name: str, tensor: TensorProto, has_rows: bool) -> int:
        """Bytes that the whole tensor takes in memory; checks the tensor's own limits first."""
        shape = [dimension.size for dimension in tensor.tensor_shape.dim]
        if any(size < 0 for size in shape):
            raise invalid(f"input {name}: shape {shape} has a negative size")
        if has_rows and shape:
            self._check_rows(f"input {name}", shape[0])
        elements = math.prod(shape)
        size = elements * _ELEMENT_BYTES.get(tensor.dtype, 4)
        if tensor.dtype != DataType.DT_STRING or size > self.max_request_bytes:
            return size
        return size + self._text_size(name, tensor, elements)

    def _text_size(self, name: str, tensor: TensorProto, elements: int) -> int:
        """Bytes of a string tensor's characters; refuses a text that is too long."""
        if tensor.tensor_content:
            self._check_text(f"input {name}", len(tensor.tensor_content))
            return len(tensor.tensor_content)
        texts = tensor.string_val
        if len(texts) > elements:
            raise invalid(f"input {name}: {len(texts)} strings for a shape of {elements}")
        lengths = [len(text) for text in texts]
        if not lengths:
            return 0
        longest = max(lengths)
        if longest > self.max_text_bytes:
            self._check_text(f"input {name}: row {lengths.index(longest)}", longest)
        return sum(lengths) + (elements - len(lengths)) * lengths[-1]

    def _check_rows(self, where: str, rows: int) -> None:
        if rows > self.max_batch_rows:
            raise invalid(f"{where}: {rows} rows; the most in one request is {self.max_batch_rows} (max_batch_rows)")

    def _check_example(self, where: str, example: Example) -> int:
        """The example's bytes."""
        size = example.ByteSize()
        if size > self.max_text_bytes:  # else each of its values is shorter, too
            for name, feature in example.features.feature.items():
                for value in feature.bytes_list.value:
                    self._check_text(f"{where}, feature {name}", len(value))
        return size

    def _check_text(self, where: str, size: int) -> None:
        if size > self.max_text_bytes:
            raise invalid(f"{where}: a text of {size} bytes; the longest is {self.max_text_bytes} (max_text_bytes)")


def _has_rows(info: TensorInfo) -> bool:
    """Whether the signature leaves the size of an input's first dimension to the request."""
    shape = info.tensor_shape
    return shape.unknown_rank or not shape.dim or shape.dim[0].size == -1
