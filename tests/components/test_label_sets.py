import numpy as np
import pytest
from sklearn import metrics

from bertline.components import label_sets


@pytest.fixture(scope="module")
def drawn():
    """Labels, answers that are mostly right, another model's, and probabilities: 400 rows of 6 labels."""
    chance = np.random.default_rng(3)
    shares = np.array([0.5, 0.3, 0.2, 0.1, 0.05, 0.0])  # nobody has the last one
    labels = chance.random((400, 6)) < shares
    labels[:40] = False
    ours, theirs = (np.where(chance.random(labels.shape) < wrong, ~labels, labels) for wrong in (0.1, 0.2))
    ours[:20] = False  # rows without labels that get none
    probabilities = np.where(ours, 0.9, 0.1) + chance.uniform(-0.1, 0.1, labels.shape)
    return labels, ours, theirs, probabilities.astype(np.float32)


def test_figures_are_scikit_learns(drawn):
    labels, answers, _, probabilities = drawn
    sums = label_sets.sums(labels, answers)
    counted = [*range(5), 5]  # the last label has no rows, but is given
    for ours, average in ((sums.micro_f1, "micro"), (sums.macro_f1, "macro"), (sums.weighted_f1, "weighted")):
        theirs = metrics.f1_score(labels, answers, average=average, labels=counted, zero_division=0)
        assert ours == pytest.approx(theirs, abs=1e-12)
    assert sums.sample_f1 == pytest.approx(metrics.f1_score(labels, answers, average="samples", zero_division=1))
    assert sums.accuracy == pytest.approx(metrics.accuracy_score(labels, answers))
    assert sums.hamming_loss == pytest.approx(metrics.hamming_loss(labels, answers))
    precision, recall, f1, rows = metrics.precision_recall_fscore_support(labels, answers, zero_division=np.nan)
    np.testing.assert_allclose(sums.by_label.precision, precision)
    np.testing.assert_allclose(sums.by_label.recall, recall)
    np.testing.assert_allclose(sums.by_label.f1, f1)
    np.testing.assert_array_equal(sums.by_label.true, rows)
    balanced = [metrics.balanced_accuracy_score(labels[:, each], answers[:, each]) for each in range(5)]
    assert sums.balanced_accuracy == pytest.approx(np.mean(balanced))

    scores = label_sets.probability_scores(labels, probabilities)
    assert scores["macro_auc"] == pytest.approx(metrics.roc_auc_score(labels[:, :5], probabilities[:, :5]))
    losses = [metrics.log_loss(labels[:, each], probabilities[:, each], labels=[0, 1]) for each in range(6)]
    assert scores["loss"] == pytest.approx(np.mean(losses), rel=1e-6)


def test_sums_of_resampled_sets_are_those_of_the_repeated_rows(drawn):
    labels, answers, _, _ = drawn
    counts = np.random.default_rng(0).multinomial(400, np.full(400, 1 / 400), size=2)
    of_both = label_sets.Tally(labels, answers).sums(counts)
    for place, of_set in enumerate(counts):
        repeated = label_sets.sums(np.repeat(labels, of_set, axis=0), np.repeat(answers, of_set, axis=0))
        for name in ("accuracy", "micro_f1", "macro_f1", "sample_f1", "hamming_loss", "balanced_accuracy"):
            assert getattr(of_both, name)[place] == pytest.approx(getattr(repeated, name)), name


def test_intervals_hold_the_figures_and_are_as_wide_as_those_of_resampled_rows(drawn):
    labels, answers, _, _ = drawn
    intervals, sums = label_sets.intervals(labels, answers), label_sets.sums(labels, answers)
    for name, (low, high) in intervals.items():
        assert low < getattr(sums, name) < high, name
    chance = np.random.default_rng(1)
    resampled = [
        metrics.f1_score(labels[rows], answers[rows], average="micro")
        for rows in (chance.integers(400, size=400) for _ in range(400))
    ]
    np.testing.assert_allclose(intervals["micro_f1"], np.quantile(resampled, [0.025, 0.975]), atol=0.006)


def test_differences_are_those_of_the_figures_and_pair_the_rows(drawn):
    labels, ours, theirs, _ = drawn
    differences = label_sets.paired_differences(labels, ours, theirs)
    first, second = label_sets.scores(labels, ours), label_sets.scores(labels, theirs)
    for name, (value, drawn_values) in differences.items():
        assert value == pytest.approx(first[name] - second[name])
        assert drawn_values.std() > 0
    same = label_sets.paired_differences(labels, ours, ours)
    assert all(not values.any() for _, values in same.values())


def test_the_best_constant_answer_is_the_best_of_all_that_there_are(drawn):
    labels = drawn[0]
    every = [[bool(number >> place & 1) for place in range(6)] for number in range(64)]
    scores = [metrics.f1_score(labels, np.tile(answer, (400, 1)), average="micro", zero_division=0) for answer in every]
    assert label_sets.best_constant_micro_f1(labels) == pytest.approx(max(scores))
    shares = [np.mean((labels == np.array(answer)).all(-1)) for answer in every]
    assert label_sets.commonest_share(labels) == pytest.approx(max(shares))


def test_the_calibration_error_is_the_distance_of_shares_from_probabilities():
    labels = np.array([[True, False], [True, False], [False, False], [True, False]])
    probabilities = np.tile(np.array([[0.7, 0.02]], np.float32), (4, 1))
    error, (low, high) = label_sets.calibration_error(labels, probabilities)
    assert error == pytest.approx((abs(0.75 - 0.7) + 0.02) / 2, abs=1e-6)
    assert low <= error <= high
    assert label_sets.calibration_error(labels, labels.astype(np.float32))[0] == 0
