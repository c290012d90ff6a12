import sys

import pytest

from benchmarks.inference import Contender
from benchmarks.peers.timing import Inference
from bertline.errors import UserError

ROWS = [("a",), ("a long text",), ("ab",), ("a longer text",)]


def test_every_row_is_predicted_sorted_unsorted_and_alone():
    predicted = []
    inference = Inference(predicted.append, ROWS, size=2)
    predicted.clear()
    figures = inference.figures(callers=1)
    assert predicted[:2] == [[("a",), ("ab",)], [("a long text",), ("a longer text",)]]
    assert predicted[2:4] == [ROWS[:2], ROWS[2:]]
    assert predicted[4:] == [[row] for row in ROWS]
    assert figures.keys() == {"sorted", "unsorted", "p50"} and min(figures.values()) > 0


def test_of_several_ways_the_best_counts():
    ways = [
        {"dtype": "bfloat16", "sorted": 5, "unsorted": 2, "p50": 8},
        {"dtype": "bfloat16", "sorted": 4, "unsorted": 3, "p50": 9},
    ]
    script = f"import json; print({{}}, flush=True); input(); print(json.dumps({ways}))"
    with Contender("inference-test", [sys.executable, "-c", script]) as contender:
        assert contender.ask() == {"dtype": "bfloat16", "sorted": 5, "unsorted": 3, "p50": 8, "ways": ways}


def test_a_process_that_fails_is_quoted():
    with pytest.raises(UserError, match=r"inference-test failed \(exit 1\):\nno weights"):
        Contender("inference-test", [sys.executable, "-c", "raise SystemExit('no weights')"])
