"""BERT's forward pass, written for speed on CPUs, over the variables of the keras-hub classifier.

It computes what keras-hub's own call computes (a test holds it to 1e-5 in float32), with fewer and larger ops: matrix
products on [batch x tokens, hidden], query, key and value in one product, LayerNorm and softmax in float32 whatever the
products' precision.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import keras_hub
import tensorflow as tf

from models.backbone import approximate_gelu

DROPOUT_PLACES = 4096  # more than a network has places with dropout: seeds so far apart share no draws


class Layer(NamedTuple):
    """One transformer layer's weights; kernels in the compute dtype, LayerNorm in float32."""

    qkv_kernel: tf.Tensor  # [hidden, 3 x hidden]
    qkv_bias: tf.Tensor  # [3 x hidden]
    output_kernel: tf.Tensor  # [hidden, hidden]
    output_bias: tf.Tensor
    attention_gamma: tf.Tensor
    attention_beta: tf.Tensor
    up_kernel: tf.Tensor  # [hidden, intermediate]
    up_bias: tf.Tensor
    down_kernel: tf.Tensor  # [intermediate, hidden]
    down_bias: tf.Tensor
    feedforward_gamma: tf.Tensor
    feedforward_beta: tf.Tensor


class Weights(NamedTuple):
    """All weights of a classifier, packed for `Encoder`; its leaves can be variables or tensors."""

    words: tf.Tensor  # [vocabulary, hidden]
    positions: tf.Tensor  # [positions, hidden]
    segments: tf.Tensor  # [segments, hidden]
    gamma: tf.Tensor
    beta: tf.Tensor
    layers: tuple[Layer, ...]
    pooler_kernel: tf.Tensor  # [hidden, hidden]
    pooler_bias: tf.Tensor
    head_kernel: tf.Tensor  # [hidden, labels]
    head_bias: tf.Tensor


class Batch(NamedTuple):
    """Rows padded to the longest of them."""

    token_ids: tf.Tensor  # int [batch, tokens]
    segment_ids: tf.Tensor | None  # int [batch, tokens]; None: all 0
    lengths: tf.Tensor  # int32 [batch]: the ids in a row that are not padding


def pack(model: keras_hub.models.BertTextClassifier, dtype: tf.DType) -> Weights:
    """The classifier's weights as `Encoder` takes them; gradients flow back to the model's variables.

    Args:
        model: the classifier.
        dtype: of the kernels and biases of matrix products.
    """
    backbone = model.backbone
    hidden = backbone.hidden_dim

    def cast(variable, shape=None):
        value = tf.cast(variable.value, dtype)
        return value if shape is None else tf.reshape(value, shape)

    def layer(block) -> Layer:
        attention = block._self_attention_layer
        projections = (attention.query_dense, attention.key_dense, attention.value_dense)
        return Layer(
            qkv_kernel=tf.concat([cast(dense.kernel, (hidden, hidden)) for dense in projections], axis=1),
            qkv_bias=tf.concat([cast(dense.bias, (hidden,)) for dense in projections], axis=0),
            output_kernel=cast(attention.output_dense.kernel, (hidden, hidden)),
            output_bias=cast(attention.output_dense.bias),
            attention_gamma=block._self_attention_layer_norm.gamma.value,
            attention_beta=block._self_attention_layer_norm.beta.value,
            up_kernel=cast(block._feedforward_intermediate_dense.kernel),
            up_bias=cast(block._feedforward_intermediate_dense.bias),
            down_kernel=cast(block._feedforward_output_dense.kernel),
            down_bias=cast(block._feedforward_output_dense.bias),
            feedforward_gamma=block._feedforward_layer_norm.gamma.value,
            feedforward_beta=block._feedforward_layer_norm.beta.value,
        )

    return Weights(
        words=backbone.token_embedding.embeddings.value,  # not cast: only the rows of a batch are read
        positions=backbone.position_embedding.position_embeddings.value,
        segments=backbone.segment_embedding.embeddings.value,
        gamma=backbone.embeddings_layer_norm.gamma.value,
        beta=backbone.embeddings_layer_norm.beta.value,
        layers=tuple(layer(block) for block in backbone.transformer_layers),
        pooler_kernel=backbone.pooled_dense.kernel.value,  # the head works on [batch, hidden]: float32 costs nothing
        pooler_bias=backbone.pooled_dense.bias.value,
        head_kernel=model.output_dense.kernel.value,
        head_bias=model.output_dense.bias.value,
    )


