import factories
import numpy as np
import pytest

from bertline.components import estimates, gates
from bertline.components.options import FairnessGates, GateOptions, SliceGates
from bertline.errors import UserError

NONE = GateOptions(not_worse_by=None, beats_majority=False, slices=SliceGates(not_worse_by=None))
CLASSES = ["bad", "good"]


def rows_of(confusion):
    """Labels and answers, int [rows], of a confusion matrix."""
    labels, answers = np.indices(np.shape(confusion)).reshape(2, -1)
    return np.repeat(labels, np.ravel(confusion)), np.repeat(answers, np.ravel(confusion))


def judged(confusion, parts=None, **changes):
    """Verdicts on a candidate with this confusion matrix.

    `parts` are its slices, the rest GateOptions or what factories.answers takes.
    """
    options = {name: changes.pop(name) for name in list(changes) if name in GateOptions.model_fields}
    labels, predicted = rows_of(confusion)
    rows = factories.answers([*CLASSES, "middling"][: len(confusion)], labels, predicted, slices=parts or {}, **changes)
    intervals = {**estimates.intervals(rows.confusion), "calibration_error": (0.03, 0.08)}
    metrics = factories.metrics(rows, calibration_error=0.05, model_bytes=90_000_000, intervals=intervals)
    return gates.judge(metrics, rows, NONE.model_copy(update=options))


def failed(confusion, parts=None, **changes):
    return [verdict.reason for verdict in judged(confusion, parts, **changes) if not verdict.passed]


GOOD = [[80, 20], [10, 90]]
LABELS, ANSWERS = rows_of(GOOD)


def test_a_good_model_passes_all_gates():
    assert (
        failed(GOOD, accuracy=0.8, macro_f1=0.8, beats_majority=True, max_calibration_error=0.1, max_size=10**8) == []
    )


def test_a_floor_says_what_was_reached_and_how_sure_that_is():
    (verdict,) = judged(GOOD, accuracy=0.9)
    assert verdict.reason == "accuracy 0.850 is below the config's floor of 0.9"
    assert verdict.missing == pytest.approx(0.05)
    assert verdict.interval[0] < 0.85 < verdict.interval[1]


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


def test_calibration_and_size_have_ceilings():
    assert failed(GOOD, max_calibration_error=0.04, max_size=50_000_000) == [
        "the probabilities are off by 0.050 on average (ECE); 0.04 is allowed",
        "the exported model has 90.0 MB; 50.0 MB is allowed",
    ]


# === Against another model ===


def previous_with(corrected: int, spoilt: int = 0):
    """Answers of a last blessed model that gets so many of the candidate's wrong rows right, and right ones wrong."""
    answers = ANSWERS.copy()
    answers[np.flatnonzero(ANSWERS != LABELS)[:corrected]] ^= 1
    answers[np.flatnonzero(ANSWERS == LABELS)[:spoilt]] ^= 1
    return answers


def test_worse_than_the_last_blessed_model_with_certainty_is_blocked():
    (verdict,) = judged(GOOD, previous=previous_with(corrected=12), version="17", not_worse_by=0.01)
    assert not verdict.passed
    assert verdict.reason.startswith("accuracy fell by 0.060 against version 17 on the same rows, with 95% certainty")
    assert verdict.note == "0 rows won, 12 lost, McNemar p 0.00049"


def test_worse_by_luck_is_not_blocked():
    # Six rows lost and five won: half a point worse, and no sign of a difference.
    (verdict,) = judged(GOOD, previous=previous_with(corrected=6, spoilt=5), version="17", not_worse_by=0.0)
    assert verdict.passed
    assert verdict.value == "-0.005"
    assert verdict.interval[0] < -0.005 < verdict.interval[1]


def test_a_loss_within_the_margin_is_not_blocked_however_certain():
    many = np.array(GOOD) * 100
    labels, answers = rows_of(many)
    previous = answers.copy()
    previous[np.flatnonzero(answers != labels)[:60]] ^= 1  # 60 of 20,000 rows: 0.3 points, all one way
    assert failed(many, previous=previous, version="17", not_worse_by=0.005) == []
    assert len(failed(many, previous=previous, version="17", not_worse_by=0.001)) == 1


def test_without_a_last_blessed_model_there_is_nothing_to_be_worse_than():
    assert judged(GOOD, not_worse_by=0.0, parts={"all": LABELS >= 0}) == []


def test_the_baseline_must_be_beaten_beyond_doubt():
    worse = previous_with(corrected=0, spoilt=20)
    assert failed(GOOD, tfidf=worse, beats_baseline_by=0.02) == []
    (reason,) = failed(GOOD, tfidf=worse, beats_baseline_by=0.09)
    assert "of TF-IDF with logistic regression on the same rows" in reason
    (reason,) = failed(GOOD, tfidf=previous_with(corrected=1, spoilt=3), beats_baseline_by=0.0)
    assert "0.010 from that of TF-IDF" in reason


