"""The classifier's forward pass as it is exported: the answers of `Encoder` with fewer ops and frozen weights.

Three things make it fast on a CPU:

- Token-wise ops run on the real tokens only, [tokens of all rows, hidden]. Rows are padded only for attention, so their
  lengths may differ within a batch.
- Where the head reads only [CLS], only [CLS] is computed after the keys and values of the last layer.
- The ops form the patterns that TensorFlow's remapper (tensorflow/core/grappler/optimizers/remapper.cc) turns into
  oneDNN kernels: product + bias, product + bias + GELU, scores x scale + mask. Without oneDNN they run one by one, with
  the same result.

Residuals and LayerNorms are float32 whatever the dtype of the products. In bfloat16 they would save a tenth of the time
and double the error. Kernels and word vectors can be stored as int8, with float32's products: bertline.models.int8.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from bertline.models import int8
from bertline.models.bert.encoder import Bottleneck, Encoder, Layer, Weights
from bertline.models.family import Batch
from bertline.models.int8 import Int8


class _Affine(NamedTuple):
    """Kernel and bias of a product, or gamma and beta of a LayerNorm."""

    scale: tf.Tensor | Int8
    offset: tf.Tensor


class _Bottleneck(NamedTuple):
    """A bottleneck's two products."""

    down: _Affine
    up: _Affine


class _Layer(NamedTuple):
    """One transformer layer."""

    projections: tuple[_Affine, ...]  # one to query, key and value; in the last layer one to the query, one to the rest
    output: _Affine
    attention_norm: _Affine
    up: _Affine
    down: _Affine
    feedforward_norm: _Affine
    # What a method added, see encoder.LayerAdditions; None for nothing.
    attention_bottleneck: _Bottleneck | None
    feedforward_bottleneck: _Bottleneck | None
    after_norm: _Bottleneck | None
    prefix: tuple[tf.Tensor, tf.Tensor] | None  # keys and values, [1, heads, prefix, hidden / heads]


class _Layout(NamedTuple):
    """Where a batch's real tokens stand: packed, one row after the other, and padded."""

    rows: tf.Tensor  # int64 [packed]: the row of each packed token
    columns: tf.Tensor  # int64 [packed]: the position of each packed token in its row
    places: tf.Tensor  # int64 [packed]: its position in the padded rows laid end to end
    slots: tf.Tensor  # int32 [batch, tokens]: the packed position of each padded token; any other's in the padding
    bias: tf.Tensor  # [batch, 1, 1, tokens]: is added to the scores; 0, and in the padding far below any score
    prompt: (
        tf.Tensor | None
    )  # int64 [packed]: which of the prompt's tokens it is, -1 for a row's own; None for no prompt

    @classmethod
    def of(cls, batch: Batch, dtype: tf.DType, prompt: int = 0) -> _Layout:
        """The layout of a batch with so many virtual tokens after each row."""
        tokens = tf.shape(batch.token_ids)[1]
        mask = tf.sequence_mask(batch.lengths, tokens)
        if prompt:
            mask = tf.pad(mask, [[0, 0], [0, prompt]], constant_values=True)
        shape = tf.shape(mask)
        # The remapper must prove that shapes are equal, so everything packed takes its length from this one op.
        rows, columns = tf.unstack(tf.where(mask), axis=1)
        slots = tf.cumsum(tf.cast(tf.reshape(mask, [-1]), tf.int32)) - 1
        # So low that exp gives 0, and finite even in float16, so that a row of nothing but padding gets no NaN.
        bias = tf.cast(tf.where(mask, 0.0, -1e4), dtype)
        return cls(
            rows=rows,
            columns=columns,
            places=rows * tf.cast(shape[1], tf.int64) + columns,
            slots=tf.reshape(tf.maximum(slots, 0), shape),
            bias=bias[:, None, None, :],
            prompt=tf.maximum(columns - tf.cast(tokens, tf.int64), -1) if prompt else None,
        )

    def packed(self, padded: tf.Tensor) -> tf.Tensor:
        """[batch, tokens, ...] to [packed, ...]."""
        return tf.gather(tf.reshape(padded, [-1, *padded.shape[2:]]), self.places)


