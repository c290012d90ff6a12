import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from factories import MOODS, raw_examples, reviews, tiny_model_options, transformed
from scipy import special

from bertline.models.bert import backbone, classifier
from bertline.models.bert.tokenizer import Tokenizer
from bertline.models.signatures import ServedModel, export

TEXTS = [text for text, _, _ in reviews(200, seed=3)] + ["", "好 😀", "great " * 1000]


@pytest.fixture(scope="module")
def line(tmp_path_factory):
    """Options, Transform's graph, and a classifier with weights far from zero."""
    folder = tmp_path_factory.mktemp("line")
    options = tiny_model_options(folder)
    rows = [(text, label) for text, label, _ in reviews(6)]
    splits = {"train": rows, "validation": rows, "test": rows}
    graph, _ = transformed(folder, options, *raw_examples(folder, splits, list(MOODS)))
    return options, graph.uri, random_classifier(options)


def random_classifier(options, **more):
    model = classifier.build(backbone.load(options), 3, dropout=0.1, seed=1, **more)
    draw = np.random.default_rng(5)
    for variable in model.trainable_variables:
        variable.assign(draw.normal(1.0 if variable.name == "gamma" else 0.0, 0.1, variable.shape))
    model.output_dense.kernel.assign(draw.normal(0, 1, model.output_dense.kernel.shape))
    return model


def saved(line, folder, dtype=tf.float32, pair=False, **more):
    options, graph, model = line
    served = ServedModel(
        [model], graph, backbone.vocabulary(options).path, 1, list(MOODS), dtype=dtype, pair=pair, **more
    )
    export(served, folder)
    return tf.saved_model.load(str(folder)).signatures


def keras_probabilities(line, texts, pairs=None):
    return tf.nn.softmax(keras_logits(line, texts, pairs)).numpy()


def keras_logits(line, texts, pairs=None):
    options, _, model = line
    words = backbone.vocabulary(options)
    tokenizer = Tokenizer(words.path, lowercase=words.lowercase, max_length=options.max_length)
    ids, segments = tokenizer(tf.constant(texts), None if pairs is None else tf.constant(pairs))
    dense = ids.to_tensor()
    mask = tf.sequence_mask(ids.row_lengths(), dense.shape[1])
    segments = tf.zeros_like(dense) if segments is None else segments.to_tensor()
    inputs = {"token_ids": dense, "segment_ids": segments, "padding_mask": mask}
    return model(inputs, training=False).numpy()


def example(**features):
    lists = {k: tf.train.Feature(bytes_list=tf.train.BytesList(value=[v.encode()])) for k, v in features.items()}
    return tf.train.Example(features=tf.train.Features(feature=lists)).SerializeToString()


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(tf.float32, 1e-5), (tf.bfloat16, 1e-2), (tf.float16, 2e-3)],
    ids=["float32", "bfloat16", "float16"],
)
def test_answers_are_the_keras_models(line, tmp_path, dtype, tolerance):
    answers = saved(line, tmp_path, dtype)["text"](text=tf.constant(TEXTS))
    expected = keras_probabilities(line, TEXTS)
    assert np.ptp(expected[:, 0]) > 0.1  # the rows differ, or the test would show nothing
    np.testing.assert_allclose(answers["probabilities"], expected, atol=tolerance)
    sure = np.sort(expected)[:, -1] - np.sort(expected)[:, -2] > 2 * tolerance
    assert sure.mean() > 0.9
    labels = np.array(list(MOODS))[expected.argmax(axis=1)]
    assert [label.decode() for label in answers["label"].numpy()[sure]] == labels[sure].tolist()
    assert answers["classes"].numpy().tolist() == [[mood.encode() for mood in MOODS]] * len(TEXTS)


def test_a_temperature_moves_the_probabilities_and_no_label_and_keras_answers_alike(line, tmp_path):
    plain = saved(line, tmp_path / "plain")["text"](text=tf.constant(TEXTS))
    warm = saved(line, tmp_path / "warm", temperature=2.0)["text"](text=tf.constant(TEXTS))
    assert warm["label"].numpy().tolist() == plain["label"].numpy().tolist()
    expected = np.sqrt(plain["probabilities"])
    expected /= expected.sum(-1, keepdims=True)
    np.testing.assert_allclose(warm["probabilities"], expected, atol=1e-6)
    classifier.save(line[2], tmp_path / "keras", MOODS, backbone_digest="")
    loaded = line[0], line[1], classifier.load(tmp_path / "keras")
    np.testing.assert_allclose(tf.nn.softmax(keras_logits(loaded, TEXTS) / 2.0), warm["probabilities"], atol=1e-5)


def test_a_model_that_abstains_marks_what_it_is_less_sure_of(line, tmp_path):
    plain = saved(line, tmp_path / "plain")["text"](text=tf.constant(TEXTS))
    assert set(plain) == {"label", "probabilities", "classes"}
    surest = np.max(plain["probabilities"], axis=-1)
    threshold = float(np.median(surest)) + 1e-4
    answers = saved(line, tmp_path / "abstains", abstain=threshold)["text"](text=tf.constant(TEXTS))
    assert answers["abstained"].numpy().tolist() == (surest < threshold).tolist()
    assert 0 < answers["abstained"].numpy().sum() < len(TEXTS)
    assert answers["label"].numpy().tolist() == plain["label"].numpy().tolist()


