"""The passes between BERT's matrix products: bias and GELU, bias, dropout, residual and LayerNorm, masked softmax.

Written op by op, these passes take as long on a CPU as the matrix products, and nearly all of it is memory traffic.
`fused` compiles each pass into one loop forward and one backward. The backward loop computes the cheap intermediate
values again instead of storing them.
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from bertline.models.dropout import dropped


def fused(function: Callable[..., tf.Tensor]) -> Callable[..., tf.Tensor]:
    """The function as one XLA kernel forward and one backward, compiled once for each shape of its arguments.

    Args:
        function: element-wise and row-wise ops on tensors; returns a tensor or a tuple of tensors. Arguments with a
            floating dtype get gradients.
    """

    def backward(arguments, slopes):
        sources = [argument for argument in arguments if argument.dtype.is_floating]
        with tf.GradientTape() as tape:
            tape.watch(sources)
            results = tf.nest.flatten(function(*arguments))
        gradients = iter(tape.gradient(results, sources, slopes))
        return [next(gradients) if argument.dtype.is_floating else None for argument in arguments]

    compiled = tf.function(function, jit_compile=True, autograph=False)
    compiled_backward = tf.function(backward, jit_compile=True, autograph=False)

    @tf.custom_gradient
    def call(*arguments):
        return compiled(*arguments), lambda *slopes: compiled_backward(list(arguments), list(slopes))

    return call


def bias_gelu(x: tf.Tensor, bias: tf.Tensor, *, approximate: bool) -> tf.Tensor:
    """GELU of x + bias; by tanh if approximate.

    Args:
        x: [rows, width] in the compute dtype; the result has the same shape and dtype.
        bias: float32 [width].
        approximate: by tanh instead of erf.
    """
    total = tf.cast(x, tf.float32) + bias
    # Not tf.nn.gelu's exact form: its erfc takes twice as long as erf.
    result = tf.nn.gelu(total, approximate=True) if approximate else 0.5 * total * (1.0 + tf.math.erf(total * 0.5**0.5))
    return tf.cast(result, x.dtype)


def masked_softmax(
    scores: tf.Tensor, mask: tf.Tensor, noise: tf.Tensor | None = None, *, scale: float, rate: float
) -> tf.Tensor:
    """Attention's weights.

    Args:
        scores: [batch, heads, tokens, tokens] in the compute dtype; the result has the same shape and dtype.
        mask: bool [batch, tokens], false in the padding.
        noise: for dropout, uint8 of the shape of scores; None drops nothing.
        scale: multiplies the scores.
        rate: share dropped.
    """
    # So low that exp gives 0, and finite, so that a row of nothing but padding gets no NaN.
    weights = tf.nn.softmax(tf.cast(scores, tf.float32) * scale + tf.where(mask, 0.0, -1e9)[:, None, None, :])
    return tf.cast(dropped(weights, noise, rate), scores.dtype)


def residual_norm(
    residual: tf.Tensor,
    x: tf.Tensor,
    bias: tf.Tensor,
    gamma: tf.Tensor,
    beta: tf.Tensor,
    noise: tf.Tensor | None = None,
    *,
    rate: float,
    epsilon: float,
) -> tuple[tf.Tensor, tf.Tensor]:
    """LayerNorm of residual + dropout(x + bias).

    Args:
        residual: float32 [rows, hidden].
        x: [rows, hidden] in the compute dtype.
        bias: float32 [hidden], as are gamma and beta.
        gamma: LayerNorm's scale.
        beta: LayerNorm's offset.
        noise: for dropout, uint8 [rows, hidden]; None drops nothing.
        rate: share dropped.
        epsilon: added to the variance.

    Returns:
        the result in float32 for the next residual, and in the compute dtype for the next product.
    """
    result = layer_norm(residual + dropped(tf.cast(x, tf.float32) + bias, noise, rate), gamma, beta, epsilon)
    return result, tf.cast(result, x.dtype)


def layer_norm(x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, epsilon: float) -> tf.Tensor:
    """LayerNorm over the last axis of a float32 tensor."""
    centred = x - tf.reduce_mean(x, axis=-1, keepdims=True)
    variance = tf.reduce_mean(tf.square(centred), axis=-1, keepdims=True)
    return centred * tf.math.rsqrt(variance + epsilon) * gamma + beta
