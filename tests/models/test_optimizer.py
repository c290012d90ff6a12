import keras
import numpy as np
import pytest
import tensorflow as tf

from bertline.models.optimizer import AdamW, LossScale, Schedule


def variables():
    kernel = keras.Variable([[1.0, -2.0], [3.0, 0.5]], name="kernel")
    bias = keras.Variable([0.5, -0.5], name="bias")
    return [kernel, bias]


def test_schedule_warms_up_and_decays():
    schedule = Schedule(peak=1.0, steps=10, warmup_share=0.2)
    rates = [float(schedule(tf.constant(step))) for step in range(11)]
    assert rates == pytest.approx([0.5, 1.0, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125, 0.0])


def test_dense_steps_are_those_of_keras():
    ours, theirs = variables(), variables()
    schedule = Schedule(0.1, 5, 0.4)
    optimizer = AdamW(ours, schedule, weight_decay=0.01, clip_norm=1.0)
    reference = keras.optimizers.AdamW(0.1, weight_decay=0.01, global_clipnorm=1.0)
    reference.exclude_from_weight_decay(var_names=["bias"])
    reference.build(theirs)
    draw = np.random.default_rng(0)
    for step in range(5):
        gradients = [tf.constant(draw.normal(size=v.shape), tf.float32) for v in ours]
        optimizer.apply(gradients)
        reference.learning_rate = float(schedule(tf.constant(step)))
        reference.apply(gradients, theirs)
    for mine, keras_own in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine, keras_own, rtol=1e-5, atol=1e-7)


def test_a_variable_that_is_opened_later_stays_until_then_and_begins_like_one_of_the_first_step():
    (early, late), (_, alone) = variables(), variables()
    steady, begun = Schedule(0.1, 10**9, 0.0), late.numpy()
    optimizer = AdamW([early, late], steady, weight_decay=0.01, clip_norm=1e9, opens=[0, 2])
    reference = AdamW([alone], steady, weight_decay=0.01, clip_norm=1e9)
    slopes = [tf.constant([[1.0, 2.0], [3.0, -4.0]]), tf.constant([0.2, -0.5])]
    for _ in range(2):
        optimizer.apply(slopes[:1], places=(0,))
    np.testing.assert_array_equal(late, begun)
    for _ in range(2):
        optimizer.apply(slopes, places=(0, 1))
        reference.apply(slopes[1:])
    np.testing.assert_allclose(late, alone, rtol=1e-6)


def test_a_table_is_updated_in_the_rows_of_the_batch():
    table, dense = (
        keras.Variable(np.ones((4, 2), np.float32), name="embeddings"),
        keras.Variable(np.ones((2, 2), np.float32), name="embeddings"),
    )
    optimizer = AdamW([table], Schedule(0.1, 10, 0.0), weight_decay=0.1, clip_norm=1.0)
    reference = AdamW([dense], Schedule(0.1, 10, 0.0), weight_decay=0.1, clip_norm=1.0)
    for _ in range(3):
        # row 2 is named twice: its gradients are summed before the norm is taken
        values = tf.constant([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
        norm = optimizer.apply([tf.IndexedSlices(values, tf.constant([2, 0, 2]), tf.constant([4, 2]))])
        assert float(norm) == pytest.approx(np.sqrt(6**2 + 8**2 + 3**2 + 4**2))
        reference.apply([tf.constant([[3.0, 4.0], [6.0, 8.0]])])
    np.testing.assert_allclose(table.numpy()[[0, 2]], dense.numpy(), rtol=1e-5)
    np.testing.assert_array_equal(table.numpy()[[1, 3]], np.ones((2, 2)))


def test_dense_rows_where_shapes_must_be_static():
    table = keras.Variable(np.ones((3, 1), np.float32), name="embeddings")
    optimizer = AdamW([table], Schedule(0.1, 10, 0.0), weight_decay=0.1, clip_norm=9.0, lazy_rows=False)
    optimizer.apply([tf.IndexedSlices(tf.constant([[1.0]]), tf.constant([1]), tf.constant([3, 1]))])
    np.testing.assert_allclose(table.numpy().ravel(), [0.99, 0.89, 0.99], rtol=1e-5)  # decay reaches every row


def test_an_overflow_halves_the_loss_scale_and_changes_nothing_else(monkeypatch):
    monkeypatch.setattr(LossScale, "GROWTH_STEPS", 2)
    scale, (kernel, _), (alike, _) = LossScale(), variables(), variables()
    recipe = {"weight_decay": 0.1, "clip_norm": 1.0}
    optimizer = AdamW([kernel], Schedule(0.1, 10, 0.5), **recipe, loss_scale=scale)
    reference = AdamW([alike], Schedule(0.1, 10, 0.5), **recipe)
    slope, factors = tf.constant([[3.0, 0.0], [0.0, 4.0]]), []
    for overflows in (False, True, False, False):
        norm = optimizer.apply([slope * (np.inf if overflows else scale.factor)])
        if not overflows:
            reference.apply([slope])
            assert float(norm) == 5.0
        np.testing.assert_array_equal(kernel.numpy(), alike.numpy())
        factors.append(float(scale.factor.numpy()) / LossScale.INITIAL)
    assert factors == [1.0, 0.5, 0.5, 1.0]
    assert int(optimizer.step.numpy()) == 3


def test_biases_are_spared_from_decay():
    kernel, bias = variables()
    optimizer = AdamW([kernel, bias], Schedule(0.1, 10, 0.0), weight_decay=0.1, clip_norm=1.0)
    optimizer.apply([tf.zeros([2, 2]), tf.zeros([2])])
    np.testing.assert_allclose(kernel.numpy(), 0.99 * np.array([[1.0, -2.0], [3.0, 0.5]]), rtol=1e-6)
    np.testing.assert_array_equal(bias.numpy(), [0.5, -0.5])
