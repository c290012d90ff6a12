"""The classifier: Keras's layers hold the weights; `network` has the forward pass that is trained and served."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from bertline.errors import UserError
from bertline.models import network_size, saved_classifier, shallow
from bertline.models.network_size import NetworkSize
from bertline.models.pooling import Pooling
from bertline.models.recipe import ModelOptions, StaticOptions
from bertline.models.saved_classifier import WEIGHTS
from bertline.models.static.network import Encoder, Weights


class Classifier(shallow.Classifier):
    """Token vectors, their mean, a hidden layer with ReLU, and a dense head.

    Args:
        words: how many ids the vocabulary has.
        labels: how many logits it gives.
        options: its sizes.
        dropout: share dropped of the words and of what the head reads, while training.
        seed: of the initial weights of both layers. The token vectors are zeros until `set_table`.
        multi_label: whether a row has any number of labels, and so each logit a probability of its own (sigmoid).
    """

    family, same, forward = "static", ("dimensions", "hidden"), Encoder
    pooling = Pooling("mean")

    def __init__(
        self,
        words: int,
        labels: int,
        options: StaticOptions,
        *,
        dropout: float,
        seed: int = 0,
        multi_label: bool = False,
    ):
        super().__init__(labels, options, dropout=dropout, multi_label=multi_label)
        self.token_embedding = keras.layers.Embedding(words, options.dimensions, "zeros")
        # He's initial weights, which keep the size of what a ReLU gives (He et al. 2015).
        self.hidden_dense = keras.layers.Dense(
            options.hidden, kernel_initializer=keras.initializers.HeNormal(seed=seed + 1)
        )
        self.output_dense = keras.layers.Dense(
            labels, kernel_initializer=keras.initializers.GlorotUniform(seed=seed + 2)
        )
        self.token_embedding.build()
        self.hidden_dense.build((None, options.dimensions))
        self.output_dense.build((None, options.hidden))
        self.token_embedding.trainable = options.train_embeddings
        self.built = True

    def set_table(self, table: np.ndarray) -> None:
        """Gives the tokens their vectors, float32 [words, dimensions]."""
        self.token_embedding.embeddings.assign(table)

    @property
    def width(self) -> int:
        """Of the vector that the head reads."""
        return self.options.hidden

    @property
    def size(self) -> NetworkSize:
        """See NetworkSize."""
        return network_size.of_static(self.options)

    @property
    def by_depth(self) -> list[list[keras.Variable]]:
        """The token vectors, then the hidden layer."""
        return [list(layer.trainable_variables) for layer in (self.token_embedding, self.hidden_dense)]

    @property
    def pretrained(self) -> list[keras.Variable]:
        """The token vectors."""
        return list(self.token_embedding.trainable_variables)

    def penalty(self) -> None:
        """Nothing."""

    def packed(self, dtype: tf.DType) -> Weights:
        """The weights as the encoder takes them, in float32: its products are small."""
        del dtype
        return Weights(
            words=self.token_embedding.embeddings.value,
            hidden_kernel=self.hidden_dense.kernel.value,
            hidden_bias=self.hidden_dense.bias.value,
            head_kernel=self.output_dense.kernel.value,
            head_bias=self.output_dense.bias.value,
        )

    def call(self, inputs: dict[str, Any], training: bool | None = None) -> Any:
        """Logits, float32 [batch, labels], of token_ids and padding_mask, int [batch, tokens], by Keras's layers."""
        del training
        ops = keras.ops
        real = ops.cast(inputs["padding_mask"], "float32")[:, :, None]
        mean = ops.sum(self.token_embedding(inputs["token_ids"]) * real, axis=1) / ops.sum(real, axis=1)
        return self.output_dense(ops.relu(self.hidden_dense(mean)))

    def take_weights(self, folder: Path, labels: Sequence[str], *, backbone_digest: str) -> None:
        """Takes the weights of a classifier that was written.

        Args:
            folder: where the other was written.
            labels: names in the order of the logits.
            backbone_digest: of what the token vectors were distilled from.

        Raises:
            UserError: the other has other labels, another network, other sizes or another backbone.
        """
        if self.fitting(folder, labels)["backbone_digest"] != backbone_digest:
            raise UserError("its token vectors were distilled from another model.backbone, or with other weights")
        self.load_weights(folder / WEIGHTS)


def with_table(
    table: np.ndarray, options: ModelOptions, labels: int, *, seed: int, multi_label: bool = False
) -> Classifier:
    """A classifier with these token vectors, float32 [words, dimensions], and two random layers."""
    made = Classifier(len(table), labels, options.static, dropout=options.dropout, seed=seed, multi_label=multi_label)
    made.set_table(table)
    return made


def load(folder: Path) -> Classifier:
    """The classifier that `Classifier.write` wrote.

    Raises:
        UserError: the folder holds no saved classifier, or one of another network.
    """
    saved = saved_classifier.read(folder, Classifier.family)
    model = Classifier(
        saved["words"],
        len(saved["labels"]),
        StaticOptions(**saved["static"]),
        dropout=saved["dropout"],
        multi_label=saved["multi_label"],
    )
    model.load_weights(folder / WEIGHTS)
    return model
