from collections import Counter

import numpy as np
import pytest
import tensorflow as tf
from tiny_bert import LENGTHS, SEGMENTS, TOKENS, frozen, keras_logits, tiny_classifier

from bertline.models import hardware
from bertline.models.bert.encoder import Batch, Encoder, pack
from bertline.models.bert.inference import FrozenClassifier

INPUTS = {"tokens": TOKENS, "segments": SEGMENTS, "lengths": LENGTHS}


def in_a_session(model, dtype, folder):
    """The logits that a session answers for the SavedModel, as a server's does, and the ops that it ran."""
    module = FrozenClassifier(Encoder.of(model), pack(model, dtype), dtype)
    tf.saved_model.save(module, str(folder), signatures=frozen(model, dtype, module))
    v1 = tf.compat.v1
    with v1.Session(graph=tf.Graph()) as session:
        signature = v1.saved_model.load(session, ["serve"], str(folder)).signature_def["serving_default"]
        feeds = {signature.inputs[name].name: value.numpy() for name, value in INPUTS.items()}
        options, ran = v1.RunOptions(output_partition_graphs=True), v1.RunMetadata()
        (output,) = signature.outputs.values()
        logits = session.run(output.name, feeds, options=options, run_metadata=ran)
    return logits, Counter(node.op for graph in ran.partition_graphs for node in graph.node)


@pytest.mark.parametrize("approximate", [False, True], ids=["erf", "tanh"])
def test_logits_are_keras_hubs(approximate):
    model = tiny_classifier(approximate)
    np.testing.assert_allclose(frozen(model)(TOKENS, SEGMENTS, LENGTHS), keras_logits(model), atol=1e-5)


@pytest.mark.parametrize("approximate", [False, True], ids=["erf", "tanh"])
def test_a_session_answers_as_keras_hub(approximate, tmp_path):
    model = tiny_classifier(approximate)  # its embeddings' variance is below 0.001, so a wrong epsilon would show
    logits, _ = in_a_session(model, tf.float32, tmp_path)
    np.testing.assert_allclose(logits, keras_logits(model), atol=1e-5)


@pytest.mark.skipif(
    not hardware.describe().bfloat16_flags,
    reason="looks at what oneDNN fuses, and TensorFlow leaves oneDNN out on CPUs without AVX512_BF16 and AMX",
)
@pytest.mark.parametrize("dtype", [tf.float32, tf.bfloat16], ids=lambda dtype: dtype.name)
@pytest.mark.parametrize("approximate", [False, True], ids=["erf", "tanh"])
def test_the_remapper_knows_the_patterns(dtype, approximate, tmp_path):
    _, kernels = in_a_session(tiny_classifier(approximate), dtype, tmp_path)
    assert kernels["Erf"] == kernels["Softmax"] == kernels["MatMul"] == kernels["_MklMatMul"] == 0
    assert kernels["_MklLayerNorm"] == 0  # it has an epsilon of its own
    assert kernels["Tanh"] <= 1  # the pooler's


@pytest.mark.parametrize(("dtype", "tolerance"), [(tf.bfloat16, 0.05), (tf.float16, 0.01)], ids=["bf16", "fp16"])
def test_half_the_bits_stay_close(dtype, tolerance):
    model = tiny_classifier()
    logits = frozen(model, dtype)(TOKENS, SEGMENTS, LENGTHS)
    assert logits.dtype == tf.float32
    np.testing.assert_allclose(tf.nn.softmax(logits), tf.nn.softmax(keras_logits(model)), atol=tolerance)


def test_no_segments_are_segment_0():
    model = tiny_classifier()
    classifier = FrozenClassifier(Encoder.of(model), pack(model, tf.float32), tf.float32)
    zeros = frozen(model)(TOKENS, tf.zeros_like(TOKENS), LENGTHS)
    np.testing.assert_allclose(classifier.logits(Batch(TOKENS, None, LENGTHS)), zeros, atol=1e-6)
    assert np.abs(frozen(model)(TOKENS, SEGMENTS, LENGTHS) - zeros).max() > 1e-3


def test_rows_do_not_touch_each_other_or_the_padding():
    logits = frozen(tiny_classifier())
    together = logits(TOKENS, SEGMENTS, LENGTHS).numpy()
    wider = tf.pad(TOKENS, [[0, 0], [0, 5]], constant_values=3)  # what stands in the padding does not matter
    np.testing.assert_allclose(logits(wider, tf.pad(SEGMENTS, [[0, 0], [0, 5]]), LENGTHS), together, atol=1e-5)
    for row, length in enumerate(LENGTHS):
        alone = logits(TOKENS[row : row + 1, :length], SEGMENTS[row : row + 1, :length], LENGTHS[row : row + 1])
        np.testing.assert_allclose(alone, together[row : row + 1], atol=1e-5)


@pytest.mark.parametrize("dtype", [tf.float32, tf.bfloat16, tf.float16], ids=lambda dtype: dtype.name)
def test_a_row_of_no_token_spoils_no_other(dtype):
    logits = frozen(tiny_classifier(), dtype)
    expected = logits(TOKENS, SEGMENTS, LENGTHS).numpy()
    padded = [tf.concat([tensor[:1] * 0, tensor], axis=0) for tensor in (TOKENS, SEGMENTS, LENGTHS)]
    result = logits(*padded).numpy()
    np.testing.assert_allclose(result[1:], expected, atol=0.05)
    assert np.isfinite(result).all()


def test_as_long_as_the_positions_reach():
    model = tiny_classifier()
    tokens = tf.constant([[5, 6, 7, 8, 9, 1, 2, 3, 4, 5, 6, 7]])  # 12 positions
    segments, lengths = tf.zeros_like(tokens), tf.constant([12])
    expected = model({"token_ids": tokens, "segment_ids": segments, "padding_mask": tf.ones([1, 12], tf.bool)})
    np.testing.assert_allclose(frozen(model)(tokens, segments, lengths), expected, atol=1e-5)


@pytest.mark.parametrize("dtype", [tf.float32, tf.bfloat16], ids=lambda dtype: dtype.name)
@pytest.mark.parametrize("tokens", [0, 4])
def test_an_empty_batch_has_no_answers(dtype, tokens):
    none = tf.zeros([0, tokens], tf.int32)
    assert frozen(tiny_classifier(), dtype)(none, none, tf.zeros([0], tf.int32)).shape == (0, 3)
