import numpy as np
import pytest
import tensorflow as tf
from tiny_bert import LENGTHS, SEGMENTS, TOKENS, keras_logits, tiny_classifier

from bertline.errors import UserError
from bertline.models.bert import classifier
from bertline.models.bert.encoder import Batch, Encoder, pack
from bertline.models.pooling import Pooling

SLOPES = tf.constant([[1.0, -2.0, 3.0], [0.5, 1.0, -1.0], [2.0, 1.0, 1.0]])


def gradients(model, logits):
    variables = [variable.value for variable in model.trainable_variables]
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(logits() * SLOPES)
    return [tf.convert_to_tensor(gradient) for gradient in tape.gradient(loss, variables)]


# Without a seed the plain ops run, with one the fused kernels; without dropout both compute the same.
@pytest.mark.parametrize("seed", [None, tf.constant([1, 2], tf.int64)], ids=["plain", "fused"])
@pytest.mark.parametrize("approximate", [False, True], ids=["erf", "tanh"])
def test_logits_and_gradients_are_keras_hubs(seed, approximate):
    check_logits_and_gradients(tiny_classifier(approximate), seed)


# With BERT's pooler the reference is keras-hub's own call, otherwise its token vectors.
@pytest.mark.parametrize("pooling", [Pooling("cls"), Pooling("mean"), Pooling("mean", normalised=True)], ids=str)
def test_other_poolings_are_those_of_keras_hubs_vectors(pooling):
    check_logits_and_gradients(tiny_classifier(pooling=pooling), tf.constant([1, 2], tf.int64))


def check_logits_and_gradients(model, seed):
    encoder = Encoder.of(model)

    def logits():
        return encoder.logits(pack(model, tf.float32), Batch(TOKENS, SEGMENTS, LENGTHS), seed)

    np.testing.assert_allclose(logits(), keras_logits(model), atol=1e-5)
    pairs = zip(gradients(model, logits), gradients(model, lambda: keras_logits(model)), strict=True)
    for variable, (ours, theirs) in zip(model.trainable_variables, pairs, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4, err_msg=variable.path)


def test_bfloat16_stays_close():
    model = tiny_classifier()
    logits = Encoder.of(model).logits(pack(model, tf.bfloat16), Batch(TOKENS, SEGMENTS, LENGTHS))
    np.testing.assert_allclose(tf.nn.softmax(logits), tf.nn.softmax(keras_logits(model)), atol=0.05)


def test_padding_changes_nothing():
    model = tiny_classifier()
    encoder, weights = Encoder.of(model), pack(model, tf.float32)
    logits = encoder.logits(weights, Batch(TOKENS, None, LENGTHS))
    wider = tf.pad(TOKENS, [[0, 0], [0, 5]], constant_values=3)  # what stands in the padding does not matter
    np.testing.assert_allclose(encoder.logits(weights, Batch(wider, None, LENGTHS)), logits, atol=1e-6)
    alone = encoder.logits(weights, Batch(TOKENS[1:2, :2], None, LENGTHS[1:2]))
    np.testing.assert_allclose(alone, logits[1:2], atol=1e-6)


def test_no_segments_are_segment_0():
    model = tiny_classifier()
    encoder, weights = Encoder.of(model), pack(model, tf.float32)
    zeros = encoder.logits(weights, Batch(TOKENS, tf.zeros_like(TOKENS), LENGTHS))
    np.testing.assert_allclose(encoder.logits(weights, Batch(TOKENS, None, LENGTHS)), zeros, atol=1e-6)
    assert np.abs(encoder.logits(weights, Batch(TOKENS, SEGMENTS, LENGTHS)) - zeros).max() > 1e-3


def test_dropout_follows_the_seed():
    model = tiny_classifier(dropout=0.5)
    encoder, weights, batch = Encoder.of(model), pack(model, tf.float32), Batch(TOKENS, None, LENGTHS)

    def logits(*seed):
        return encoder.logits(weights, batch, tf.constant(seed, tf.int64)).numpy()

    np.testing.assert_array_equal(logits(1, 2), logits(1, 2))
    assert np.abs(logits(1, 2) - logits(1, 3)).max() > 1e-3
    assert np.abs(logits(1, 2) - logits(2, 2)).max() > 1e-3


def test_saved_and_loaded(tmp_path):
    model = tiny_classifier(approximate=True, dropout=0.25)
    labels = [f"label {number}" for number in range(model.num_classes)]
    classifier.save(model, tmp_path / "keras", labels, backbone_digest="")
    again = classifier.load(tmp_path / "keras")
    np.testing.assert_array_equal(keras_logits(again), keras_logits(model))
    assert Encoder.of(again) == Encoder.of(model)
    with pytest.raises(UserError, match="written by the Trainer"):
        classifier.load(tmp_path)
