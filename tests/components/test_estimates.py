import math
import tracemalloc

import numpy as np
import pytest
from fairlearn import metrics as fairlearn_metrics
from scipy import stats
from sklearn import metrics as sklearn_metrics

from bertline.components import estimates

GOOD = np.array([[80, 20], [10, 90]])


def random_answers(rows: int, classes: int, accuracy: float, seed: int):
    chance = np.random.default_rng(seed)
    labels = chance.integers(0, classes, rows)
    return labels, np.where(chance.random(rows) < accuracy, labels, chance.integers(0, classes, rows))


def test_the_interval_of_a_share_is_wilsons():
    # Wilson's formula for 85 of 100, z = 1.96, worked by hand.
    assert estimates.share_interval(85, 100) == pytest.approx((0.7672, 0.9069), abs=1e-4)


def test_bounds_that_each_hold_with_a_certainty_are_those_of_a_one_sided_test():
    # 0.95 a side is z = 1.645; the upper bound p solves (0.85 - p)^2 = z^2 p (1 - p) / 100.
    _, high = estimates.share_interval(85, 100, certainty=0.95)
    assert (high - 0.85) / math.sqrt(high * (1 - high) / 100) == pytest.approx(stats.norm.ppf(0.95), abs=1e-6)


def test_scores_of_each_class_agree_with_scikit_learn():
    true, predicted = [0, 0, 0, 1, 1, 2], [0, 1, 0, 1, 2, 2]
    by_class = estimates.class_counts(np.ones(6, int), np.array(true), np.array(predicted), 3)
    expected = sklearn_metrics.precision_recall_fscore_support(true, predicted)
    assert [by_class.precision, by_class.recall, by_class.f1] == [pytest.approx(scores) for scores in expected[:3]]


def test_the_bootstrap_interval_holds_the_value_and_narrows_with_rows():
    few = estimates.intervals(GOOD)["macro_f1"]
    many = estimates.intervals(GOOD * 100)["macro_f1"]
    assert few[0] < 0.8496 < few[1]
    assert many[1] - many[0] < (few[1] - few[0]) / 8


def test_leaving_out_cells_without_rows_changes_no_interval():
    confusion = np.array([[8, 0, 2], [0, 0, 0], [1, 0, 9]])
    drawn = np.random.default_rng(0).multinomial(20, confusion.ravel() / 20, size=2000).reshape(-1, 3, 3)
    recalls = (drawn[:, 0, 0] / drawn[:, 0].sum(-1), drawn[:, 2, 2] / drawn[:, 2].sum(-1))
    f1 = [2 * drawn[:, c, c] / (drawn[:, c].sum(-1) + drawn[:, :, c].sum(-1)) for c in (0, 2)]
    intervals = estimates.intervals(confusion)
    assert intervals["balanced_accuracy"] == pytest.approx(tuple(np.quantile(np.mean(recalls, 0), [0.025, 0.975])))
    assert intervals["macro_f1"] == pytest.approx(tuple(np.quantile(np.mean(f1, 0), [0.025, 0.975])))


