"""BERT's masked-language-model head: from a token's vector to the vocabulary (Devlin et al. 2019).

A dense layer with GELU and LayerNorm, then the product with the word embeddings themselves, and a bias per word.
Folders of sentence encoders, and those of keras-hub, have no such head. There it starts from random weights, and learns
with the rest.
"""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from bertline.models.bert import kernels
from bertline.models.bert.classifier import Classifier
from bertline.models.bert.encoder import Encoder, pack
from bertline.models.bert.hugging_face import Tensors
from bertline.models.family import Batch

PREFIX = "cls.predictions"
# Hugging Face's names: BERT's, then DistilBERT's
_NAMES = {
    "kernel": (f"{PREFIX}.transform.dense.weight", "vocab_transform.weight"),
    "bias": (f"{PREFIX}.transform.dense.bias", "vocab_transform.bias"),
    "gamma": (f"{PREFIX}.transform.LayerNorm.weight", "vocab_layer_norm.weight"),
    "beta": (f"{PREFIX}.transform.LayerNorm.bias", "vocab_layer_norm.bias"),
    "word_bias": (f"{PREFIX}.bias", f"{PREFIX}.decoder.bias", "vocab_projector.bias"),
}


class MaskedLm:
    """A network with a masked-LM head.

    Args:
        model: a classifier; of it only the network below the pooler is used.
        head: the head's weights by the names of `_NAMES`, float32; None draws them.
        seed: of what is drawn.

    Attributes:
        variables: all that further pre-training trains: the network without its pooler, and the head.
    """

    def __init__(self, model: Classifier, head: dict[str, np.ndarray] | None, seed: int):
        self.model = model
        network = model.backbone
        hidden, words = network.hidden_dim, network.vocabulary_size
        if head is None:
            drawn = keras.initializers.TruncatedNormal(stddev=0.02, seed=seed)([hidden, hidden])
            head = {name: np.zeros(hidden) for name in ("bias", "beta")}
            head |= {"kernel": np.asarray(drawn), "gamma": np.ones(hidden), "word_bias": np.zeros(words)}
        # AdamW spares what is named bias, gamma or beta from weight decay.
        self._head = {
            name: keras.Variable(value.astype(np.float32), name="bias" if name == "word_bias" else name)
            for name, value in head.items()
        }
        below_pooler = [variable for group in model.by_depth for variable in group]
        self.variables = [*below_pooler, *self._head.values()]
        self._encoder = Encoder.of(model)

    def losses(
        self, batch: Batch, chosen: tf.Tensor, truth: tf.Tensor, dtype: tf.DType, seed: tf.Tensor | None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """How well the network predicts the chosen tokens.

        Args:
            batch: the masked rows.
            chosen: bool [batch, tokens].
            truth: the old ids, int32 [batch, tokens].
            dtype: of the matrix products.
            seed: int64 [2], for dropout; None for none.

        Returns:
            the cross-entropy of each chosen token, in nats, float32 [chosen], and whether the likeliest one is right,
            bool [chosen].
        """
        logits = self.at(batch, chosen, dtype, seed)
        old = tf.boolean_mask(truth, chosen)
        right = tf.equal(tf.argmax(logits, axis=-1, output_type=old.dtype), old)
        return tf.nn.sparse_softmax_cross_entropy_with_logits(old, logits), right

    def at(self, batch: Batch, chosen: tf.Tensor, dtype: tf.DType, seed: tf.Tensor | None) -> tf.Tensor:
        """Logits of all words at the chosen places, float32 [chosen, vocabulary]; arguments as those of `losses`."""
        tokens = self._encoder.tokens(pack(self.model, dtype), batch, seed)
        return self.logits(tf.boolean_mask(tokens, tf.reshape(chosen, [-1])), dtype)

    def logits(self, vectors: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
        """From tokens' vectors, float32 [some, hidden], to logits of all words, float32 [some, vocabulary]."""
        head = {name: variable.value for name, variable in self._head.items()}
        product = tf.matmul(tf.cast(vectors, dtype), tf.cast(head["kernel"], dtype))
        shaped = kernels.bias_gelu(product, head["bias"], approximate=self._encoder.approximate_gelu)
        normed = kernels.layer_norm(tf.cast(shaped, tf.float32), head["gamma"], head["beta"], self._encoder.epsilon)
        words = tf.cast(self.model.backbone.token_embedding.embeddings.value, dtype)
        return tf.cast(tf.matmul(tf.cast(normed, dtype), words, transpose_b=True), tf.float32) + head["word_bias"]

    def tensors(self) -> dict[str, np.ndarray]:
        """The head as Hugging Face's folders have it."""
        values = {name: variable.numpy() for name, variable in self._head.items()}
        values["kernel"] = values["kernel"].T
        return {_NAMES[name][0]: np.ascontiguousarray(value) for name, value in values.items()}


def head_of(folder: Path | None) -> dict[str, np.ndarray] | None:
    """The masked-LM head of a Hugging Face folder; None where it has none.

    Args:
        folder: of the backbone; None where it has no local one.
    """
    if folder is None or not (folder / "config.json").is_file():
        return None
    weights = Tensors(folder)
    spelt = {
        name: spelling for name, spellings in _NAMES.items() for spelling in reversed(spellings) if spelling in weights
    }
    if set(spelt) != set(_NAMES):
        return None
    found = {name: weights[spelling] for name, spelling in spelt.items()}
    return {**found, "kernel": found["kernel"].T}
