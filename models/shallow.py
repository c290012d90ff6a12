"""What families without a transformer share: nearly all of their weights are word embeddings."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from bertline.errors import UserError
from bertline.models import int8, saved_classifier
from bertline.models.dropout import dropped, noise
from bertline.models.family import Batch


@dataclass(frozen=True)
class Encoder(ABC):
    """The forward pass over weights: a named tuple with `words`, `head_kernel` and `head_bias` among them.

    Args:
        dropout: share dropped of what the network reads and of what the head reads, while training.
    """

    dropout: float

    def logits(self, weights: Any, batch: Batch, seed: tf.Tensor | None = None) -> tf.Tensor:
        """Logits, float32 [batch, labels]; with a seed, int64 [2], as training computes them, with dropout."""
        vectors = self._dropped(self._vectors(weights, batch, seed), seed, place=2)
        return tf.matmul(vectors, weights.head_kernel) + weights.head_bias

    def vectors(self, weights: Any, batch: Batch) -> tf.Tensor:
        """What the head reads, float32 [batch, width]."""
        return self._vectors(weights, batch, None)

    @abstractmethod
    def _vectors(self, weights: Any, batch: Batch, seed: tf.Tensor | None) -> tf.Tensor:
        """The same, with dropout where there is a seed."""

    def _words(self, weights: Any, batch: Batch) -> tf.Tensor:
        """The rows' word embeddings, float32 [batch, tokens, embedding]."""
        words = int8.rows(weights.words, batch.token_ids)
        return words if batch.move is None else words + batch.move

    def _dropped(self, x: tf.Tensor, seed: tf.Tensor | None, *, place: int) -> tf.Tensor:
        if seed is None:
            return x
        shape = tf.unstack(tf.shape(x))
        return dropped(x, noise(shape, seed + tf.constant([0, place], tf.int64)), self.dropout)


class Classifier(keras.Model):
    """Keras's layers, which hold the weights, and what is done with them; `output_dense` is the head.

    Args:
        labels: how many logits it gives.
        options: its sizes: the section of the config that has the family's name.
        dropout: see Encoder.
        multi_label: whether a row has any number of labels, and so each logit a probability of its own (sigmoid).
    """

    family: str
    same: tuple[str, ...]  # the options that two classifiers must share for one to take the other's weights
    forward: type[Encoder]
    additions: Mapping[str, np.ndarray] = MappingProxyType({})  # no method adds anything

    def __init__(self, labels: int, options: Any, *, dropout: float, multi_label: bool):
        super().__init__()
        self.options, self.dropout = options, dropout
        self.num_classes, self.multi_label = labels, multi_label

    def set_head(self, kernel: np.ndarray, bias: np.ndarray) -> None:
        """Gives the head its weights: kernel [width, labels] and bias [labels]."""
        self.output_dense.kernel.assign(kernel)
        self.output_dense.bias.assign(bias)

    def encoder(self) -> Encoder:
        """The forward pass over packed weights."""
        return self.forward(self.dropout)

    def frozen(self, dtype: tf.DType) -> FrozenClassifier:
        """The forward pass that is exported, with a copy of the weights."""
        return FrozenClassifier(self.encoder(), self.packed(tf.float32), dtype)

    def write(self, folder: Path, labels: Sequence[str], *, backbone_digest: str) -> None:
        """Writes the weights, and in classifier.json the sizes."""
        values = {"backbone_digest": backbone_digest, "dropout": self.dropout, self.family: self.options.model_dump()}
        words = int(self.token_embedding.input_dim)
        saved_classifier.write(folder, self.family, labels, multi_label=self.multi_label, words=words, **values)
        self.save_weights(folder / saved_classifier.WEIGHTS)

    def fitting(self, folder: Path, labels: Sequence[str]) -> dict[str, Any]:
        """The classifier.json of a classifier that was written, whose weights this one can take.

        Raises:
            UserError: the other has other labels, another network or other sizes.
        """
        saved = saved_classifier.read(folder, self.family)
        saved_classifier.check_labels(saved, labels, multi_label=self.multi_label)
        for key in self.same:
            own, other = getattr(self.options, key), saved[self.family][key]
            if own != other:
                raise UserError(f"its model.{self.family}.{key} is {other}, and that of the config is {own}")
        return saved


class FrozenClassifier(tf.Module):
    """The forward pass with a copy of the weights, as it is exported.

    Args:
        encoder: the forward pass.
        weights: its weights; copied.
        dtype: of the stored embeddings; int8 is that of the kernels too. What reads them computes in float32.
    """

    def __init__(self, encoder: Encoder, weights: Any, dtype: tf.DType):
        super().__init__()
        self._encoder = encoder
        self._words = int8.Table(weights.words, dtype)
        kernels = dtype if dtype == tf.int8 else tf.float32

        def stored(tensor: tf.Tensor) -> tf.Tensor | int8.Int8:
            return int8.kernel(tensor, kernels if tensor.shape.rank == 2 else tf.float32)

        rest = weights._replace(words=tf.zeros([]))
        frozen = [stored(tensor) for tensor in tf.nest.flatten(rest)]
        form = tf.nest.map_structure(lambda _: 0, rest)

        def packed() -> Any:
            whole = tf.nest.pack_sequence_as(form, [int8.whole(each) for each in frozen])
            return whole._replace(words=self._words)

        self._weights = packed

    def logits(self, batch: Batch) -> tf.Tensor:
        """Logits, float32 [batch, labels]."""
        return self._encoder.logits(self._weights(), batch)

    def vectors(self, batch: Batch) -> tf.Tensor:
        """The rows' vectors, float32 [batch, width]."""
        return self._encoder.vectors(self._weights(), batch)

    def vectors_and_logits(self, batch: Batch) -> tuple[tf.Tensor, tf.Tensor]:
        """Both, from one pass."""
        weights = self._weights()
        vectors = self._encoder.vectors(weights, batch)
        return vectors, tf.matmul(vectors, weights.head_kernel) + weights.head_bias
