import numpy as np
import pytest
import tensorflow as tf

from bertline.models import dropout
from bertline.models.bert import kernels


def test_fused_gives_the_same_values_and_gradients():
    def scaled_sum(x, noise, y):
        return tf.reduce_sum(tf.where(noise > 3, x * y, 0.0), axis=-1), x + y

    x, y = tf.constant([[1.0, 2.0], [3.0, 4.0]]), tf.constant([5.0, 6.0])
    noise = tf.constant([[9, 1], [9, 9]], tf.uint8)
    with tf.GradientTape() as tape:
        tape.watch([x, y])
        total, both = kernels.fused(scaled_sum)(x, noise, y)
    assert total.numpy().tolist() == [5.0, 39.0]
    assert both.numpy().tolist() == [[6.0, 8.0], [8.0, 10.0]]
    by_x, by_y = tape.gradient([total, both], [x, y])
    assert by_x.numpy().tolist() == [[6.0, 1.0], [6.0, 7.0]]
    assert by_y.numpy().tolist() == [6.0, 6.0]


def test_dropout_drops_the_share_and_keeps_the_mean():
    noise = dropout.noise([200, 510], tf.constant([3, 4], tf.int64))
    assert (noise.dtype, noise.shape) == (tf.uint8, (200, 510))
    kept = dropout.dropped(tf.ones([200, 510]), noise, 0.25).numpy()
    assert set(np.unique(kept)) == {np.float32(0), np.float32(4 / 3)}
    assert (kept == 0).mean() == pytest.approx(0.25, abs=0.005)


def test_noise_is_even_over_the_bytes():
    counts = np.bincount(dropout.noise([1000, 256], tf.constant([1, 2], tf.int64)).numpy().ravel(), minlength=256)
    assert counts.min() > 800 and counts.max() < 1200  # 1,000 each, standard deviation 32


def test_softmax_of_a_padded_row_is_a_number():
    scores, mask = tf.zeros([1, 1, 2, 2]), tf.constant([[False, False]])
    assert np.isfinite(kernels.masked_softmax(scores, mask, scale=1.0, rate=0.0)).all()
