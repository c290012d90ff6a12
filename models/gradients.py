"""Sums and multiples of gradients, dense or naming rows of a table."""

from __future__ import annotations

import tensorflow as tf

Gradient = tf.Tensor | tf.IndexedSlices


def added(one: Gradient, other: Gradient) -> Gradient:
    """The sum of two gradients of one variable."""
    if isinstance(one, tf.IndexedSlices):  # a row may be named more than once, and then counts that often
        values, indices = (tf.concat(pair, 0) for pair in ((one.values, other.values), (one.indices, other.indices)))
        return tf.IndexedSlices(values, indices, one.dense_shape)
    return one + other


def scaled(gradient: Gradient, factor: float | tf.Tensor) -> Gradient:
    """The gradient times a number."""
    if isinstance(gradient, tf.IndexedSlices):
        return tf.IndexedSlices(gradient.values * factor, gradient.indices, gradient.dense_shape)
    return gradient * factor


def summed_rows(gradient: tf.IndexedSlices) -> tf.IndexedSlices:
    """The gradient with every row named once, as the global norm and the update need it."""
    rows, places = tf.unique(gradient.indices)
    values = tf.math.unsorted_segment_sum(gradient.values, places, tf.size(rows))
    return tf.IndexedSlices(values, rows, gradient.dense_shape)


def invariant(value: Gradient) -> tf.TensorShape | tf.IndexedSlicesSpec:
    """What stays the same of a gradient while others are added to it: everything but the number of rows it names."""
    if isinstance(value, tf.IndexedSlices):
        return tf.IndexedSlicesSpec(value.shape, value.dtype, value.indices.dtype, value.dense_shape.dtype)
    return value.shape
