"""Answers whose right labels have come, by the version that gave them."""

import datetime

import numpy as np
import windows_of
from windows_of import CLASSES, NOON

from bertline.monitoring import labelled
from bertline.serving.canary_judge import Labelled

HOUR = datetime.timedelta(hours=1)


def records(ids, version, answers, **columns):
    """Records of answers, at noon."""
    scores = np.eye(3, dtype=np.float32)[[CLASSES.index(label) for label in answers]]
    rows = len(ids)
    return windows_of.records([NOON] * rows, scores, id=ids, version=[version] * rows, **columns)


def test_each_version_is_counted_by_its_own_answers_since_a_moment(tmp_path):
    windows_of.write(tmp_path, NOON, records(["a", "b", "c"], 7, ["positive", "negative", "neutral"]))
    windows_of.write(tmp_path, NOON, records(["d", "e"], 8, ["positive", "positive"]))
    windows_of.write(tmp_path, NOON, records(["f"], 8, ["positive"], model=["another"]))
    windows_of.write(tmp_path, NOON, records(["g"], 8, ["positive"], status=["UNAVAILABLE"]))
    windows_of.write(tmp_path, NOON, records(["h"], 8, ["positive"])).write_bytes(b"PAR1 and no more")
    right = dict.fromkeys("abdfghx", "positive") | {"e": "negative"}

    def counted(version, since=NOON - HOUR):
        return labelled.count(right, [tmp_path, tmp_path / "absent"], "reviews", since, version, None)

    assert counted(7) == Labelled(1, 2)  # nobody has said what c is
    assert counted(8) == Labelled(1, 2)
    assert counted(9) == counted(8, NOON + HOUR) == counted(8, NOON + 48 * HOUR) == Labelled(0, 0)
    assert labelled.count({}, [tmp_path], "reviews", NOON, 7, None) == Labelled(0, 0)


def test_several_labels_are_right_together(tmp_path):
    answers = [["late", "price"], ["late"], []]
    windows_of.write(tmp_path, NOON, records(["a", "b", "c"], 7, ["neutral"] * 3, labels=answers))
    said = {"a": "price|late", "b": "late|price", "c": ""}
    assert labelled.count(said, [tmp_path], "reviews", NOON, 7, "|") == Labelled(2, 3)
