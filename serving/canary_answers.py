"""What a classifier said of each text of a request, as far as a canary is compared by it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


class Said:
    """The labels of one answer, and how sure the model was of each. Empty until `take`, and for other models' answers.

    Attributes:
        labels: for each text its label, bytes; of a multi-label model the tuple of its labels.
        confidence: float64 [texts], the probability of the answer; of a multi-label model that of exactly its labels,
            as far as labels are independent.
    """

    __slots__ = ("confidence", "labels")

    def __init__(self):
        self.labels: list[Any] = []
        self.confidence = np.zeros(0)

    def take(self, outputs: Mapping[str, np.ndarray]) -> None:
        """Reads a signature's outputs, by their names, each [texts, ...]."""
        classes = outputs.get("classes")
        scores = outputs.get("probabilities", outputs.get("scores"))
        if classes is None or scores is None or classes.ndim != 2 or classes.shape != scores.shape or not scores.size:
            return
        scores = scores.astype(np.float64)
        if "assigned" in outputs:
            held = outputs["assigned"]
            self.labels = [tuple(names[has]) for names, has in zip(classes, held, strict=True)]
            self.confidence = np.where(held, scores, 1 - scores).prod(-1)
        else:
            self.labels = np.take_along_axis(classes, scores.argmax(-1)[:, np.newaxis], 1)[:, 0].tolist()
            self.confidence = scores.max(-1)
