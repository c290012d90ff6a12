"""One loaded SavedModel: tensors in, tensors out, through TensorFlow's own session as TF Serving runs it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

import grpc
import numpy as np
from google.protobuf.message import DecodeError

from bertline.errors import UserError
from bertline.serving import configuration, releases, storage
from bertline.serving.calls import DEFAULT_SIGNATURE, Call
from bertline.serving.errors import RequestError, invalid
from bertline.serving.monitored import Monitored
from bertline.serving.protos import CallableOptions, ConfigProto, SavedModel, SignatureDef
from bertline.serving.runtime import tf

log = logging.getLogger("bertline.serving")

SERVE_TAG = "serve"
_CODES = {code.value[0]: code for code in grpc.StatusCode}


class Servable:
    """The SavedModel of one version folder, loaded; safe to call from many threads.

    Any SavedModel that TF Serving loads: TensorFlow 1 or 2, with TF Text's ops.

    Args:
        path: folder with saved_model.pb or .pbtxt, variables/ and assets/, local or remote (gs://).
        model: the name requests call it by.
        version: its number, the folder's name.
        tags: of the meta graph to load.
        session_config: threads and the like; None for TensorFlow's defaults.

    Raises:
        UserError: the folder holds no SavedModel that serves; the message names the folder.
    """

    def __init__(
        self,
        path: str | Path,
        model: str,
        version: int,
        *,
        tags: Sequence[str] = (SERVE_TAG,),
        session_config: ConfigProto | None = None,
    ):
        self.model = model
        self.version = version
        self.path = path
        self.signatures = signature_defs(path, tags)
        config = tf.compat.v1.ConfigProto()
        if session_config is not None:
            config.ParseFromString(session_config.SerializeToString())
        self._graph = tf.Graph()
        self._session = tf.compat.v1.Session(graph=self._graph, config=config)
        self._callables: dict[tuple[tuple[str, ...], tuple[str, ...]], object] = {}
        self._batched: dict[str, bool] = {}
        try:
            with self._graph.as_default():
                tf.compat.v1.saved_model.load(self._session, list(tags), str(path))
        except (tf.errors.OpError, OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
            self.close()
            raise UserError(f"{path}: this SavedModel does not load: {error}") from error

    @property
    def where(self) -> str:
        """Model and version in an error's words."""
        return f"model {self.model}, version {self.version}"

    @cached_property
    def monitored(self) -> Monitored | None:
        """How calls of the signature `text` are made so that they tell what `bertline monitor` needs; see Monitored."""
        return Monitored.of(self.signatures)

    def signature(self, name: str) -> SignatureDef | None:
        """The signature of that name, or None."""
        return self.signatures.get(name or DEFAULT_SIGNATURE)

    def run(self, call: Call) -> dict[str, np.ndarray]:
        """Runs the graph once. Only the graph checks the feeds' shapes, as in TF Serving.

        Returns:
            Tensor name -> value, of each fetch; strings as arrays of bytes objects.

        Raises:
            RequestError: the graph refused its input, with the status code of TensorFlow's own error.
        """
        try:
            runner = self._callable(tuple(call.feeds), call.fetches)
            values = runner(*call.feeds.values())
        except tf.errors.OpError as error:
            raise RequestError(_CODES[error.error_code], error.message) from error
        except UnicodeDecodeError as error:  # the graph's error quotes the request's bytes, and TensorFlow decodes it
            raise invalid(error.object.decode(errors="backslashreplace")) from error
        return {name: _array(value) for name, value in zip(call.fetches, values, strict=True)}

    def is_batchable(self, tensors: Iterable[str]) -> bool:
        """Whether each of these tensors has rows of any number in its first dimension, as far as the graph says."""
        return all(self._has_rows(name) for name in tensors)

    def close(self) -> None:
        """Frees the weights. Nothing may be running."""
        self._callables.clear()
        self._session.close()

    def _has_rows(self, name: str) -> bool:
        if name not in self._batched:
            shape = self._graph.get_tensor_by_name(name).shape
            self._batched[name] = shape.rank is None or (shape.rank > 0 and shape[0] is None)
        return self._batched[name]

    def _callable(self, feeds: tuple[str, ...], fetches: tuple[str, ...]):
        """A prepared run; two threads that prepare the same one at once do no harm."""
        key = feeds, fetches
        if key not in self._callables:
            # The public make_callable compares each feed's shape with the graph's in Python. This one, which Keras uses
            # too, does not, and takes 20 us a run instead of 120.
            options = CallableOptions(feed=feeds, fetch=fetches)
            self._callables[key] = self._session._make_callable_from_options(options)
        return self._callables[key]


def _array(value: np.ndarray | np.generic | bytes) -> np.ndarray:
    """A fetched value; a single string comes as bytes, of which numpy would make a string without its last zeros."""
    return np.array(value, object) if isinstance(value, bytes) else np.asarray(value)


def read_saved_model(path: str | Path) -> SavedModel:
    """The SavedModel's message, from saved_model.pb, else from saved_model.pbtxt.

    Raises:
        UserError: the folder holds neither, or what it holds is no SavedModel; the message names the file.
    """
    file, text_file = f"{path}/{releases.SAVED_MODEL_FILE}", f"{path}/{releases.SAVED_MODEL_TEXT_FILE}"
    if not storage.exists(file) and storage.exists(text_file):
        return configuration.read_text_proto(text_file, SavedModel)
    try:
        with storage.open_file(file, "rb") as opened:
            return SavedModel.FromString(opened.read())
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from error
    except DecodeError as error:
        raise UserError(f"{file}: not a SavedModel: {error}") from error


def signature_defs(path: str | Path, tags: Sequence[str]) -> dict[str, SignatureDef]:
    """Signature name -> SignatureDef, of the meta graph with these tags."""
    for meta_graph in read_saved_model(path).meta_graphs:
        if set(tags) == set(meta_graph.meta_info_def.tags):
            return dict(meta_graph.signature_def)
    raise UserError(f"{path}: no graph tagged {', '.join(tags)}; export it with tf.saved_model.save")
