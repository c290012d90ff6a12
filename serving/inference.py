"""A request for inference in the form in which it came, which any version may be asked. Needs no TensorFlow."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bertline.serving.protos import ModelSpec

if TYPE_CHECKING:
    from bertline.serving.servable import Servable

Compute = Callable[[Any], Awaitable[Any]]  # a method's request -> its response, by one servable


@dataclass(frozen=True)
class Inference:
    """A request for inference.

    Attributes:
        method: of PredictionService, such as Predict.
        spec: the model that is asked, and its version or label if it names one.
        exchange: reads the request as a servable's signatures have it, has it computed, and returns what the caller
            gets. Called once more where another version answers in place of the first, or is compared with it.
        size: bytes that it holds.
        options: of the method's `answer`.
    """

    method: str
    spec: ModelSpec
    exchange: Callable[[Servable, Compute], Awaitable[Any]]
    size: int
    options: Mapping[str, Any] = field(default_factory=dict)
