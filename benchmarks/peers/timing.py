"""How a classifier's inference is timed, the same for the peer and for ours: `Figures`, from a function on texts."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from typing import Any

Row = tuple[str, ...]  # a text, or a text and its pair
SINGLES = 100  # texts that are asked one by one


def batches(rows: Sequence[Row], size: int) -> list[list[Row]]:
    """The rows in batches of so many."""
    return [list(rows[start : start + size]) for start in range(0, len(rows), size)]


def time_inference(
    predict: Callable[[list[Row]], Any], rows: list[Row], *, size: int, callers: int
) -> dict[str, float]:
    """Times a classifier.

    Args:
      predict: from a batch of rows to their probabilities.
      rows: what to predict, in an order that has nothing to do with length.
      size: rows of a batch.
      callers: threads that predict at once.

    Returns:
      sorted and unsorted: examples a second where batches hold rows of like length, and where they do not; p50: of
      the single rows, in milliseconds.
    """
    orders = {"sorted": sorted(rows, key=lambda row: sum(map(len, row))), "unsorted": rows}
    singles = batches(rows[:: max(1, len(rows) // SINGLES)], 1)
    with ThreadPoolExecutor(callers) as pool:
        list(pool.map(predict, batches(rows, size)))  # warm caches: every shape's kernels are made once
        figures = {}
        for name, ordered in orders.items():
            started = time.perf_counter()
            list(pool.map(predict, batches(ordered, size)))
            figures[name] = len(rows) / (time.perf_counter() - started)
    for single in singles:
        predict(single)
    figures["p50"] = 1e3 * median(_seconds(predict, single) for single in singles)
    return figures


def _seconds(predict: Callable[[list[Row]], Any], batch: list[Row]) -> float:
    started = time.perf_counter()
    predict(batch)
    return time.perf_counter() - started
