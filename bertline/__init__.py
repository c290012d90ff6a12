"""bertline: from a table of labelled text to a BERT classifier that is checked, gated, pushed and served, on TFX.

    from bertline import Client

    with Client("127.0.0.1:8500", model="sentiment") as client:
        client.predict(["my flight got cancelled again"])

The public API is what this module names. It needs no TensorFlow.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bertline.serving.client import AsyncClient, Client, Prediction, ServingError

__all__ = ["AsyncClient", "Client", "Prediction", "ServingError"]


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used, so that `import bertline` costs nothing."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("bertline.serving.client"), name)