def test_the_probe_must_be_beaten_likewise():
    worse = previous_with(corrected=0, spoilt=20)
    assert failed(GOOD, probe=worse, beats_probe_by=0.02) == []
    (reason,) = failed(GOOD, probe=worse, tfidf=worse, beats_probe_by=0.09)
    assert "of the frozen encoder with logistic regression on the same rows" in reason


# === Slices ===

NORTH = np.arange(200) % 2 == 0
SHOPS = {"shop=north": NORTH, "shop=south": ~NORTH}


def test_a_model_made_worse_on_one_slice_alone_is_blocked_by_that_slices_name():
    previous = ANSWERS.copy()
    previous[np.flatnonzero(NORTH & (ANSWERS != LABELS))] ^= 1  # all 15 wrong rows of north were right
    previous[np.flatnonzero(~NORTH & (ANSWERS == LABELS))[:15]] ^= 1  # and south has gained as much
    verdicts = judged(
        GOOD, SHOPS, previous=previous, version="17", not_worse_by=0.002, slices=SliceGates(not_worse_by=0.02)
    )
    blocking = [verdict for verdict in verdicts if not verdict.passed]
    assert [verdict.slice for verdict in blocking] == ["shop=north"]
    assert "accuracy on the 100 rows of shop=north fell by 0.150 against version 17" in blocking[0].reason


def test_a_slice_of_too_few_rows_blocks_nothing():
    few = {"shop=tiny": np.arange(200) < 20}  # 20 rows of which 4 are wrong at most
    options = {"minimum_rows": 21, "accuracy": 1.0, "max_gap": 0.0}
    assert judged(GOOD, few, slices=SliceGates(**options)) == []
    assert len(judged(GOOD, few, slices=SliceGates(**options | {"minimum_rows": 20}))) == 2


def test_floors_and_gaps_of_slices_block_with_certainty_only():
    right, wrong = np.flatnonzero(ANSWERS == LABELS), np.flatnonzero(ANSWERS != LABELS)
    weak = np.isin(np.arange(200), [*right[:80], *wrong[:25]])  # 80 of 105 right
    near = SliceGates(accuracy=0.8, max_gap=0.06, not_worse_by=None)
    assert failed(GOOD, {"weak": weak, "rest": ~weak}, slices=near) == []
    far = SliceGates(accuracy=0.95, not_worse_by=None)
    (reason,) = failed(GOOD, {"weak": weak}, slices=far)
    assert reason.startswith("accuracy 0.762 on the 105 rows of weak, at most 0.8")
    weaker = np.isin(np.arange(200), [*right[:75], *wrong[:30]])
    (reason,) = failed(GOOD, {"weaker": weaker}, slices=SliceGates(max_gap=0.02, not_worse_by=None))
    assert "accuracy on the 105 rows of weaker is 0.136 below that of all rows" in reason


def test_where_all_slices_pass_the_one_nearest_to_its_bound_is_shown():
    (verdict,) = judged(GOOD, {"first": LABELS == 0, "second": LABELS == 1}, slices=SliceGates(accuracy=0.5))
    assert verdict.gate == "first: accuracy >= 0.5"
    assert verdict.value == "0.800"


# === Groups of people ===


def test_groups_that_differ_beyond_the_bound_are_blocked():
    # Of the 100 good rows, 90 are answered so: all of the first group's 40, and 50 of the other's 60.
    groups = np.where((LABELS == 1) & (np.arange(200) >= 160), "a", "b")
    fairness = FairnessGates(column="dialect", label="good", equal_opportunity=0.05, demographic_parity=0.9)
    options = {"fairness": fairness, "slices": SliceGates(minimum_rows=40, not_worse_by=None)}
    opportunity, parity = judged(GOOD, groups=groups, **options)
    assert opportunity.value == "0.167"
    assert "the groups of dialect differ by 0.167 in the recall of good" in opportunity.reason
    assert parity.passed


def test_groups_too_small_to_judge_are_said_to_be():
    fairness = FairnessGates(column="dialect", label="good", demographic_parity=0.1)
    (verdict,) = judged(GOOD, groups=np.array(["a"] * 199 + ["b"]), fairness=fairness)
    assert verdict.passed
    assert verdict.note == "fewer than two groups have 100 rows that count: not judged"


def test_a_favourable_label_that_the_model_lacks_is_an_error():
    fairness = FairnessGates(column="dialect", label="best", demographic_parity=0.1)
    with pytest.raises(UserError, match="no label 'best'; its labels are bad, good"):
        judged(GOOD, groups=LABELS.astype(str), fairness=fairness)
