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


# The default rate of `train`, 5e-5, is for a head that starts at random, and for larger BERTs.
WHY_RATE = "from the probe's head: see docs/recipes.md"
WHY_POOLING = "as the weights were trained; these on the mean of the tokens: docs/models.md, Pooling"


RULES = (
    # Three epochs are few steps where rows are few, and from the probe's head they are enough. More do not help there:
    # the handful of validation rows ends them early.
    Rule("up to 300 rows a label", 0, TrainOptions(epochs=3, learning_rate=1e-4)),
    Rule("from 300 rows a label", 300, TrainOptions(epochs=2, learning_rate=1e-4)),
)


def choose(rows: int, labels: int) -> Rule:
    """The rule for so many training rows and labels."""
    return next(rule for rule in reversed(RULES) if rows >= rule.least * labels)
