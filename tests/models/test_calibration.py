import numpy as np
import pytest
from scipy import special

from bertline.models import calibration


def drawn(rows, temperature, classes=3, seed=0):
    """Logits whose softmax at `temperature` is the true chance of each label."""
    chance = np.random.default_rng(seed)
    logits = chance.normal(0, 3, (rows, classes))
    cumulative = special.softmax(logits / temperature, axis=-1).cumsum(-1)
    return logits.astype(np.float32), (chance.uniform(size=(rows, 1)) > cumulative).sum(-1).clip(max=classes - 1)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
@pytest.mark.parametrize("classes", [2, 77])
def test_the_temperature_that_the_labels_were_drawn_with_is_found(temperature, classes):
    found = calibration.fit_temperature(*drawn(5000, temperature, classes))
    assert found.value == pytest.approx(temperature, rel=0.1)
    assert found.note == ""


def test_two_rows_in_three_right_at_equal_logits_by_hand():
    # Logits 2 and 0, right in 80 of 120 rows: the best probability is 2/3, so 2 / T = ln 2.
    logits = np.tile([2.0, 0.0], (120, 1))
    found = calibration.fit_temperature(logits, np.repeat([0, 1], [80, 40]))
    assert found.value == pytest.approx(2 / np.log(2), rel=1e-3)
    assert calibration.probabilities(logits, found.value)[0, 0] == pytest.approx(2 / 3, abs=1e-4)


def test_few_rows_leave_it_at_one_and_say_so():
    logits, labels = drawn(calibration.MINIMUM_ROWS - 1, 3.0)
    assert calibration.fit_temperature(logits, labels) == calibration.Temperature(
        1.0, "99 validation rows are too few to fit one: 100 are needed"
    )
    assert calibration.fit_temperature(*drawn(calibration.MINIMUM_ROWS, 3.0)).note == ""


@pytest.mark.parametrize("right", [True, False], ids=["all right", "all wrong"])
def test_rows_that_tell_no_temperature_leave_it_at_one(right):
    logits, _ = drawn(200, 1.0)
    labels = logits.argmax(-1) if right else logits.argmin(-1)
    found = calibration.fit_temperature(logits, labels)
    assert found.value == 1.0
    assert "no temperature between 0.1 and 10 is best" in found.note


def test_logits_that_are_no_numbers_leave_it_at_one():
    assert calibration.fit_temperature(np.full((200, 3), np.nan), np.zeros(200, int)).value == 1.0


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_the_probabilities_before_follow_from_those_after(temperature):
    logits, _ = drawn(200, 1.0)
    served = calibration.probabilities(logits, temperature).astype(np.float32)
    before = calibration.unscaled(served, temperature)
    np.testing.assert_allclose(before, calibration.probabilities(logits, 1.0), atol=1e-6)
    assert (before.argmax(-1) == logits.argmax(-1)).all()
    assert calibration.unscaled(np.array([[1.0, 0.0]]), 2.0).tolist() == [[1.0, 0.0]]


# === Several labels per row ===


def test_each_label_gets_the_temperature_that_its_rows_were_drawn_with():
    chance, true = np.random.default_rng(1), np.array([0.5, 1.0, 2.5])
    logits = chance.normal(0, 3, (5000, 3))
    labels = chance.uniform(size=logits.shape) < special.expit(logits / true)
    found = calibration.fit_temperatures(logits, labels)
    np.testing.assert_allclose([each.value for each in found], true, rtol=0.1)
    served = calibration.probabilities(logits, true.tolist())
    np.testing.assert_allclose(served, special.expit(logits / true))
    np.testing.assert_allclose(calibration.unscaled(served, true.tolist()), special.expit(logits), atol=1e-6)


def test_a_label_of_few_rows_or_nearly_all_rows_is_left_at_one_and_says_so():
    labels = np.zeros((200, 2), bool)
    labels[:9, 0] = labels[:191, 1] = True
    logits = np.where(labels, 1.0, -1.0)
    few, most = calibration.fit_temperatures(logits, labels)
    assert few.value == most.value == 1
    assert few.note.startswith("200 validation rows, 9 of them with the label, are too few to fit one")
