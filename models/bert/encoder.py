"""BERT's forward pass, written for speed on CPUs, over the variables of the keras-hub classifier.

It computes the same as keras-hub's own call (a test holds it to 1e-5 in float32), with fewer and larger ops: matrix
products on [batch x tokens, hidden]; query, key and value in one product; LayerNorm and softmax in float32 whatever the
dtype of the products. Training and validation run it; models/bert/inference.py is the form that is exported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import keras_hub
import tensorflow as tf

from bertline.models import dropout
from bertline.models.additions import PLACES, PROMPT
from bertline.models.bert import kernels
from bertline.models.bert.network import approximate_gelu, epsilon, projection
from bertline.models.family import Batch
from bertline.models.pooling import POOLER, Pooling


class LowRank(NamedTuple):
    """Low-rank factors beside a kernel: x @ kernel + dropout(x) @ down @ up; see bertline.models.methods.lora."""

    down: tf.Tensor  # [in, rank], in the compute dtype
    up: tf.Tensor  # [rank, out], in the compute dtype
    dropout: float


class Bottleneck(NamedTuple):
    """A small network beside a residual: nonlinearity(x @ down + down_bias) @ up + up_bias."""

    down: tf.Tensor  # [hidden, size], in the compute dtype
    down_bias: tf.Tensor  # [size]
    up: tf.Tensor  # [size, hidden], in the compute dtype
    up_bias: tf.Tensor  # [hidden]


class LayerAdditions(NamedTuple):
    """What a method puts into one transformer layer beside its own weights; None for nothing.

    qkv, output, up and down are factors beside the kernels. The rest is described in bertline.models.additions.
    """

    qkv: LowRank | None = None
    output: LowRank | None = None
    up: LowRank | None = None
    down: LowRank | None = None
    attention: Bottleneck | None = None  # on what the attention gives, before its residual
    feedforward: Bottleneck | None = None  # on what the feed-forward part gives, before its residual
    after_norm: Bottleneck | None = None  # reads the layer's result, and is added before the last LayerNorm
    keys: tf.Tensor | None = None  # [prefix, hidden], in the compute dtype: each row's tokens attend to them too
    values: tf.Tensor | None = None  # the same


class Additions(NamedTuple):
    """What a method puts into a network beside its own weights."""

    layers: tuple[LayerAdditions, ...]
    prompt: tf.Tensor | None = None  # [virtual tokens, embedding]: word embeddings that stand in every row


class Layer(NamedTuple):
    """One transformer layer's weights: kernels in the compute dtype, everything else in float32."""

    qkv_kernel: tf.Tensor  # [hidden, 3 x attended]; attended is hidden, less the width of heads that were pruned
    qkv_bias: tf.Tensor  # [3 x attended]
    output_kernel: tf.Tensor  # [attended, hidden]
    output_bias: tf.Tensor
    attention_gamma: tf.Tensor
    attention_beta: tf.Tensor
    up_kernel: tf.Tensor  # [hidden, intermediate]
    up_bias: tf.Tensor
    down_kernel: tf.Tensor  # [intermediate, hidden]
    down_bias: tf.Tensor
    feedforward_gamma: tf.Tensor
    feedforward_beta: tf.Tensor
    additions: LayerAdditions = LayerAdditions()


class Weights(NamedTuple):
    """All weights of a classifier, packed for `Encoder`; each is a variable or a tensor."""

    words: tf.Tensor  # [vocabulary, embedding]; embedding is hidden, except in ELECTRA's small networks
    positions: tf.Tensor  # [positions, embedding]
    segments: tf.Tensor  # [segments, embedding]
    gamma: tf.Tensor
    beta: tf.Tensor
    layers: tuple[Layer, ...]
    pooler_kernel: tf.Tensor  # [hidden, hidden]
    pooler_bias: tf.Tensor
    head_kernel: tf.Tensor  # [hidden, labels]
    head_bias: tf.Tensor
    projection_kernel: tf.Tensor | None = None  # [embedding, hidden], in float32; None where embedding is hidden
    projection_bias: tf.Tensor | None = None  # [hidden]
    prompt: tf.Tensor | None = None  # see Additions


