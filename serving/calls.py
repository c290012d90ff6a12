"""A run of a graph as data, so that the scheduling of runs needs no TensorFlow."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

DEFAULT_SIGNATURE = "serving_default"
PIECE = 1 << 16  # values that go to or from Python's lists at once, some 5 ms: no other thread runs meanwhile


@dataclass(frozen=True)
class Call:
    """One run of the graph: what to feed and what to fetch, by the graph's tensor names."""

    feeds: dict[str, np.ndarray]
    fetches: tuple[str, ...]

    @property
    def has_rows(self) -> bool:
        """Whether there are feeds, and each has a first dimension."""
        return bool(self.feeds) and all(feed.ndim for feed in self.feeds.values())

    @cached_property
    def rows(self) -> int:
        """The number of rows: the size of the feeds' first dimension, the smallest if they differ."""
        return min(feed.shape[0] for feed in self.feeds.values())
