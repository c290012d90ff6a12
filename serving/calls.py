"""A run of a graph as data, for what schedules runs without knowing TensorFlow."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Call(NamedTuple):
    """One run of the graph: what to feed and what to fetch, by the graph's tensor names."""

    feeds: dict[str, np.ndarray]
    fetches: tuple[str, ...]

    @property
    def rows(self) -> int:
        """The size of the feeds' first dimension, which is the batch; 0 where a feed has none."""
        return min((feed.shape[0] if feed.ndim else 0 for feed in self.feeds.values()), default=0)
