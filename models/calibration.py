"""Temperature scaling: the logits are divided by one number, so that answers with 80% are right four times in five.

A multi-label model has one such number per label, as each of its logits is a model of its own.

Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks", ICML 2017, section 4.2. The number changes
how sure an answer is, never which answer it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, special

# A parameter that was fitted on n rows is expected to cost 1 / (2n) of log loss on new rows (Akaike 1974): 0.005 at
# 100 rows, where fine-tuned BERTs gain 0.01 to 0.1.
MINIMUM_ROWS = 100
# The paper's networks end between 1 and 3. A fit that ends at a bound says nothing: where all answers are right, the
# best temperature is 0, and where they are no better than chance, it is infinite.
BOUNDS = (0.1, 10.0)


# Of a multi-label model, rows that have a label, and rows that do not: with fewer of either, a fit rests on a few rows.
MINIMUM_OF_A_KIND = 10

Temperatures = float | Sequence[float]  # of one softmax, or of the sigmoid of each label


@dataclass(frozen=True)
class Temperature:
    """What the logits are divided by; where it was not fitted it is 1, and the note says why."""

    value: float = 1.0
    note: str = ""


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> Temperature:
    """The temperature with the least log loss on rows that the weights were not fitted on.

    On these rows it is never worse than 1.

    Args:
        logits: float [rows, labels].
        labels: int [rows].
    """
    if len(labels) < MINIMUM_ROWS:
        return Temperature(note=f"{len(labels):,} validation rows are too few to fit one: {MINIMUM_ROWS} are needed")
    logits = logits.astype(np.float64)

    def loss(log_temperature: float) -> float:
        scaled = special.log_softmax(logits / math.exp(log_temperature), axis=-1)
        return -float(scaled[np.arange(len(labels)), labels].mean())

    return _best(loss)


def fit_temperatures(logits: np.ndarray, labels: np.ndarray) -> list[Temperature]:
    """For each label of a multi-label model, the temperature with the least log loss on rows as in fit_temperature.

    Args:
        logits: float [rows, labels].
        labels: bool [rows, labels].
    """
    return [_fit_label(of_label, has) for of_label, has in zip(logits.T.astype(np.float64), labels.T, strict=True)]


def _fit_label(logits: np.ndarray, has: np.ndarray) -> Temperature:
    rarer = int(min(has.sum(), (~has).sum()))
    if len(has) < MINIMUM_ROWS or rarer < MINIMUM_OF_A_KIND:
        return Temperature(
            note=f"{len(has):,} validation rows, {int(has.sum()):,} of them with the label, are too few to fit one: "
            f"{MINIMUM_ROWS} are needed, {MINIMUM_OF_A_KIND} of them with the label and {MINIMUM_OF_A_KIND} without"
        )
    towards = np.where(has, logits, -logits)  # the label that the row has, or has not
    return _best(lambda log_temperature: float(np.logaddexp(0.0, -towards / math.exp(log_temperature)).mean()))


def _best(loss: Callable[[float], float]) -> Temperature:
    """The temperature with the least loss, a function of its logarithm, if it is better than 1."""
    # The log loss is convex in 1 / temperature, so it has one minimum on any scale. On the logarithm's scale halving
    # and doubling are steps of one size.
    low, high = (math.log(bound) for bound in BOUNDS)
    best = optimize.minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-4}).x
    if min(best - low, high - best) < 1e-2:
        return Temperature(
            note=f"no temperature between {BOUNDS[0]:g} and {BOUNDS[1]:g} is best on the validation rows"
        )
    if not loss(best) < loss(0.0):
        return Temperature(note="none is better on the validation rows")
    return Temperature(math.exp(best))


def probabilities(logits: np.ndarray, temperature: Temperatures) -> np.ndarray:
    """Probabilities at a temperature, float64 [rows, labels], from logits, float [rows, labels].

    With one number per label, of a multi-label model, each label has a probability of its own.
    """
    scaled = logits.astype(np.float64) / np.asarray(temperature)
    return special.expit(scaled) if np.ndim(temperature) else special.softmax(scaled, axis=-1)


def unscaled(scaled: np.ndarray, temperature: Temperatures) -> np.ndarray:
    """The probabilities at temperature 1. They are proportional to p to the power of the temperature.

    Args:
        scaled: float [rows, labels], probabilities at the temperature.
        temperature: the model's; of a multi-label model one number per label.

    Returns:
        float64 [rows, labels].
    """
    if np.ndim(temperature):
        return special.expit(np.asarray(temperature) * special.logit(scaled.astype(np.float64)))
    with np.errstate(divide="ignore"):  # a probability of 0 stays 0
        return special.softmax(temperature * np.log(scaled.astype(np.float64)), axis=-1)
