import numpy as np
import pytest
from scipy import stats

from bertline.monitoring import shifts


def test_a_shift_is_told_as_the_share_that_moved():
    found = shifts.shift(np.array([600, 200, 200]), np.array([500, 300, 200]))
    assert found.distance == pytest.approx(0.1)
    assert found.grown == 0
    assert found.p_value == pytest.approx(stats.chi2_contingency([[600, 200, 200], [500, 300, 200]]).pvalue)


def test_categories_of_a_few_texts_are_judged_together():
    """Two texts of a new label are nothing; forty texts of twenty new labels are something."""
    then = np.array([500, 500, *[0] * 20])
    few = shifts.shift(np.array([500, 498, 2, *[0] * 19]), then)
    many = shifts.shift(np.array([490, 470, *[2] * 20]), then)
    assert few.p_value > 0.5
    assert many.p_value < 1e-6 and many.distance == pytest.approx(0.04)


def test_windows_that_differ_anyway_make_a_difference_less_sure():
    chance = np.random.default_rng(1)
    alike = [chance.multinomial(1000, [0.5, 0.5]) for _ in range(7)]
    unlike = [chance.multinomial(1000, [share, 1 - share]) for share in (0.4, 0.6, 0.45, 0.55, 0.42, 0.58, 0.5)]
    now = np.array([570, 430])
    assert shifts.shift(now, np.sum(alike, axis=0), alike).p_value < 0.01
    assert shifts.shift(now, np.sum(unlike, axis=0), unlike).p_value > 0.1


@pytest.mark.parametrize("spread", [0.0, 0.05])
def test_where_nothing_changes_p_values_are_no_smaller_than_they_say(spread):
    """Also where the shares of each window are drawn anew, as those of weekdays are."""
    chance, p_values = np.random.default_rng(2), []
    for _ in range(400):
        shares = np.clip(chance.normal(0.3, spread, 8), 0.05, 0.95)
        *before, now = (np.array([hits, 2000 - hits]) for hits in chance.binomial(2000, shares))
        p_values.append(shifts.shift(now, np.sum(before, axis=0), before).p_value)
    assert np.mean(np.array(p_values) < 0.05) < 0.085
    assert np.mean(np.array(p_values) < 0.05) > 0.01  # and not useless


def test_numbers_fall_into_bins_of_like_size():
    values = np.arange(1000, dtype=np.float32)
    bounds = shifts.edges(values)
    assert shifts.counted(shifts.bins(values, bounds), 5).tolist() == [200] * 5
    assert shifts.bins(np.array([np.nan, -5.0, 5000.0]), bounds).tolist() == [-1, 0, 4]
    mostly_nothing = np.array([0.0] * 95 + [0.2] * 5)
    assert shifts.bins(np.array([0.0, 0.1]), shifts.edges(mostly_nothing)).tolist() == [0, 1]
