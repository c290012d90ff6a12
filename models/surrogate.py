"""A second opinion on which words an answer rests on: LIME, which sees only the model's answers, not its weights.

Ribeiro, Singh and Guestrin, "Why Should I Trust You?: Explaining the Predictions of Any Classifier", KDD 2016. Words
are left out at random, and the authors' own library fits a linear model to the probabilities that result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from lime.lime_text import LimeTextExplainer

from bertline.models.words import Reading

_LEFT_OUT = "-"


@dataclass(frozen=True)
class Surrogate:
    """A linear model of a label's probability near a row.

    Attributes:
        label: its index.
        values: float64 [words], what the probability gains by a word's presence; 0 for a word that is not read.
        fit: share of the probability's variance near the row that it explains (weighted R^2), at most 1.
    """

    label: int
    values: np.ndarray
    fit: float


def lime(
    answer: Callable[[Sequence[Reading]], np.ndarray], reading: Reading, label: int, *, samples: int, seed: int
) -> Surrogate:
    """LIME's linear model of a label's probability.

    Args:
        answer: gives the probabilities of rows, float [rows, labels].
        reading: the row.
        label: its index.
        samples: how many texts with words left out the model answers.
        seed: of the draws.
    """
    values = np.zeros(len(reading.words))
    read = [number for number, word in enumerate(reading.words) if word.tokens]
    if not read:
        return Surrogate(label, values, 1.0)
    # LIME gets the words' numbers instead of a text, so its word k is ours whatever characters are in the user's text.
    explainer = LimeTextExplainer(
        split_expression=" ", bow=False, mask_string=_LEFT_OUT, feature_selection="none", random_state=seed
    )

    def answers(texts: Sequence[str]) -> np.ndarray:
        kept = [{int(number) for number in text.split() if number != _LEFT_OUT} for text in texts]
        return answer([_without(reading, set(read) - numbers) for numbers in kept])

    explained = explainer.explain_instance(" ".join(map(str, read)), answers, labels=(label,), num_samples=samples)
    for place, value in explained.local_exp[label]:
        values[read[place]] = value
    return Surrogate(label, values, float(explained.score))


def _without(reading: Reading, left_out: set[int]) -> Reading:
    """The row without the tokens of some of its words, given by their numbers."""
    gone = [token for number in left_out for token in reading.words[number].tokens]
    segments = None if reading.segments is None else np.delete(reading.segments, gone)
    return replace(reading, ids=np.delete(reading.ids, gone), segments=segments)