class FrozenClassifier(tf.Module):
    """Encoder and weights as a module to export; its only variable is the word table.

    The weights are constants of the graph, because oneDNN rearranges a product's kernel: once if it is a constant, in
    every call if it is a variable. That bounds the network: a graph holds 2 GiB, which is half a billion parameters in
    float32 and a billion in bfloat16.

    Args:
        encoder: the architecture.
        weights: packed weights, for int8 in float32; copied.
        dtype: of the layers' products and of the attention; int8 is stored, and multiplied in float32.
    """

    def __init__(self, encoder: Encoder, weights: Weights, dtype: tf.DType):
        super().__init__()
        self._encoder = encoder
        self._dtype = int8.product_dtype(dtype)
        self._words = int8.Table(weights.words, dtype)
        self._prompt = None if weights.prompt is None else _constant(weights.prompt)
        self._positions, self._segments = _constant(weights.positions), _constant(weights.segments)
        self._embedding_norm = _affine(weights.gamma, weights.beta, tf.float32)
        projected = weights.projection_kernel is not None
        self._projection = (
            _affine(weights.projection_kernel, weights.projection_bias, tf.float32) if projected else None
        )
        first = encoder.pooling.of_first_token
        whole = weights.layers[:-1] if first else weights.layers
        self._layers = [_frozen_layer(layer, dtype, encoder.heads) for layer in whole]
        self._last_layer = _frozen_layer(weights.layers[-1], dtype, encoder.heads, last=True) if first else None
        self._pooler = _affine(weights.pooler_kernel, weights.pooler_bias, tf.float32)
        self._head = _affine(weights.head_kernel, weights.head_bias, tf.float32)

    def logits(self, batch: Batch) -> tf.Tensor:
        """The classifier's logits, float32 [batch, labels]; the batch as in `vectors`."""
        return self.vectors_and_logits(batch)[1]

    def vectors_and_logits(self, batch: Batch) -> tuple[tf.Tensor, tf.Tensor]:
        """The rows' pooled vectors, float32 [batch, hidden], and their logits, float32 [batch, labels]."""
        vectors = self.vectors(batch)
        return vectors, _product(self._encoder.pooling.features(vectors), self._head)

    def vectors(self, batch: Batch) -> tf.Tensor:
        """The rows' pooled vectors.

        Args:
            batch: padded rows, at least one of them with a token. The ids in the padding do not matter.

        Returns:
            float32 [batch, hidden].
        """
        layout = _Layout.of(batch, self._dtype, 0 if self._prompt is None else self._prompt.shape[0])
        x = self._embed(batch, layout)  # [packed, embedding]
        if self._projection:
            x = _product(x, self._projection)  # [packed, hidden]
        for layer in self._layers:
            query_key_value = self._split_heads(_product(x, *layer.projections), layout, 3)
            x = self._finish(layer, x, layout.packed(self._attend(layer, *query_key_value, layout)))
        pooled = self._first(self._last_layer, x, layout) if self._last_layer else _mean(x, layout)
        if self._encoder.pooling.kind == "pooler":
            pooled = tf.tanh(_product(pooled, self._pooler))
        return tf.math.l2_normalize(pooled, axis=-1) if self._encoder.pooling.normalised else pooled

    def _embed(self, batch: Batch, layout: _Layout) -> tf.Tensor:
        if self._prompt is not None:
            return self._embed_with_prompt(batch, layout)
        words = self._words.rows(layout.packed(batch.token_ids))
        if batch.segment_ids is None:
            rest = tf.gather(self._positions + self._segments[0], layout.columns)
        else:
            rest = tf.gather(self._positions, layout.columns)
            rest += tf.gather(self._segments, layout.packed(batch.segment_ids))
        return _layer_norm(words + rest, self._embedding_norm, self._encoder.epsilon)

    def _embed_with_prompt(self, batch: Batch, layout: _Layout) -> tf.Tensor:
        """The same where virtual tokens stand after each row: they have neither position nor segment."""
        count = self._prompt.shape[0]

        def own(ids: tf.Tensor) -> tf.Tensor:  # [packed], 0 for a virtual token
            return layout.packed(tf.pad(ids, [[0, 0], [0, count]]))

        is_own = layout.prompt < 0
        words = self._words.rows(own(batch.token_ids))
        words += tf.gather(self._positions, tf.where(is_own, layout.columns, 0))
        words += self._segments[0] if batch.segment_ids is None else tf.gather(self._segments, own(batch.segment_ids))
        virtual = tf.gather(self._prompt, tf.maximum(layout.prompt, 0))
        x = tf.where(is_own[:, None], words, virtual)
        return _layer_norm(x, self._embedding_norm, self._encoder.epsilon)

    def _first(self, layer: _Layer, x: tf.Tensor, layout: _Layout) -> tf.Tensor:
        """The layer's result for [CLS], each row's first token, only: [batch, hidden]."""
        to_query, to_key_value = layer.projections
        key, value = self._split_heads(_product(x, to_key_value), layout, 2)
        first = tf.gather(x, tf.reshape(layout.slots[:, :1], [-1]))
        query = tf.reshape(_product(first, to_query), [-1, self._encoder.heads, 1, key.shape[-1]])
        attended = self._attend(layer, query, key, value, layout)  # [batch, 1, hidden]
        return self._finish(layer, first, tf.squeeze(attended, 1))

    def _split_heads(self, x: tf.Tensor, layout: _Layout, parts: int) -> list[tf.Tensor]:
        """Splits [packed, parts x hidden] into `parts` tensors, [batch, heads, tokens, hidden / heads]."""
        heads = self._encoder.heads
        shape = tf.unstack(tf.shape(layout.slots))
        padded = tf.reshape(tf.gather(x, layout.slots), [*shape, parts, heads, x.shape[-1] // (parts * heads)])
        return tf.unstack(tf.transpose(padded, [2, 0, 3, 1, 4]))

    def _attend(self, layer: _Layer, query: tf.Tensor, key: tf.Tensor, value: tf.Tensor, layout: _Layout) -> tf.Tensor:
        """Attention: [batch, heads, queries or tokens, hidden / heads] to [batch, queries, hidden]."""
        bias = layout.bias
        if layer.prefix:
            key, value = (_after(prefix, x) for prefix, x in zip(layer.prefix, (key, value), strict=True))
            bias = tf.pad(bias, [[0, 0], [0, 0], [0, 0], [layer.prefix[0].shape[2], 0]])
        scores = tf.matmul(query, key, transpose_b=True) * tf.cast(self._encoder.scale, query.dtype) + bias
        context = tf.transpose(tf.matmul(tf.nn.softmax(scores), value), [0, 2, 1, 3])
        heads, width = context.shape[2:]
        return tf.reshape(context, [*tf.unstack(tf.shape(context)[:2]), heads * width])

    def _finish(self, layer: _Layer, x: tf.Tensor, attended: tf.Tensor) -> tf.Tensor:
        """The rest of a layer, [rows, hidden]: projection, feed-forward network, residuals and LayerNorms."""
        epsilon, approximate = self._encoder.epsilon, self._encoder.approximate_gelu
        attended = _narrowed(_product(attended, layer.output), layer.attention_bottleneck, approximate)
        x = _layer_norm(tf.cast(attended, tf.float32) + x, layer.attention_norm, epsilon)
        down = _product(_gelu(_product(x, layer.up), approximate=approximate), layer.down)
        x += tf.cast(_narrowed(down, layer.feedforward_bottleneck, approximate), tf.float32)
        if layer.after_norm:
            normed = _layer_norm(x, layer.feedforward_norm, epsilon)
            x += tf.cast(_product(tf.nn.relu(_product(normed, layer.after_norm.down)), layer.after_norm.up), tf.float32)
        return _layer_norm(x, layer.feedforward_norm, epsilon)


def _mean(x: tf.Tensor, layout: _Layout) -> tf.Tensor:
    """The mean of each row's own tokens, [batch, hidden], from [packed, hidden]; 0 for a row of none."""
    batch = tf.shape(layout.slots)[0]
    own = tf.ones_like(x[:, :1])
    if layout.prompt is not None:
        own = tf.cast(layout.prompt < 0, x.dtype)[:, None]
        x *= own
    sums = tf.math.unsorted_segment_sum(x, layout.rows, batch)
    counts = tf.math.unsorted_segment_sum(own, layout.rows, batch)
    return sums / tf.maximum(counts, 1.0)


def _frozen_layer(layer: Layer, dtype: tf.DType, heads: int, *, last: bool = False) -> _Layer:
    added, hidden = layer.additions, layer.output_kernel.shape[0]
    kernel, bias = layer.qkv_kernel, layer.qkv_bias
    parts = (slice(0, hidden), slice(hidden, None)) if last else (slice(None),)
    return _Layer(
        projections=tuple(_affine(kernel[:, part], bias[part], dtype) for part in parts),
        output=_affine(layer.output_kernel, layer.output_bias, dtype),
        attention_norm=_affine(layer.attention_gamma, layer.attention_beta, tf.float32),
        up=_affine(layer.up_kernel, layer.up_bias, dtype),
        down=_affine(layer.down_kernel, layer.down_bias, dtype),
        feedforward_norm=_affine(layer.feedforward_gamma, layer.feedforward_beta, tf.float32),
        attention_bottleneck=_bottleneck(added.attention, dtype),
        feedforward_bottleneck=_bottleneck(added.feedforward, dtype),
        after_norm=_bottleneck(added.after_norm, dtype),
        prefix=None
        if added.keys is None
        else tuple(_by_head(each, heads, int8.product_dtype(dtype)) for each in (added.keys, added.values)),
    )


def _bottleneck(added: Bottleneck | None, dtype: tf.DType) -> _Bottleneck | None:
    if added is None:
        return None
    return _Bottleneck(_affine(added.down, added.down_bias, dtype), _affine(added.up, added.up_bias, dtype))


def _by_head(prefix: tf.Tensor, heads: int, dtype: tf.DType) -> tf.Tensor:
    """A prefix, [prefix, hidden], as [1, heads, prefix, hidden / heads]."""
    length, hidden = prefix.shape
    return _constant(tf.transpose(tf.reshape(prefix, [length, heads, hidden // heads]), [1, 0, 2])[None], dtype)


def _affine(scale: tf.Tensor, offset: tf.Tensor, dtype: tf.DType) -> _Affine:
    return _Affine(int8.kernel(scale, dtype), _constant(offset, int8.product_dtype(dtype)))


def _constant(value: tf.Tensor, dtype: tf.DType = tf.float32) -> tf.Tensor:
    return tf.constant(tf.cast(value, dtype).numpy(), dtype)


# The remapper knows these forms. Another order of the same ops would be correct, and several times slower.


def _product(x: tf.Tensor, dense: _Affine) -> tf.Tensor:
    kernel = int8.whole(dense.scale)
    return tf.nn.bias_add(tf.matmul(tf.cast(x, kernel.dtype), kernel), dense.offset)


def _narrowed(x: tf.Tensor, bottleneck: _Bottleneck | None, approximate: bool) -> tf.Tensor:
    """x, and what a bottleneck adds to it."""
    if bottleneck is None:
        return x
    return x + _product(_gelu(_product(x, bottleneck.down), approximate=approximate), bottleneck.up)


def _after(prefix: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
    """[batch, heads, tokens, hidden / heads] after the same prefix, [1, heads, prefix, hidden / heads], in each row."""
    return tf.concat([tf.repeat(prefix, tf.shape(x)[0], axis=0), x], axis=2)


def _gelu(x: tf.Tensor, *, approximate: bool) -> tf.Tensor:
    if approximate:
        return tf.nn.gelu(x, approximate=True)
    return 0.5 * x * (1.0 + tf.math.erf(x * tf.cast(0.5**0.5, x.dtype)))  # tf.nn.gelu's erfc is slower where not fused


def _layer_norm(x: tf.Tensor, norm: _Affine, epsilon: float) -> tf.Tensor:
    # Not in the remapper's form: its LayerNorm kernel uses 0.001 for epsilon whatever the graph says, which changed
    # probabilities by up to 0.25, and it is no faster.
    mean = tf.reduce_mean(x, [1], keepdims=True)
    variance = tf.reduce_mean(tf.square(x - mean), [1], keepdims=True)
    return (x - mean) * tf.math.rsqrt(variance + epsilon) * norm.scale + norm.offset
