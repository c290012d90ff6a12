import numpy as np
import pytest
from scipy import special
from sklearn.linear_model import LogisticRegression

from bertline.errors import UserError
from bertline.models import probe
from bertline.models.probe import LabelledFeatures


def clusters(rows, labels, spread=2.0, seed=0):
    """Rows around a centre for each label, far from the origin and with a scale of their own."""
    centres = np.random.default_rng(9).normal(size=(labels, 12))
    draw = np.random.default_rng(seed)
    truth = draw.integers(labels, size=rows)
    features = 5.0 + 30.0 * (centres[truth] + spread * draw.normal(size=(rows, 12)))
    return LabelledFeatures(features.astype(np.float32), truth)


@pytest.mark.parametrize("labels", [2, 4])
def test_it_is_scikit_learns_regression_on_centred_features_of_one_scale(labels):
    train, validation = clusters(400, labels), clusters(200, labels, seed=1)
    fitted = probe.fit(train, validation, labels)
    centre = train.features.mean(axis=0)
    scale = np.sqrt(np.mean((train.features - centre) ** 2))
    judge = LogisticRegression(C=fitted.strength, max_iter=5000, tol=1e-6).fit(
        (train.features - centre) / scale, train.labels
    )
    expected = judge.predict_proba((validation.features - centre) / scale)
    logits = fitted.logits(validation.features)
    np.testing.assert_allclose(special.softmax(logits, axis=-1), expected, atol=0.005)
    assert fitted.validation_accuracy == np.mean(logits.argmax(-1) == validation.labels)
    losses = -special.log_softmax(logits, axis=-1)[np.arange(200), validation.labels]
    assert fitted.validation_loss == pytest.approx(losses.mean(), abs=1e-6)


def test_the_validation_rows_choose_the_strength():
    def loss(strength):
        model = LogisticRegression(C=strength, max_iter=5000).fit((train.features - centre) / scale, train.labels)
        logits = model.decision_function((validation.features - centre) / scale)
        return -special.log_softmax(logits, axis=-1)[np.arange(300), validation.labels].mean()

    train, validation = clusters(40, 3, spread=1.5), clusters(300, 3, spread=1.5, seed=1)
    centre = train.features.mean(axis=0)
    scale = np.sqrt(np.mean((train.features - centre) ** 2))
    assert probe.fit(train, validation, 3).strength == min(probe.STRENGTHS, key=loss)


def test_a_label_without_training_rows_is_never_answered():
    train, validation = clusters(200, 3), clusters(100, 3, seed=1)
    train = LabelledFeatures(train.features, np.array([0, 3, 4])[train.labels])
    validation = LabelledFeatures(validation.features, np.array([0, 3, 4])[validation.labels])
    fitted = probe.fit(train, validation, 5)
    assert fitted.kernel.shape == (12, 5)
    assert set(fitted.logits(validation.features).argmax(-1)) <= {0, 3, 4}
    assert fitted.validation_accuracy > 0.6


def test_balanced_weights_make_rare_labels_likelier():
    rows = clusters(300, 3)
    kept = np.flatnonzero((rows.labels != 1) | (np.arange(300) % 6 == 0))
    train, validation = LabelledFeatures(rows.features[kept], rows.labels[kept]), clusters(100, 3, seed=1)
    plain, balanced = (probe.fit(train, validation, 3, balanced=each) for each in (False, True))
    answered = [(each.logits(validation.features).argmax(-1) == 1).sum() for each in (plain, balanced)]
    assert answered[1] > answered[0]


def test_several_labels_are_each_fitted_against_the_rest():
    train, validation = clusters(400, 3), clusters(200, 3, seed=1)

    def sets(rows):  # label 0 or not, label 1 or 2, all rows, no row
        return np.stack([rows.labels == 0, rows.labels > 0, rows.labels >= 0, rows.labels < 0], axis=1).astype(np.int32)

    fitted = probe.fit(
        LabelledFeatures(train.features, sets(train)), LabelledFeatures(validation.features, sets(validation)), 4
    )
    centre = train.features.mean(axis=0)
    scale = np.sqrt(np.mean((train.features - centre) ** 2))
    judge = LogisticRegression(C=fitted.strength, max_iter=5000, tol=1e-6)
    judge.fit((train.features - centre) / scale, train.labels == 0)
    expected = judge.predict_proba((validation.features - centre) / scale)[:, 1]
    probabilities = special.expit(fitted.logits(validation.features))
    np.testing.assert_allclose(probabilities[:, 0], expected, atol=0.005)
    np.testing.assert_allclose(probabilities[:, 1], 1 - expected, atol=0.005)
    assert probabilities[:, 2].min() > 0.99 > 0.01 > probabilities[:, 3].max()


def test_one_label_is_refused():
    rows = LabelledFeatures(np.ones((4, 2), np.float32), np.zeros(4, int))
    with pytest.raises(UserError, match="all training rows have one label"):
        probe.fit(rows, rows, 2)
