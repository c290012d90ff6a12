"""The pooled vectors of a split's rows by the frozen encoder, at the speed of the exported graph."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from bertline.models.dataset import Batches, Rows
from bertline.models.family import Batch, Classifier

_BATCH = 64  # rows of similar length; larger batches are no faster on a CPU


class FrozenEncoder:
    """The encoder of a classifier as a graph of constants.

    It runs in a session, as in a server: called as a function the same graph took up to twice as long, since
    TensorFlow fuses fewer of its ops there.

    Args:
        model: the classifier; its head is not used.
        dtype: of the matrix products.
    """

    def __init__(self, model: Classifier, dtype: tf.DType):
        frozen = model.frozen(dtype)
        ids = tf.TensorSpec([None, None], tf.int32)

        def vectors(token_ids: tf.Tensor, segment_ids: tf.Tensor, lengths: tf.Tensor) -> tf.Tensor:
            return frozen.vectors(Batch(token_ids, segment_ids, lengths))

        signature = [ids, ids, tf.TensorSpec([None], tf.int32)]
        concrete = tf.function(vectors, input_signature=signature, autograph=False).get_concrete_function()
        constant = convert_variables_to_constants_v2(concrete)
        graph = tf.Graph()
        with graph.as_default():
            tf.graph_util.import_graph_def(constant.graph.as_graph_def(), name="")
        self._inputs, self._output = [tensor.name for tensor in constant.inputs], constant.outputs[0].name
        self._session = tf.compat.v1.Session(graph=graph)
        self._width = model.width

    def __call__(self, rows: Rows) -> np.ndarray:
        """The vectors of rows, float32 [rows, hidden], in the order of the split."""
        vectors = np.empty((len(rows), self._width), np.float32)
        for batch in Batches(rows, _BATCH).ordered():
            ids = batch["token_ids"].numpy()
            segments = batch["segment_ids"].numpy() if "segment_ids" in batch else np.zeros_like(ids)
            fed = zip(self._inputs, (ids, segments, batch["lengths"].numpy()), strict=True)
            vectors[batch["rows"].numpy()] = self._session.run(self._output, dict(fed))
        return vectors
