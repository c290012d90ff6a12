import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from components import gates
from components.options import GateOptions

NONE = GateOptions(accuracy=None, macro_f1=None, not_worse_by=None, beats_majority=False)


def measured(confusion, **more):
    confusion = np.array(confusion)
    rows = confusion.sum(-1)
    return {
        "accuracy": np.trace(confusion) / confusion.sum(),
        "macro_f1": float(gates.f1_per_class(confusion).mean()),
        "intervals": gates.intervals(confusion),
        "majority_share": rows.max() / rows.sum(),
        "labels_present": int((rows > 0).sum()),
        **more,
    }


def failed(confusion, baseline=None, **options):
    verdicts = gates.judge(measured(confusion), baseline, NONE.model_copy(update=options))
    return [verdict.reason for verdict in verdicts if not verdict.passed]


GOOD = [[80, 20], [10, 90]]


def test_a_good_model_passes_all_gates():
    assert failed(GOOD, accuracy=0.8, macro_f1=0.8, beats_majority=True) == []


def test_a_floor_says_what_was_reached():
    assert failed(GOOD, accuracy=0.9) == ["accuracy 0.850 is below the config's floor of 0.9"]


def test_always_answering_the_commonest_label_is_blocked():
    (reason,) = failed([[60, 0], [40, 0]], beats_majority=True)
    assert "balanced accuracy" in reason


def test_below_the_commonest_labels_share_is_blocked():
    (reason,) = failed([[50, 40], [1, 9]], beats_majority=True)
    assert reason == "accuracy 0.590 is below 0.900, that of always answering the commonest label"


def test_guessing_without_reading_is_blocked_by_chance_alone():
    # 42% of the rows have the commonest label and the answers do not depend on the label.
    (reason,) = failed([[320, 60, 40], [300, 56, 38], [141, 27, 18]], beats_majority=True)
    assert "accuracy 0.394 is below 0.420" in reason


def test_worse_than_the_last_blessed_model_is_blocked_beyond_the_margin():
    baseline = {"version": "17", "accuracy": 0.87, "macro_f1": 0.85}
    (reason,) = failed(GOOD, baseline, not_worse_by=0.01)
    assert reason == "accuracy fell from 0.870 (version 17) to 0.850 on the same rows; a loss of 0.01 is allowed"
    assert failed(GOOD, baseline, not_worse_by=0.03) == []


def test_without_a_last_blessed_model_there_is_nothing_to_be_worse_than():
    assert failed(GOOD, None, not_worse_by=0.0) == []


def test_accuracy_interval_is_wilsons():
    # Wilson's formula for 85 of 100, z = 1.96, worked by hand.
    low, high = gates.accuracy_interval(85, 100)
    assert (low, high) == pytest.approx((0.7672, 0.9069), abs=1e-4)


def test_f1_agrees_with_scikit_learn():
    true, predicted = [0, 0, 0, 1, 1, 2], [0, 1, 0, 1, 2, 2]
    confusion = sklearn_metrics.confusion_matrix(true, predicted)
    expected = sklearn_metrics.f1_score(true, predicted, average=None)
    assert gates.f1_per_class(confusion) == pytest.approx(expected)


def test_the_bootstrap_interval_holds_the_value_and_narrows_with_rows():
    few = gates.intervals(np.array(GOOD))["macro_f1"]
    many = gates.intervals(np.array(GOOD) * 100)["macro_f1"]
    assert few[0] < 0.8496 < few[1]
    assert many[1] - many[0] < (few[1] - few[0]) / 8