def pack(model: keras_hub.models.BertTextClassifier, dtype: tf.DType, additions: Additions | None = None) -> Weights:
    """The classifier's weights as `Encoder` takes them; gradients flow back to the model's variables.

    Args:
        model: the classifier.
        dtype: of the layers' kernels.
        additions: what a method that is being trained adds; None for what the classifier has (Classifier.additions).
    """
    backbone, heads = model.backbone, model.heads
    hidden, pruned = backbone.hidden_dim, heads < backbone.num_heads

    def kernel(variable) -> tf.Tensor:
        return tf.cast(variable.value, dtype)

    def inward(dense) -> tf.Tensor:  # from [hidden, heads, hidden / heads]
        whole = kernel(dense.kernel)
        return tf.reshape(whole[:, :heads] if pruned else whole, [hidden, -1])

    def bias(dense) -> tf.Tensor:  # from [heads, hidden / heads]
        return tf.reshape(dense.bias.value[:heads] if pruned else dense.bias.value, [-1])

    def outward(dense) -> tf.Tensor:  # from [heads, hidden / heads, hidden]
        whole = kernel(dense.kernel)
        return tf.reshape(whole[:heads] if pruned else whole, [-1, hidden])

    def layer(block) -> Layer:
        attention = block._self_attention_layer
        projections = (attention.query_dense, attention.key_dense, attention.value_dense)
        return Layer(
            qkv_kernel=tf.concat([inward(dense) for dense in projections], axis=1),
            qkv_bias=tf.concat([bias(dense) for dense in projections], axis=0),
            output_kernel=outward(attention.output_dense),
            output_bias=attention.output_dense.bias.value,
            attention_gamma=block._self_attention_layer_norm.gamma.value,
            attention_beta=block._self_attention_layer_norm.beta.value,
            up_kernel=kernel(block._feedforward_intermediate_dense.kernel),
            up_bias=block._feedforward_intermediate_dense.bias.value,
            down_kernel=kernel(block._feedforward_output_dense.kernel),
            down_bias=block._feedforward_output_dense.bias.value,
            feedforward_gamma=block._feedforward_layer_norm.gamma.value,
            feedforward_beta=block._feedforward_layer_norm.beta.value,
        )

    layers = tuple(layer(block) for block in backbone.transformer_layers)
    projected = projection(backbone)
    added = additions or unpacked(model.additions, len(layers), dtype)
    layers = tuple(each._replace(additions=own) for each, own in zip(layers, added.layers, strict=True))
    return Weights(
        words=backbone.token_embedding.embeddings.value,  # not cast, as only the rows of a batch are read
        positions=backbone.position_embedding.position_embeddings.value,
        segments=backbone.segment_embedding.embeddings.value,
        gamma=backbone.embeddings_layer_norm.gamma.value,
        beta=backbone.embeddings_layer_norm.beta.value,
        layers=layers,
        pooler_kernel=backbone.pooled_dense.kernel.value,  # the head works on [batch, hidden]: float32 costs nothing
        pooler_bias=backbone.pooled_dense.bias.value,
        head_kernel=model.output_dense.kernel.value,
        head_bias=model.output_dense.bias.value,
        projection_kernel=None if projected is None else projected.kernel.value,  # small beside a layer
        projection_bias=None if projected is None else projected.bias.value,
        prompt=added.prompt,
    )


def unpacked(tensors: Mapping[str, tf.Tensor], layers: int, dtype: tf.DType) -> Additions:
    """Additions as `Encoder` takes them.

    Args:
        tensors: by the names of bertline.models.additions, arrays or tensors.
        layers: of the network.
        dtype: of its products.
    """

    def cast(name: str) -> tf.Tensor | None:
        return tf.cast(tensors[name], dtype) if name in tensors else None

    def bottleneck(name: str) -> Bottleneck | None:
        if f"{name}/down" not in tensors:
            return None
        down_bias, up_bias = (tf.convert_to_tensor(tensors[f"{name}/{part}"]) for part in ("down_bias", "up_bias"))
        return Bottleneck(cast(f"{name}/down"), down_bias, cast(f"{name}/up"), up_bias)

    def layer(at: int) -> LayerAdditions:
        places = {place: bottleneck(f"{at}/{place}") for place in PLACES}
        return LayerAdditions(**places, keys=cast(f"{at}/keys"), values=cast(f"{at}/values"))

    prompt = tensors.get(PROMPT)
    return Additions(tuple(map(layer, range(layers))), None if prompt is None else tf.convert_to_tensor(prompt))


