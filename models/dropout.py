"""Dropout whose draws depend only on a seed, so that a resumed training draws the same."""

from __future__ import annotations

import tensorflow as tf

PLACES = 4096  # more than a network has places with dropout; seeds this far apart share no draws


def step_seed(seed: int, step: int, kind: int = 0) -> tf.Tensor:
    """The seed of a step's draws, int64 [2]. It depends only on the recipe's seed, the step, and the kind of draw."""
    return tf.constant([seed * 1_000_003 + kind, step * PLACES], tf.int64)


def dropped(x: tf.Tensor, noise: tf.Tensor | None, rate: float) -> tf.Tensor:
    """Dropout by bytes of noise. It takes a quarter of the usual random numbers; the rate is rounded to 1/256."""
    threshold = round(rate * 256)
    if noise is None or not threshold:
        return x
    return tf.where(noise >= tf.constant(threshold, tf.uint8), x * (256 / (256 - threshold)), tf.zeros([], x.dtype))


def noise(shape: list, seed: tf.Tensor) -> tf.Tensor:
    """Uniform random bytes, uint8 of the shape, the same for the same int64 [2] seed."""
    *rows, last = shape
    words = tf.random.stateless_uniform([*rows, (last + 3) // 4], seed, minval=None, maxval=None, dtype=tf.uint32)
    return tf.reshape(tf.bitcast(words, tf.uint8), [*rows, -1])[..., :last]
