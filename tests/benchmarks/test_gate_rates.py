import pytest

from benchmarks import gates as rates


@pytest.mark.parametrize("scenario", rates.SCENARIOS, ids=lambda scenario: scenario.name)
def test_the_default_gates_err_as_seldom_as_the_readme_says(scenario):
    by_draw = rates.blocked(scenario, rates.DISAGREEMENTS[0], draws=60)
    blocked = sum(bool(verdicts) for verdicts in by_draw) / 60
    # Sixty draws of a rate near its bar are within some 8 points; `python -m benchmarks.gates` takes 200.
    assert scenario.least_blocked - 0.08 <= blocked <= scenario.most_blocked + 0.08
    if scenario.slice:
        assert {verdict.slice for verdicts in by_draw for verdict in verdicts} - {""} == {scenario.slice}


def test_the_simulated_models_are_as_good_as_they_are_said_to_be():
    import numpy as np

    generator = np.random.default_rng(0)
    draws = [rates.draw(rates.Scenario("worse", loss=0.03), 0.12, generator) for _ in range(30)]
    right = np.mean([[each.right.mean(), (each.previous == each.labels).mean()] for each in draws], axis=0)
    assert right == pytest.approx([rates.ACCURACY - 0.03, rates.ACCURACY], abs=0.006)
