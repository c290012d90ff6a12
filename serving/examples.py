"""The tf.Examples of Classify, Regress and MultiInference requests. Needs no TensorFlow."""

from __future__ import annotations

import numpy as np

from bertline.serving.errors import invalid
from bertline.serving.protos import Input


def count(input: Input) -> int:
    """Number of examples in a request's input."""
    if input.WhichOneof("kind") == "example_list_with_context":
        return len(input.example_list_with_context.examples)
    return len(input.example_list.examples)


def serialized(input: Input) -> np.ndarray:
    """The serialized examples, bytes objects of shape [examples]; a context's features come before an example's own.

    Raises:
        RequestError: INVALID_ARGUMENT; there is none.
    """
    if not count(input):
        raise invalid("Input is empty.")
    context = b""
    examples = input.example_list.examples
    if input.WhichOneof("kind") == "example_list_with_context":
        context = input.example_list_with_context.context.SerializeToString()
        examples = input.example_list_with_context.examples
    # Protobuf merges serialized messages that follow one another.
    return np.array([context + example.SerializeToString() for example in examples], object)
