"""Farrington's regression against the R package `surveillance` 1.20.3, which has the reference implementation.

farrington.json: its data set salmonella.agona at three weeks, as its function algo.farrington.data.glm prepares it
(four years, windows of three weeks, ten levels, 26 weeks left out), and what farringtonFlexible then says (reweighting
at 2.58, trend, threshold nbPlugin, level 0.001). The third has a population, made up. The standard error is that of R's
own predict.glm with these weights: the package overwrites what predict.glm needs.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from bertline.streams import farrington

CASES = json.loads(Path(__file__).with_name("farrington.json").read_text())


@pytest.mark.parametrize("case", CASES, ids=["week 290", "week 300", "with a population"])
def test_the_regression_is_that_of_the_reference(case):
    groups = np.array(case["group"])
    levels = sorted(set(groups.tolist()))[1:]
    assert case["trend"]

    def design(week, group):
        return np.stack([np.ones(len(week)), week, *((group == level) * 1.0 for level in levels)], 1)

    exposure = np.array(case["population"]) if case["offset"] else None
    fitted = farrington.fit(np.array(case["counts"]), design(np.array(case["week"]), groups), exposure)
    assert fitted.weights == pytest.approx(np.array(case["weights"]), abs=2e-3)
    now = design(np.array([case["week_now"]]), np.array([10]))[0]
    expected = fitted.expected(now, case["population_now"] if case["offset"] else 1.0)
    assert np.log(expected.mean) == pytest.approx(case["log_mean"], abs=1e-3)
    assert expected.dispersion == pytest.approx(case["dispersion"], rel=2e-3)
    assert expected.error == pytest.approx(case["error"], rel=1e-2)
    spread = expected.dispersion * expected.mean  # theirs knows no error of the mean
    assert farrington.quantile(expected.mean, spread, 0.001) == case["upper"]
    assert farrington.tail(expected.mean, spread, case["observed"]) == pytest.approx(case["probability"], rel=1e-2)
    assert expected.upper(0.001) >= case["upper"]


def test_facts_that_the_package_publishes_in_its_own_tests():
    assert farrington.quantile(5, 7.5, 0.05) == 10 and farrington.tail(5, 7.5, 11) == pytest.approx(
        0.03763657, abs=1e-7
    )
    assert farrington.quantile(5, 5, 0.05) == 9 and farrington.tail(5, 5, 11) == pytest.approx(0.01369527, abs=1e-7)


def test_what_was_unusual_weighs_less():
    assert farrington.weights(np.array([0.0] * 8 + [5.16] * 2)) == pytest.approx(
        np.array([1.0] * 8 + [1 / 5.16**2] * 2) * 10 / (8 + 2 / 5.16**2)
    )