@dataclass(frozen=True)
class Encoder:
    """The forward pass of one architecture.

    Args:
        heads: attention heads.
        scale: of the attention's scores, 1 / sqrt(hidden / heads).
        approximate_gelu: GELU by tanh, where the weights were trained so.
        dropout: share dropped inside the encoder while training.
        head_dropout: share dropped before the head while training.
        pooling: how a row's tokens become one vector.
        epsilon: LayerNorm's.
    """

    heads: int
    scale: float
    approximate_gelu: bool
    dropout: float
    head_dropout: float
    pooling: Pooling = POOLER
    epsilon: float = 1e-12

    @classmethod
    def of(cls, model: keras_hub.models.BertTextClassifier) -> Encoder:
        """The encoder that computes what a `classifier.Classifier` computes."""
        backbone = model.backbone
        return cls(
            heads=model.heads,
            scale=(backbone.hidden_dim // backbone.num_heads) ** -0.5,
            approximate_gelu=approximate_gelu(backbone),
            dropout=backbone.dropout,
            head_dropout=model.dropout,
            pooling=model.pooling,
            epsilon=epsilon(backbone),
        )

    def logits(self, weights: Weights, batch: Batch, seed: tf.Tensor | None = None) -> tf.Tensor:
        """The classifier's logits.

        Args:
            weights: packed weights.
            batch: padded rows. The ids in the padding do not matter.
            seed: int64 [2], for training: dropout, which is the same for the same seed, and fused kernels, which are
                compiled for each shape of a batch. None for no dropout, and plain ops for any shape.

        Returns:
            float32 [batch, labels].
        """
        return self.logits_and_states(weights, batch, seed)[0]

    def logits_and_states(
        self, weights: Weights, batch: Batch, seed: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """The logits, and the hidden states after each layer, float32 [batch x tokens, hidden]; arguments as above.

        With a prompt its tokens are among the states.
        """
        ops = _Ops(self, weights.layers[0].qkv_kernel.dtype, seed)
        pooled, states = self._pooled(weights, batch, ops)
        features = self.pooling.features(pooled)
        features = dropout.dropped(features, ops.noise(tf.shape(features)), self.head_dropout)
        return tf.matmul(features, weights.head_kernel) + weights.head_bias, states

    def vectors(self, weights: Weights, batch: Batch, seed: tf.Tensor | None = None) -> tf.Tensor:
        """The rows' pooled vectors, float32 [batch, hidden]; arguments as above."""
        return self._pooled(weights, batch, _Ops(self, weights.layers[0].qkv_kernel.dtype, seed))[0]

    def tokens(self, weights: Weights, batch: Batch, seed: tf.Tensor | None = None) -> tf.Tensor:
        """The tokens' vectors of the last layer, float32 [batch x tokens, hidden]; arguments as those of `logits`."""
        mask = tf.sequence_mask(batch.lengths, tf.shape(batch.token_ids)[1])
        return self._states(weights, batch, mask, _Ops(self, weights.layers[0].qkv_kernel.dtype, seed))[-1]

    def _states(self, weights: Weights, batch: Batch, attended: tf.Tensor, ops: _Ops) -> list[tf.Tensor]:
        """The tokens' vectors after each layer, float32 [batch x tokens, hidden]."""
        x = self._embed(weights, batch, ops)  # [batch x tokens, hidden], as all that follow
        states = []
        for layer in weights.layers:
            x = self._layer(layer, x, attended, ops)
            states.append(x[0])
        return states

    def _pooled(self, weights: Weights, batch: Batch, ops: _Ops) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """The rows' vectors, and the states after each layer."""
        mask = tf.sequence_mask(batch.lengths, tf.shape(batch.token_ids)[1])  # [batch, tokens]
        attended = mask if weights.prompt is None else _with_prompt(mask, weights.prompt)
        states = self._states(weights, batch, attended, ops)
        residual = states[-1]
        tokens = tf.reshape(residual, [*tf.unstack(tf.shape(attended)), residual.shape[-1]])  # [batch, tokens, hidden]
        if weights.prompt is not None:
            tokens = tokens[:, : tf.shape(mask)[1]]
        if self.pooling.of_first_token:
            pooled = tokens[:, 0]
        else:
            real = tf.cast(mask, tf.float32)[:, :, None]
            pooled = tf.reduce_sum(tokens * real, axis=1) / tf.maximum(tf.reduce_sum(real, axis=1), 1.0)
        if self.pooling.kind == "pooler":
            pooled = tf.tanh(tf.matmul(pooled, weights.pooler_kernel) + weights.pooler_bias)
        return (tf.math.l2_normalize(pooled, axis=-1) if self.pooling.normalised else pooled), states

    def _embed(self, weights: Weights, batch: Batch, ops: _Ops) -> tuple[tf.Tensor, tf.Tensor]:
        words = tf.cast(tf.gather(weights.words, batch.token_ids), tf.float32)  # [batch, tokens, embedding]
        if batch.move is not None:
            words += batch.move
        places = tf.cast(weights.positions[: tf.shape(words)[1]], tf.float32)
        if batch.segment_ids is None:
            places += tf.cast(weights.segments[0], tf.float32)
        else:
            places += tf.cast(tf.gather(weights.segments, batch.segment_ids), tf.float32)
        x = words + places
        if weights.prompt is not None:  # after the row, whose positions stay as they are; it has none of its own
            prompt = tf.cast(weights.prompt, tf.float32)[None]
            x = tf.concat([x, tf.repeat(prompt, tf.shape(words)[0], axis=0)], axis=1)
        x = tf.reshape(x, [-1, words.shape[-1]])
        x = kernels.layer_norm(x, weights.gamma, weights.beta, self.epsilon)
        x = dropout.dropped(x, ops.noise(tf.shape(x)), self.dropout)
        if weights.projection_kernel is not None:
            x = tf.nn.bias_add(tf.matmul(x, weights.projection_kernel), weights.projection_bias)
        return x, tf.cast(x, ops.dtype)

    def _layer(self, layer: Layer, x: tuple[tf.Tensor, tf.Tensor], mask, ops: _Ops) -> tuple[tf.Tensor, tf.Tensor]:
        """One transformer layer. Its input and output are the float32 residual and the same in the compute dtype."""
        residual, low = x
        added = layer.additions
        query, key, value = self._split_heads(
            ops.product(low, layer.qkv_kernel, added.qkv), layer.qkv_bias, tf.shape(mask)
        )
        if added.keys is not None:
            key, value = self._prefixed(key, added.keys), self._prefixed(value, added.values)
            mask = tf.pad(mask, [[0, 0], [added.keys.shape[0], 0]], constant_values=True)
        scores = tf.matmul(query, key, transpose_b=True)  # [batch, heads, tokens, prefix + tokens]
        shares = ops.masked_softmax(scores, mask, *ops.optional_noise(tf.shape(scores)))
        context = tf.reshape(tf.transpose(tf.matmul(shares, value), [0, 2, 1, 3]), [-1, layer.output_kernel.shape[0]])
        attended = ops.product(context, layer.output_kernel, added.output)
        norm = (layer.attention_gamma, layer.attention_beta)
        residual, low = self._residual(residual, attended, layer.output_bias, norm, added.attention, ops)
        up = ops.bias_gelu(ops.product(low, layer.up_kernel, added.up), layer.up_bias)
        down = ops.product(up, layer.down_kernel, added.down)
        norm = (layer.feedforward_gamma, layer.feedforward_beta)
        if added.after_norm is not None:
            return self._reread(residual, down, layer.down_bias, norm, added.after_norm, ops)
        return self._residual(residual, down, layer.down_bias, norm, added.feedforward, ops)

    def _residual(self, residual, x, bias, norm, bottleneck: Bottleneck | None, ops: _Ops):
        """The residual and x + bias under a LayerNorm, x through the bottleneck where there is one (Houlsby et al.)."""
        if bottleneck is None:
            return ops.residual_norm(residual, x, bias, *norm, *ops.optional_noise(tf.shape(residual)))
        x = dropout.dropped(x + tf.cast(bias, x.dtype), ops.noise(tf.shape(residual)), self.dropout)
        narrow = ops.bias_gelu(tf.matmul(x, bottleneck.down), bottleneck.down_bias)
        return ops.residual_norm(residual, x + tf.matmul(narrow, bottleneck.up), bottleneck.up_bias, *norm)

    def _reread(self, residual, x, bias, norm, bottleneck: Bottleneck, ops: _Ops):
        """The bottleneck reads LayerNorm(residual + x + bias); its result joins the sum, which is normed again."""
        noise = ops.noise(tf.shape(residual))
        residual += dropout.dropped(tf.cast(x, tf.float32) + bias, noise, self.dropout)
        normed = tf.cast(kernels.layer_norm(residual, *norm, self.epsilon), x.dtype)
        narrow = tf.nn.relu(tf.nn.bias_add(tf.matmul(normed, bottleneck.down), tf.cast(bottleneck.down_bias, x.dtype)))
        return ops.residual_norm(residual, tf.matmul(narrow, bottleneck.up), bottleneck.up_bias, *norm)

    def _prefixed(self, x: tf.Tensor, prefix: tf.Tensor) -> tf.Tensor:
        """Keys or values, [batch, heads, tokens, hidden / heads], after a prefix, [prefix, hidden]."""
        length, hidden = prefix.shape
        by_head = tf.transpose(tf.reshape(prefix, [length, self.heads, hidden // self.heads]), [1, 0, 2])
        return tf.concat([tf.repeat(by_head[None], tf.shape(x)[0], axis=0), x], axis=2)

    def _split_heads(self, qkv: tf.Tensor, bias: tf.Tensor, shape: tf.Tensor) -> list[tf.Tensor]:
        """Query, key and value, each [batch, heads, tokens, hidden / heads], from [batch x tokens, 3 x hidden]."""
        # The bias is added after the reshape. Before it, TensorFlow would fuse it into the product, which is slower in
        # bfloat16.
        qkv = tf.nn.bias_add(tf.reshape(qkv, [shape[0], shape[1], qkv.shape[-1]]), tf.cast(bias, qkv.dtype))
        parts = tf.reshape(qkv, [shape[0], shape[1], 3, self.heads, qkv.shape[-1] // (3 * self.heads)])
        return tf.unstack(tf.transpose(parts, [2, 0, 3, 1, 4]))


class _Ops:
    """The kernels of one forward pass: fused and with dropout if there is a seed, otherwise plain."""

    def __init__(self, encoder: Encoder, dtype: tf.DType, seed: tf.Tensor | None):
        kind = (lambda function: function) if seed is None else kernels.fused
        self.dtype = dtype
        self._seed = seed
        self._place = 0
        self.masked_softmax = kind(partial(kernels.masked_softmax, scale=encoder.scale, rate=encoder.dropout))
        self.residual_norm = kind(partial(kernels.residual_norm, rate=encoder.dropout, epsilon=encoder.epsilon))
        self.bias_gelu = kind(partial(kernels.bias_gelu, approximate=encoder.approximate_gelu))

    def product(self, x: tf.Tensor, kernel: tf.Tensor, factors: LowRank | None) -> tf.Tensor:
        """x @ kernel, and what the factors add."""
        product = tf.matmul(x, kernel)
        if factors is None:
            return product
        if factors.dropout:
            x = dropout.dropped(x, self.noise(tf.shape(x)), factors.dropout)
        return product + tf.matmul(tf.matmul(x, factors.down), factors.up)

    def noise(self, shape: tf.Tensor) -> tf.Tensor | None:
        """Bytes for the dropout at the next place of the network."""
        if self._seed is None:
            return None
        self._place += 1
        return dropout.noise(tf.unstack(shape), self._seed + tf.constant([0, self._place], tf.int64))

    def optional_noise(self, shape: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """The noise as a kernel's last argument, or no argument."""
        noise = self.noise(shape)
        return () if noise is None else (noise,)


def _with_prompt(mask: tf.Tensor, prompt: tf.Tensor) -> tf.Tensor:
    """The mask, bool [batch, tokens], with the prompt's places after the row's; all of them are attended to."""
    return tf.pad(mask, [[0, 0], [0, prompt.shape[0]]], constant_values=True)
