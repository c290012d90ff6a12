"""How a classifier's inference is timed, the same for the peer and for ours."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from typing import Any

Row = tuple[str, ...]  # a text, or a text and its pair
SINGLES = 100  # texts that are timed one by one


def batches(rows: Sequence[Row], size: int) -> list[list[Row]]:
    """The rows in batches of this size."""
    return [list(rows[start : start + size]) for start in range(0, len(rows), size)]


class Inference:
    """A classifier to time. Making it predicts every batch once, so that caches are warm.

    Args:
        predict: from a batch of rows to their probabilities.
        rows: what to predict, in an order that has nothing to do with length.
        size: rows of a batch.
    """

    def __init__(self, predict: Callable[[list[Row]], Any], rows: list[Row], *, size: int):
        self._predict, self._rows = predict, rows
        by_length = sorted(rows, key=lambda row: sum(map(len, row)))
        self._orders = {"sorted": batches(by_length, size), "unsorted": batches(rows, size)}
        self._singles = batches(rows[:: max(1, len(rows) // SINGLES)], 1)
        for batch in [*self._orders["sorted"], *self._orders["unsorted"], *self._singles]:
            predict(batch)

    def figures(self, callers: int) -> dict[str, float]:
        """Times one pass.

        Args:
            callers: threads that predict batches at once.

        Returns:
            sorted, unsorted: examples per second in batches of similar length, and in batches as the rows come; p50: of
            single rows, one after another, in milliseconds.
        """
        figures = {}
        with ThreadPoolExecutor(callers) as pool:
            for name, ordered in self._orders.items():
                started = time.perf_counter()
                list(pool.map(self._predict, ordered))
                figures[name] = len(self._rows) / (time.perf_counter() - started)
        return figures | {"p50": 1e3 * median(self._seconds(single) for single in self._singles)}

    def _seconds(self, batch: list[Row]) -> float:
        started = time.perf_counter()
        self._predict(batch)
        return time.perf_counter() - started


def answer(figures: Callable[[], Any]) -> None:
    """Prints an empty object when ready, then the figures as one JSON line per line of standard input."""
    print(json.dumps({}), flush=True)
    for _ in sys.stdin:
        print(json.dumps(figures()), flush=True)
