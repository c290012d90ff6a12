import dataclasses
import io
from pathlib import Path

import factories
import numpy as np
import pytest

from bertline.components.options import EvaluateOptions
from bertline.errors import UserError
from bertline.pipeline import compare
from bertline.pipeline.evaluated import Run
from bertline.pipeline.screen import Screen

CLASSES = ["bad", "good", "none"]


def run(run_id, answered, labels=None, rows=None):
    """A run that gave these answers, by the first letter of the label."""
    index = {name[0]: position for position, name in enumerate(CLASSES)}
    rows = rows or [f"row-{row}" for row in range(len(answered))]
    labels, predicted = ([index[label] for label in given] for given in (labels or "bbbggg", answered))
    confidence = 0.5 + np.arange(len(answered))[:, np.newaxis] / 100
    columns = {
        "row_id": rows,
        "text": [f"text of {row}" for row in rows],
        "shop": ["north", "south"] * (len(answered) // 2),
    }
    options = EvaluateOptions(slices=["shop"], length_buckets=[])
    answers = factories.answers(CLASSES, labels, predicted, confidence * np.eye(3)[predicted], columns=columns)
    return Run(run_id, [], "", factories.metrics(answers), answers.sliced(options), options, Path())


FIRST, SECOND = run("one", "bbgggn"), run("two", "bnbggb")


def shown(first, second):
    output = io.StringIO()
    compare.show(compare.compare(first, second), Screen(output, width=140))
    return output.getvalue()


def test_won_lost_and_still_wrong_rows():
    found = compare.compare(FIRST, SECOND)
    changed = {kind: [row["row_id"] for row in found[kind]] for kind in ("won", "lost", "still_wrong")}
    assert changed == {"won": ["row-2"], "lost": ["row-1"], "still_wrong": ["row-5"]}
    assert (found["overall"]["rows_won"], found["overall"]["rows_lost"]) == (1, 1)


def test_figures_of_both_and_of_each_slice():
    found = compare.compare(FIRST, SECOND)
    assert found["overall"]["first"]["accuracy"] == found["overall"]["second"]["accuracy"] == pytest.approx(4 / 6)
    north = found["slices"]["shop=north"]  # rows 0, 2 and 4: the third one is won
    assert (north["rows"], north["first"]["accuracy"], north["second"]["accuracy"]) == (3, pytest.approx(2 / 3), 1)
    assert north["differences"]["accuracy"]["value"] == pytest.approx(1 / 3)


def test_only_rows_of_both_runs_count():
    other = run("three", "bg", labels="bg", rows=["row-0", "row-9"])
    found = compare.compare(FIRST, other)
    assert (found["rows"], found["rows_left_out"]) == (1, [5, 1])
    with pytest.raises(UserError, match="one and four have no test row in common"):
        compare.compare(FIRST, run("four", "bg", labels="bg", rows=["row-8", "row-9"]))


def test_the_screen_shows_figures_and_rows():
    text = shown(FIRST, SECOND)
    assert "one -> two: 6 test rows of both" in text
    assert "0.667 -> 1.000" in text
    assert "won: 1 rows" in text
    assert "row-2 bad good bad text of row-2" in " ".join(text.split())


def test_what_stands_in_the_data_is_shown_as_it_stands():
    hostile = "[/eu] [bold]:warning:"
    first, second = (run(f"{name}{hostile}", answered) for name, answered in (("one", "bbgggn"), ("two", "nbbggb")))
    columns = second.answers.columns
    columns["text"][0], columns["shop"][0] = f"{hostile}\x1b[2J", hostile
    second = dataclasses.replace(second, answers=second.answers.sliced(second.options))
    text = shown(first, second)
    assert f"one{hostile} -> two{hostile}: 6 test rows" in text
    assert f"shop={hostile}" in text
    assert f"{hostile} [2J" in text