@dataclass(frozen=True)
class Encoder:
    """The forward pass of one architecture.

    Args:
        heads: attention heads.
        approximate_gelu: GELU by tanh, where the weights were trained so.
        dropout: share dropped inside the encoder while training.
        head_dropout: share dropped before the head while training.
        epsilon: LayerNorm's.
    """

    heads: int
    approximate_gelu: bool
    dropout: float
    head_dropout: float
    epsilon: float = 1e-12

    @classmethod
    def of(cls, model: keras_hub.models.BertTextClassifier) -> Encoder:
        """The encoder that computes what the model computes."""
        backbone = model.backbone
        return cls(backbone.num_heads, approximate_gelu(backbone), backbone.dropout, model.dropout)

    def logits(self, weights: Weights, batch: Batch, seed: tf.Tensor | None = None) -> tf.Tensor:
        """The classifier's logits.

        Args:
            weights: packed weights.
            batch: padded rows; what stands in the padding does not matter.
            seed: int64 [2], for training with dropout; the same seed drops the same units. None drops nothing.

        Returns:
            float32 [batch, labels].
        """
        drop = _Dropout(seed)
        shape = tf.shape(batch.token_ids)
        size, tokens = shape[0], shape[1]
        x = self._embed(weights, batch, tokens)  # [batch x tokens, hidden]
        x = drop(x, self.dropout)
        bias = _attention_bias(batch.lengths, tokens)
        for layer in weights.layers:
            x = self._layer(layer, x, bias, size, tokens, drop)
        first = tf.reshape(x, [size, tokens, x.shape[-1]])[:, 0]  # [batch, hidden]: [CLS]
        pooled = tf.tanh(tf.matmul(first, weights.pooler_kernel) + weights.pooler_bias)
        pooled = drop(pooled, self.head_dropout)
        return tf.matmul(pooled, weights.head_kernel) + weights.head_bias

    def _embed(self, weights: Weights, batch: Batch, tokens: tf.Tensor) -> tf.Tensor:
        words = tf.cast(tf.gather(weights.words, tf.reshape(batch.token_ids, [-1])), tf.float32)
        hidden = words.shape[-1]
        places = weights.positions[None, :tokens]  # [1, tokens, hidden]
        if batch.segment_ids is None:
            places += weights.segments[0]
        else:
            places += tf.gather(weights.segments, batch.segment_ids)
        x = tf.reshape(tf.reshape(words, [-1, tokens, hidden]) + places, [-1, hidden])
        return layer_norm(x, weights.gamma, weights.beta, self.epsilon)

    def _layer(self, layer: Layer, x, bias, size, tokens, drop: _Dropout) -> tf.Tensor:
        attended = self._attention(layer, x, bias, size, tokens, drop)
        x = layer_norm(x + drop(attended, self.dropout), layer.attention_gamma, layer.attention_beta, self.epsilon)
        dtype = layer.up_kernel.dtype
        up = tf.nn.bias_add(tf.matmul(tf.cast(x, dtype), layer.up_kernel), layer.up_bias)
        up = tf.nn.gelu(up, approximate=self.approximate_gelu)
        down = tf.nn.bias_add(tf.matmul(up, layer.down_kernel), layer.down_bias)
        down = drop(tf.cast(down, tf.float32), self.dropout)
        return layer_norm(x + down, layer.feedforward_gamma, layer.feedforward_beta, self.epsilon)

    def _attention(self, layer: Layer, x, bias, size, tokens, drop: _Dropout) -> tf.Tensor:
        dtype, hidden = layer.qkv_kernel.dtype, x.shape[-1]
        qkv = tf.nn.bias_add(tf.matmul(tf.cast(x, dtype), layer.qkv_kernel), layer.qkv_bias)
        qkv = tf.reshape(qkv, [size, tokens, 3, self.heads, hidden // self.heads])
        query, key, value = tf.unstack(tf.transpose(qkv, [2, 0, 3, 1, 4]))  # each [batch, heads, tokens, hidden/heads]
        scores = tf.cast(tf.matmul(query, key, transpose_b=True), tf.float32)
        scores = tf.nn.softmax(scores * (hidden // self.heads) ** -0.5 + bias)
        scores = tf.cast(drop(scores, self.dropout), dtype)
        context = tf.transpose(tf.matmul(scores, value), [0, 2, 1, 3])
        context = tf.reshape(context, [-1, hidden])
        return tf.cast(tf.nn.bias_add(tf.matmul(context, layer.output_kernel), layer.output_bias), tf.float32)


def layer_norm(x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, epsilon: float) -> tf.Tensor:
    """LayerNorm over the last axis of a float32 [rows, hidden]."""
    mean = tf.reduce_mean(x, axis=-1, keepdims=True)
    centred = x - mean
    variance = tf.reduce_mean(tf.square(centred), axis=-1, keepdims=True)
    return centred * (tf.math.rsqrt(variance + epsilon) * gamma) + beta


def _attention_bias(lengths: tf.Tensor, tokens: tf.Tensor) -> tf.Tensor:
    """What is added to the scores, float32 [batch, 1, 1, tokens]: 0 on real tokens, so low on padding that exp gives 0."""
    return tf.where(tf.sequence_mask(lengths, tokens), 0.0, -1e9)[:, None, None, :]


class _Dropout:
    """Dropout whose draws depend on the seed and on the place in the network alone."""

    def __init__(self, seed: tf.Tensor | None):
        self._seed = seed
        self._place = 0

    def __call__(self, x: tf.Tensor, rate: float) -> tf.Tensor:
        if self._seed is None or not rate:
            return x
        self._place += 1
        return tf.nn.experimental.stateless_dropout(x, rate, self._seed + tf.constant([0, self._place], tf.int64))
