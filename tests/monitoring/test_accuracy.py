import numpy as np
import pytest
import windows_of

from bertline.monitoring import accuracy


def test_the_estimate_holds_where_only_the_share_of_hard_texts_changes():
    """Covariate shift: the model stays calibrated, and the estimate follows the accuracy down."""
    chance, missed, errors = np.random.default_rng(3), 0, []
    for _ in range(8):
        test = windows_of.reference(chance)
        now, right = windows_of.window(chance, 2000, sureness=3.0)
        found = accuracy.estimate(now.confidence, test.confidence, test.right)
        missed += not found.interval[0] <= right.mean() <= found.interval[1]
        errors.append(found.accuracy - right.mean())
        assert right.mean() < test.right.mean() - 0.05
        assert found.p_value < 0.01 and found.difference < -0.05
    assert missed <= 2  # one in twenty is expected
    assert abs(np.mean(errors)) < 0.015


def test_a_model_that_is_too_sure_is_corrected_by_its_test_rows():
    chance = np.random.default_rng(4)
    test = windows_of.reference(chance)
    now, right = windows_of.window(chance, 5000)
    too_sure = [1 - (1 - each) / 3 for each in (now.confidence, test.confidence)]
    found = accuracy.estimate(too_sure[0], too_sure[1], test.right)
    assert too_sure[0].mean() > right.mean() + 0.1
    assert found.accuracy == pytest.approx(right.mean(), abs=0.02)


def test_where_nothing_changes_no_loss_is_seen():
    chance, p_values = np.random.default_rng(5), []
    for _ in range(15):
        test = windows_of.reference(chance, 500)
        now, _ = windows_of.window(chance, 500)
        p_values.append(accuracy.estimate(now.confidence, test.confidence, test.right).p_value)
    assert np.sum(np.array(p_values) < 0.05) <= 3
    assert np.max(p_values) > 0.2


def test_a_measured_loss_is_as_sure_as_fishers_test_says():
    interval, p_value = accuracy.measured(70, 100, np.arange(1000) < 800)
    assert interval[0] == pytest.approx(0.604, abs=0.001) and interval[1] == pytest.approx(0.781, abs=0.001)  # Wilson
    assert p_value == pytest.approx(0.0154, abs=0.001)
