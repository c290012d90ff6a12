"""TensorFlow as a server needs it: with TF Text's ops, but without Keras and TF Text's Python.

A SavedModel holds its graph, so neither Python package runs anything at serving time, yet `import tensorflow` loads
the whole of Keras (with scikit-learn and IPython behind it) and `import tensorflow_text` needs Keras for its layers.
This import takes 2.4 s instead of 6.1 s. Keras and TF Text can still be imported later in the same process.
"""

from __future__ import annotations

import gc
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def _without_keras() -> Iterator[None]:
    """Makes `import keras` fail inside the block, which TensorFlow's own start-up allows for."""
    hidden = [name for name in ("keras", "tf_keras") if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


@contextmanager
def _uncollected() -> Iterator[None]:
    """Looks for no garbage inside the block. What an import makes stays; looking takes up to a third of its time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


with _without_keras(), _uncollected():
    import tensorflow as tf


def _load_text_ops() -> None:
    """Registers TF Text's ops and kernels, which the tokeniser in a SavedModel's graph calls."""
    spec = importlib.util.find_spec("tensorflow_text")
    if spec is None:
        raise ImportError("tensorflow_text is not installed: the models' tokeniser needs its ops; run `make setup`")
    tf.load_library(str(Path(spec.submodule_search_locations[0]) / "python" / "ops"))


_load_text_ops()

__all__ = ["tf"]
