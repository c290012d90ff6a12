"""Weights as int8: what is stored, and that each network computes with it as with the float32 numbers it stands for."""

from pathlib import Path

import keras_hub
import numpy as np
import pytest
import tensorflow as tf
from tiny_bert import LENGTHS, SEGMENTS, TOKENS, frozen, tiny_classifier

from bertline.models import families, int8
from bertline.models.bert import classifier
from bertline.models.bilstm import vocabulary
from bertline.models.family import Batch
from bertline.models.recipe import ModelOptions

KERNEL = tf.constant([[1.27, 0.0, -0.254], [-0.4, 0.0, 0.1]])


def test_each_column_of_a_kernel_has_a_scale_of_its_own():
    kernel = int8.kernel(KERNEL, tf.int8)
    assert kernel.values.dtype == tf.int8
    assert kernel.values.numpy().tolist() == [[[127, 0, -127], [-40, 0, 50]]]
    np.testing.assert_allclose(kernel.whole(), KERNEL, atol=1e-6)


def test_a_large_weight_makes_only_the_weights_of_its_own_64_inputs_coarser():
    weights = np.full((128, 1), 0.01, np.float32)
    weights[7] = 10
    np.testing.assert_allclose(int8.kernel(tf.constant(weights), tf.int8).whole()[64:], 0.01)
    np.testing.assert_allclose(int8.kernel(tf.constant(weights[:100]), tf.int8).whole()[64:], 0)  # one block


def test_each_word_has_a_scale_of_its_own():
    table = int8.Table(tf.transpose(KERNEL), tf.int8)
    np.testing.assert_allclose(table.rows(tf.constant([[2, 0]])), [[[-0.254, 0.1], [1.27, -0.4]]], atol=1e-6)
    assert [variable.dtype for variable in table.variables] == [tf.int8]


def rounded(model):
    """The model with the numbers that int8 stands for, in float32; the same model."""
    for variable in model.backbone.variables:
        is_table = "token_embedding" in variable.path
        if is_table or (variable.name == "kernel" and "transformer_layer" in variable.path):
            shape = variable.shape
            # The attention's output has [heads, hidden / heads, hidden].
            inward = -1 if "attention_output" in variable.path else shape[0]
            wide = variable.numpy().reshape(inward, shape[-1] if inward == -1 else -1)
            scales = np.abs(wide).max(1 if is_table else 0, keepdims=True) / 127
            variable.assign((np.rint(wide / scales) * scales).reshape(shape))
    return model


def test_bert_computes_with_the_rounded_weights_in_float32():
    model = tiny_classifier()
    whole, small = (frozen(model, classifier=model.frozen(dtype)) for dtype in (tf.float32, tf.int8))
    apart = np.abs(small(TOKENS, SEGMENTS, LENGTHS) - whole(TOKENS, SEGMENTS, LENGTHS))
    assert 1e-4 < apart.max() < 0.1
    stands_for = frozen(rounded(model))(TOKENS, SEGMENTS, LENGTHS)
    np.testing.assert_allclose(small(TOKENS, SEGMENTS, LENGTHS), stands_for, atol=1e-5)


def test_a_bilstm_computes_with_the_rounded_weights_in_float32(tmp_path):
    vocabulary.write(f"{tmp_path}/{vocabulary.FILE}", ["<unk>", "<s>", "</s>", "good", "film", "bad"])
    options = ModelOptions(family="bilstm", bilstm={"embedding": 6, "units": 5, "min_count": 1})
    model = families.BILSTM.build(options, 3, seed=1, learned=str(tmp_path))
    rows = Batch(tf.constant([[1, 3, 4, 5, 2], [1, 5, 2, 0, 0]]), None, tf.constant([5, 3]))
    whole, small = (model.frozen(dtype).logits(rows).numpy() for dtype in (tf.float32, tf.int8))
    np.testing.assert_allclose(small, whole, atol=0.01)
    assert not np.array_equal(small, whole)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """SavedModels of the same BERT, whose bytes are nearly all weights, by dtype."""
    sizes = {"num_layers": 2, "num_heads": 2, "hidden_dim": 128, "intermediate_dim": 512, "max_sequence_length": 12}
    network = keras_hub.models.BertBackbone(vocabulary_size=4000, dropout=0.0, dtype="float32", **sizes)
    model, folder = classifier.build(network, 3, dropout=0.0, seed=1), tmp_path_factory.mktemp("int8")
    # Far from zero, so that logits differ by more than rounding moves them.
    model.set_head(np.random.default_rng(7).normal(scale=2, size=(128, 3)), np.zeros(3))
    for dtype in (tf.float32, tf.int8):
        module = model.frozen(dtype)
        tf.saved_model.save(module, f"{folder}/{dtype.name}", signatures=frozen(model, classifier=module))
    return folder


def test_a_saved_model_has_less_than_30_percent_of_the_bytes(saved):
    small, whole = (
        sum(file.stat().st_size for file in Path(saved, dtype).rglob("*") if file.is_file())
        for dtype in ("int8", "float32")
    )
    assert small < 0.3 * whole


def test_a_session_answers_from_int8_as_a_server_does(saved):
    inputs = {"tokens": TOKENS, "segments": SEGMENTS, "lengths": LENGTHS}

    def answers(dtype):
        v1 = tf.compat.v1
        with v1.Session(graph=tf.Graph()) as session:
            loaded = v1.saved_model.load(session, ["serve"], f"{saved}/{dtype}").signature_def["serving_default"]
            (output,) = loaded.outputs.values()
            return session.run(output.name, {loaded.inputs[name].name: each.numpy() for name, each in inputs.items()})

    small, whole = answers("int8"), answers("float32")
    assert np.ptp(whole) > 1
    assert 0 < np.abs(small - whole).max() < 0.02 * np.ptp(whole)
