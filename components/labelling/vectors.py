"""Vectors of texts by the pretrained encoder of a config, as the Embedder makes them of Examples."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from bertline.models import families, hardware
from bertline.models.dataset import Rows
from bertline.models.embeddings import FrozenEncoder
from bertline.models.recipe import ModelOptions

SEED = 1  # of a head that is not used, and of the backbone where it has random weights


class TextVectors:
    """The encoder.

    Args:
        options: name the backbone and its pooling.
        precision: as `train.precision`, of the products.

    Raises:
        UserError: the backbone cannot be read.
    """

    def __init__(self, options: ModelOptions, precision: str = "auto"):
        if options.family == "static":  # what its words are distilled from says more of a whole text
            options = options.model_copy(update={"family": "auto"})
        family = families.of(options)
        self._tokenizer = family.tokenizer(options)
        keras.utils.set_random_seed(SEED)
        model = family.build(options, 2, seed=SEED)
        self._encoder = FrozenEncoder(model, hardware.compute_dtype(precision))
        self._pooling = family.pooling(options)

    def __call__(self, texts: Sequence[str], pairs: Sequence[str] | None) -> np.ndarray:
        """The vectors of texts, float32 [texts, hidden], of length 1.

        Args:
            texts: at least one.
            pairs: the second text of each, if rows are pairs.
        """
        vectors = self._pooled(texts, pairs)
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)

    def features(self, texts: Sequence[str], pairs: Sequence[str] | None) -> np.ndarray:
        """What a head reads of texts, float32 [texts, hidden]; arguments as those of a call."""
        vectors = self._pooled(texts, pairs)
        return vectors * np.float32(self._pooling.gain(vectors.shape[1]))

    def _pooled(self, texts: Sequence[str], pairs: Sequence[str] | None) -> np.ndarray:
        ids, segments = self._tokenizer(tf.constant(texts), None if pairs is None else tf.constant(pairs))
        segments = None if segments is None else tf.cast(segments, tf.int32)
        return self._encoder(Rows(tf.cast(ids, tf.int32), segments, np.zeros(len(texts), np.int32)))
