import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.linear_model import LogisticRegression

from bertline.models import targets, thresholds


@pytest.fixture(scope="module")
def rows():
    """Labels, int32 [rows, labels], and logits."""
    chance = np.random.default_rng(5)
    labels = (chance.random((40, 3)) < [0.5, 0.1, 0.2]).astype(np.int32)
    labels[0], labels[1] = [0, 1, 0], [1, 0, 1]
    return labels, chance.normal(scale=4, size=labels.shape).astype(np.float32)


def test_the_loss_of_label_sets_is_keras_binary_crossentropy(rows):
    labels, logits = rows
    target = targets.of(labels, 3, balanced=False)
    expected = keras.losses.BinaryCrossentropy(from_logits=True, reduction=None)(labels.astype(np.float32), logits)
    np.testing.assert_allclose(target.losses(tf.constant(labels), tf.constant(logits)), expected, rtol=1e-5)
    np.testing.assert_allclose(target.losses_of(labels, logits), expected, rtol=1e-5)


def test_balanced_weights_of_each_label_are_scikit_learns(rows):
    labels, logits = rows
    target = targets.of(labels, 3, balanced=True)
    plain = targets.of(labels, 3, balanced=False)
    expected = np.zeros(len(labels))
    for label in range(3):
        from sklearn.utils.class_weight import compute_sample_weight

        has = labels[:, label]
        one = np.logaddexp(0, np.where(has, -logits[:, label], logits[:, label]))
        expected += one * compute_sample_weight("balanced", has) / 3
    np.testing.assert_allclose(target.losses_of(labels, logits), expected, rtol=1e-5)
    np.testing.assert_allclose(target.losses(tf.constant(labels), tf.constant(logits)), expected, rtol=1e-5)
    assert not np.allclose(plain.losses_of(labels, logits), expected)


def test_accuracy_of_label_sets_asks_for_all_labels_of_the_row():
    labels = np.array([[1, 0], [1, 1], [0, 0]], np.int32)
    logits = np.array([[1.0, -1.0], [1.0, -1.0], [-1.0, -1.0]], np.float32)
    assert targets.of(labels, 2, balanced=False).accuracy(labels, logits) == pytest.approx(2 / 3)


# === Thresholds ===


def test_the_threshold_of_each_label_has_the_highest_f1_on_the_rows():
    from sklearn.metrics import f1_score

    chance = np.random.default_rng(2)
    labels = chance.random((300, 2)) < [0.4, 0.1]
    model = LogisticRegression()
    seen = labels + chance.normal(scale=0.8, size=labels.shape)
    probabilities = np.stack(
        [model.fit(seen[:, [each]], labels[:, each]).predict_proba(seen[:, [each]])[:, 1] for each in range(2)], axis=1
    )
    for label, tuned in enumerate(thresholds.tune(probabilities, labels)):
        scores = [f1_score(labels[:, label], probabilities[:, label] >= at) for at in np.linspace(0, 1, 1001)]
        ours = f1_score(labels[:, label], probabilities[:, label] >= tuned.value)
        assert ours >= max(scores)
        assert tuned.note == ""
    assert thresholds.tune(probabilities, labels)[1].value < 0.4  # the rare label's model is never very sure


def test_a_label_that_few_rows_have_keeps_the_default_and_says_why():
    labels = np.zeros((50, 2), bool)
    labels[:9, 0] = labels[:1, 1] = True
    probabilities = np.where(labels, 0.2, 0.1)
    few, one = thresholds.tune(probabilities, labels)
    assert (few.value, few.note) == (0.5, "9 validation rows have it: 10 are needed to tune it")
    assert one.note.startswith("1 validation row has it")


def test_of_thresholds_that_are_equally_good_the_one_nearest_to_one_half_is_taken():
    labels = np.repeat([[True], [False]], 10, axis=0)
    (tuned,) = thresholds.tune(np.where(labels, 0.9, 0.2), labels)
    assert tuned.value == 0.5
    (tuned,) = thresholds.tune(np.where(labels, 0.3, 0.2), labels)
    assert tuned.value == pytest.approx(0.25)