def test_pairs_are_told_apart(tmp_path):
    options = tiny_model_options(tmp_path)
    rows = [("the item", "great", "positive"), ("it", "was late", "negative"), ("my item", "arrived", "neutral")]
    splits = {"train": rows, "validation": rows, "test": rows}
    graph, _ = transformed(tmp_path, options, *raw_examples(tmp_path, splits, list(MOODS)), pair=True)
    line = options, graph.uri, random_classifier(options)
    texts, pairs, _ = map(list, zip(*rows, strict=True))
    text = saved(line, tmp_path / "model", pair=True)["text"]
    answers = text(text=tf.constant(texts), text_pair=tf.constant(pairs))["probabilities"]
    np.testing.assert_allclose(answers, keras_probabilities(line, texts, pairs), atol=1e-5)
    swapped = text(text=tf.constant(pairs), text_pair=tf.constant(texts))["probabilities"]
    assert np.abs(answers - swapped).max() > 1e-3


def test_batches_do_not_change_the_answers(line, tmp_path):
    text = saved(line, tmp_path)["text"]
    together = text(text=tf.constant(TEXTS[:8]))["probabilities"].numpy()
    alone = [text(text=tf.constant([one]))["probabilities"].numpy()[0] for one in TEXTS[:8]]
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_an_empty_batch_has_no_answers(line, tmp_path):
    answers = saved(line, tmp_path)["text"](text=tf.constant([], tf.string))
    assert answers["label"].shape == (0,)
    assert answers["probabilities"].shape == answers["classes"].shape == (0, 3)


def test_examples_and_texts_get_the_same_answer(line, tmp_path):
    signatures = saved(line, tmp_path)
    by_text = signatures["text"](text=tf.constant(TEXTS[:3]))
    by_example = signatures["serving_default"](examples=tf.constant([example(text=text) for text in TEXTS[:3]]))
    for name, value in by_text.items():
        np.testing.assert_array_equal(by_example[name], value)


def test_transform_features(line, tmp_path):
    examples = [
        example(text="the item", label="positive"),
        example(text="great"),
        example(text="it", label="unheard of"),
    ]
    features = saved(line, tmp_path)["transform_features"](examples=tf.constant(examples))
    assert features["token_ids"].numpy().tolist() == [[2, 5, 10, 3], [2, 19, 3, 0], [2, 6, 3, 0]]
    assert features["label_id"].numpy().tolist() == [2, -1, -1]


def test_the_monitored_signature_answers_the_same_and_tells_what_the_texts_are_like(line, tmp_path):
    signatures, (_, _, model) = saved(line, tmp_path, abstain=0.5), line
    texts = tf.constant([*TEXTS, "the item", "好 item 😀"])
    answers, monitored = signatures["text"](text=texts), signatures["monitored"](text=texts)
    for name, value in answers.items():
        np.testing.assert_array_equal(monitored[name], value)
    assert set(monitored) - set(answers) == {"embedding", "pieces", "unknown"}
    vectors = tf.cast(monitored["embedding"], tf.float32)
    assert monitored["embedding"].dtype == tf.float16
    logits = vectors @ model.output_dense.kernel + model.output_dense.bias  # the head reads the vector
    np.testing.assert_allclose(tf.nn.softmax(logits), answers["probabilities"], atol=2e-2)
    assert monitored["pieces"].numpy().tolist()[-2:] == [4, 5]  # [CLS] the item [SEP]
    assert monitored["unknown"].numpy().tolist()[-2:] == [0, 2]


def test_a_multi_label_model_gives_each_label_a_probability_and_assigns_those_over_their_thresholds(tmp_path):
    options = tiny_model_options(tmp_path)
    rows = [(text, labels) for text, labels in zip(TEXTS, (["negative"], ["neutral", "positive"], []), strict=False)]
    splits = dict.fromkeys(("train", "validation", "test"), rows)
    graph, _ = transformed(
        tmp_path, options, *raw_examples(tmp_path, splits, list(MOODS)), multi_label={"separator": "|"}
    )
    model = random_classifier(options, multi_label=True)
    line, temperatures, thresholds = (options, graph.uri, model), [0.5, 1.0, 2.0], [0.3, 0.5, 0.9]
    signatures = saved(line, tmp_path / "model", temperature=temperatures, thresholds=thresholds)
    answers = {name: value.numpy() for name, value in signatures["text"](text=tf.constant(TEXTS)).items()}
    assert set(answers) == {"probabilities", "assigned", "classes"}
    expected = special.expit(keras_logits(line, TEXTS) / temperatures)
    np.testing.assert_allclose(answers["probabilities"], expected, atol=1e-5)
    np.testing.assert_array_equal(answers["assigned"], answers["probabilities"] >= np.float32(thresholds))
    assert 0 < answers["assigned"].mean() < 1
    assert {0, 1, 2, 3} & set(answers["assigned"].sum(-1).tolist())
    by_example = signatures["serving_default"](examples=tf.constant([example(text=text) for text in TEXTS]))
    np.testing.assert_allclose(by_example["probabilities"], answers["probabilities"], atol=1e-6)

    labelled = tf.train.Example.FromString(example(text="great", label="negative"))
    labelled.features.feature["label"].bytes_list.value.append(b"positive")
    records = tf.constant([labelled.SerializeToString(), example(text="it")])
    assert signatures["transform_features"](examples=records)["label_id"].numpy().tolist() == [[1, 0, 1], [0, 0, 0]]


def test_loads_without_our_code(line, tmp_path):
    saved(line, tmp_path / "model")
    assert (tmp_path / "model/assets/vocab.txt").is_file()
    script = f"""
import tensorflow as tf, tensorflow_text
text = tf.saved_model.load({str(tmp_path / "model")!r}).signatures["text"]
print("LABEL", text(text=tf.constant(["great"]))["label"].numpy()[0].decode())
"""
    run = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": ""},
        capture_output=True,
        text=True,
    )
    expected = list(MOODS)[keras_probabilities(line, ["great"])[0].argmax()]
    assert f"LABEL {expected}" in run.stdout, run.stderr[-2000:]