def test_a_thousand_labels_do_not_take_memory_by_their_square():
    labels, answers = random_answers(3000, 1000, 0.7, seed=10)
    confusion = np.bincount(labels * 1000 + answers, minlength=1_000_000).reshape(1000, 1000)
    tracemalloc.start()
    estimates.intervals(confusion)
    estimates.paired_differences(labels, answers, np.roll(answers, 1), 1000)
    estimates.scores(labels, answers, 1000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # All cells of 2,000 test sets would be 16 GB. Some arrays of BATCH_NUMBERS are 32 MB each.
    assert peak < 400_000_000


# === Two models on the same rows ===


def test_scores_are_scikit_learns():
    labels, answers = random_answers(300, 4, 0.7, seed=1)
    scores = estimates.scores(labels, answers, 4)
    assert scores["accuracy"] == pytest.approx(sklearn_metrics.accuracy_score(labels, answers))
    assert scores["macro_f1"] == pytest.approx(sklearn_metrics.f1_score(labels, answers, average="macro"))


def test_an_answer_that_is_none_of_the_classes_is_wrong_and_no_class_of_its_own():
    scores = estimates.scores(np.array([0, 0, 1, 1]), np.array([0, 2, 1, 1]), 2)
    # F1 of 0: 2 * 1 / (2 + 1); of 1: 2 * 2 / (2 + 2)
    assert scores == pytest.approx({"accuracy": 0.75, "macro_f1": (2 / 3 + 1) / 2})


def test_the_paired_bootstrap_is_scipys():
    labels, ours = random_answers(400, 3, 0.8, seed=2)
    theirs = np.where(np.random.default_rng(3).random(400) < 0.8, ours, random_answers(400, 3, 0.5, seed=4)[1])

    def macro_f1_difference(rows):
        rows = rows.astype(int)
        one, other = (
            sklearn_metrics.f1_score(labels[rows], each[rows], average="macro", labels=range(3))
            for each in (ours, theirs)
        )
        return one - other

    found = estimates.paired_differences(labels, ours, theirs, 3)
    value, drawn = found["accuracy"]
    right = (ours == labels).astype(float) - (theirs == labels)
    expected = stats.bootstrap((right,), np.mean, method="percentile", n_resamples=2000, rng=np.random.default_rng(5))
    assert value == pytest.approx(right.mean())
    assert estimates.percentile_interval(drawn) == pytest.approx(tuple(expected.confidence_interval), abs=0.004)

    value, drawn = found["macro_f1"]
    expected = stats.bootstrap(
        (np.arange(400.0),),
        macro_f1_difference,
        method="percentile",
        vectorized=False,
        n_resamples=400,
        rng=np.random.default_rng(6),
    )
    assert value == pytest.approx(macro_f1_difference(np.arange(400)))
    assert drawn.std() == pytest.approx(expected.standard_error, rel=0.15)


def test_equal_answers_differ_by_nothing():
    labels, answers = random_answers(50, 3, 0.6, seed=7)
    for value, drawn in estimates.paired_differences(labels, answers, answers, 3).values():
        assert value == 0
        assert not drawn.any()


def paired(both: int, ours: int, theirs: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    counts = (both, ours, theirs, neither)
    return np.repeat([True, True, False, False], counts), np.repeat([True, False, True, False], counts)


def test_mcnemar_on_agrestis_approval_ratings():
    # Agresti, Categorical Data Analysis (2002), table 10.1: 794, 150, 86, 570; z^2 = (86 - 150)^2 / 236 = 17.36.
    won, lost, p = estimates.mcnemar(*paired(794, 150, 86, 570))
    assert (won, lost) == (150, 86)
    tail = sum(math.comb(236, each) for each in range(87)) / 2**236
    assert p == pytest.approx(2 * tail)
    assert p == pytest.approx(stats.chi2.sf(17.36, 1), rel=0.35)  # the published test's approximation


def test_mcnemar_of_models_that_never_differ_says_nothing():
    assert estimates.mcnemar(*paired(5, 0, 0, 5)) == (0, 0, 1.0)


# === Calibration ===


def test_the_calibration_error_of_a_worked_example():
    # Fifteen bins: 0.95 and 0.99 fall in the last, 0.55 in the ninth. |1/2 - 0.97| and |1 - 0.55|, by rows.
    error, (low, high) = estimates.calibration_error(np.array([0.95, 0.99, 0.55]), np.array([True, False, True]))
    assert error == pytest.approx((2 * 0.47 + 1 * 0.45) / 3)
    assert low <= error <= high


def test_the_calibration_error_is_the_naive_sum_over_bins():
    chance = np.random.default_rng(8)
    confidence = chance.uniform(0.3, 1.0, 500)
    right = chance.random(500) < confidence**2
    expected = 0.0
    for bin_ in range(15):
        inside = (confidence > bin_ / 15) & (confidence <= (bin_ + 1) / 15)
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert estimates.calibration_error(confidence, right)[0] == pytest.approx(expected)


# === Parts of the rows ===


def test_the_gap_of_a_slice_to_the_whole():
    right, inside = np.array([1, 1, 0, 1, 0, 0], bool), np.array([1, 1, 1, 0, 0, 0], bool)
    gap, drawn = estimates.gap_to_the_whole(right, inside)
    assert gap == pytest.approx(3 / 6 - 2 / 3)
    low, high = estimates.percentile_interval(drawn, 0.95)
    assert low < gap < high


def test_group_gaps_are_fairlearns():
    chance = np.random.default_rng(9)
    positive, groups = chance.random(300) < 0.4, chance.choice(["a", "b", "c"], 300)
    answered = np.where(chance.random(300) < np.where(groups == "a", 0.6, 0.9), positive, ~positive)
    gaps = estimates.group_gaps(positive, answered, groups, 0.95)
    for name, function in (
        ("demographic_parity", fairlearn_metrics.demographic_parity_difference),
        ("equal_opportunity", fairlearn_metrics.equal_opportunity_difference),
    ):
        value, (low, high) = gaps[name]
        assert value == pytest.approx(function(positive, answered, sensitive_features=groups))
        assert low < value < high
