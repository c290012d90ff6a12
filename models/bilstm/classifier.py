"""The classifier: Keras's layers hold the weights; `network` has the forward pass that is trained and served."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from bertline.models import network_size, saved_classifier, shallow
from bertline.models.bilstm import vocabulary
from bertline.models.bilstm.network import Direction, Encoder, Weights
from bertline.models.network_size import NetworkSize
from bertline.models.pooling import Pooling
from bertline.models.recipe import BilstmOptions
from bertline.models.saved_classifier import WEIGHTS


class Classifier(shallow.Classifier):
    """Embedding, dropout, an LSTM from each end of the row (Schuster and Paliwal 1997), and a dense head.

    Args:
        tokens: the vocabulary, in the order of its ids.
        labels: how many logits it gives.
        options: its sizes.
        dropout: share dropped of the embeddings and of what the head reads, while training.
        seed: of the initial weights.
        multi_label: whether a row has any number of labels, and so each logit a probability of its own (sigmoid).
    """

    family, same, forward = "bilstm", ("tokens", "embedding", "units"), Encoder
    pooling = Pooling()  # of no use here: the head reads the LSTMs' last states

    def __init__(
        self,
        tokens: Sequence[str],
        labels: int,
        options: BilstmOptions,
        *,
        dropout: float,
        seed: int = 0,
        multi_label: bool = False,
    ):
        super().__init__(labels, options, dropout=dropout, multi_label=multi_label)
        self.tokens = tuple(tokens)
        # A range of 0.05 both ways is Keras's own for embeddings.
        uniform = keras.initializers.RandomUniform(-0.05, 0.05, seed=seed)
        self.token_embedding = keras.layers.Embedding(len(tokens), options.embedding, uniform)
        self.forward_lstm = _lstm(options.units, seed + 1)
        self.backward_lstm = _lstm(options.units, seed + 2, go_backwards=True)
        initial = keras.initializers.GlorotUniform(seed=seed + 3)
        self.output_dense = keras.layers.Dense(labels, kernel_initializer=initial)
        self.token_embedding.build()
        for lstm in (self.forward_lstm, self.backward_lstm):
            lstm.build((None, None, options.embedding))
        self.output_dense.build((None, self.width))
        self.built = True

    @property
    def width(self) -> int:
        """Of the vector that the head reads: the last states of both directions."""
        return 2 * self.options.units

    @property
    def size(self) -> NetworkSize:
        """See NetworkSize."""
        return network_size.of_bilstm(self.options)

    @property
    def by_depth(self) -> list[list[keras.Variable]]:
        """The embeddings, then the LSTMs."""
        lstms = [*self.forward_lstm.trainable_variables, *self.backward_lstm.trainable_variables]
        return [list(self.token_embedding.trainable_variables), lstms]

    @property
    def pretrained(self) -> list[keras.Variable]:
        """None of its weights."""
        return []

    def penalty(self) -> tf.Tensor | None:
        """L2 on the LSTMs' kernels, as Keras's regulariser: `model.bilstm.l2` times the sum of their squares."""
        if not self.options.l2:
            return None
        kernels = [variable.value for variable in self.by_depth[1] if variable.name != "bias"]
        return self.options.l2 * tf.add_n([tf.reduce_sum(tf.square(kernel)) for kernel in kernels])

    def packed(self, dtype: tf.DType) -> Weights:
        """The weights as the encoder takes them, in float32, which BlockLSTM computes in."""
        del dtype
        return Weights(
            words=self.token_embedding.embeddings.value,
            forward=_direction(self.forward_lstm),
            backward=_direction(self.backward_lstm),
            head_kernel=self.output_dense.kernel.value,
            head_bias=self.output_dense.bias.value,
        )

    def call(self, inputs: dict[str, Any], training: bool | None = None) -> Any:
        """Logits, float32 [batch, labels], of token_ids and padding_mask, int [batch, tokens], by Keras's own LSTMs."""
        del training
        mask = keras.ops.cast(inputs["padding_mask"], "bool")
        words = self.token_embedding(inputs["token_ids"])
        lasts = [lstm(words, mask=mask) for lstm in (self.forward_lstm, self.backward_lstm)]
        return self.output_dense(keras.ops.concatenate(lasts, axis=-1))

    def write(self, folder: Path, labels: Sequence[str], *, backbone_digest: str) -> None:
        """Writes the weights, the sizes and the vocabulary."""
        super().write(folder, labels, backbone_digest=backbone_digest)
        vocabulary.write(str(folder / vocabulary.FILE), self.tokens)

    def take_weights(self, folder: Path, labels: Sequence[str], *, backbone_digest: str) -> None:
        """Takes the weights of a classifier that was written; tokens that only this one knows keep their initial ones.

        Args:
            folder: where the other was written.
            labels: names in the order of the logits.
            backbone_digest: of no use here.

        Raises:
            UserError: the other has other labels, another network, other sizes or other tokens.
        """
        del backbone_digest
        self.fitting(folder, labels)
        other, embeddings = load(folder), self.token_embedding.embeddings.numpy()
        places = {token: place for place, token in enumerate(other.tokens)}
        known = [place for place, token in enumerate(self.tokens) if token in places]
        embeddings[known] = other.token_embedding.embeddings.numpy()[[places[self.tokens[place]] for place in known]]
        self.token_embedding.embeddings.assign(embeddings)
        for mine, theirs in zip(self.variables, other.variables, strict=True):
            if mine is not self.token_embedding.embeddings:
                mine.assign(theirs)


def load(folder: Path) -> Classifier:
    """The classifier that `Classifier.write` wrote.

    Raises:
        UserError: the folder holds no saved classifier, or one of another network.
    """
    saved = saved_classifier.read(folder, Classifier.family)
    model = Classifier(
        vocabulary.read(str(folder / vocabulary.FILE)),
        len(saved["labels"]),
        BilstmOptions(**saved["bilstm"]),
        dropout=saved["dropout"],
        multi_label=saved["multi_label"],
    )
    model.load_weights(folder / WEIGHTS)
    return model


def _lstm(units: int, seed: int, *, go_backwards: bool = False) -> keras.layers.LSTM:
    return keras.layers.LSTM(
        units,
        kernel_initializer=keras.initializers.GlorotUniform(seed=seed),
        recurrent_initializer=keras.initializers.Orthogonal(seed=seed),
        go_backwards=go_backwards,
    )


def _direction(lstm: keras.layers.LSTM) -> Direction:
    cell = lstm.cell
    kernel = tf.concat([cell.kernel.value, cell.recurrent_kernel.value], axis=0)
    return Direction(_reordered(kernel), _reordered(cell.bias.value))


def _reordered(gates: tf.Tensor) -> tf.Tensor:
    """From Keras's order, input, forget, cell and output, to that of Direction."""
    into, forget, cell, out = tf.split(gates, 4, axis=-1)
    return tf.concat([into, cell, forget, out], axis=-1)
