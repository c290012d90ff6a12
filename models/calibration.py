"""Temperature scaling: the logits divided by one number, so that what is said with 80% is right four times in five.

Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks", ICML 2017, section 4.2. The number says how
sure an answer is, never which one it is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import optimize, special

# A parameter fitted on n rows costs 1 / (2n) of log loss on new ones in expectation (Akaike 1974): 0.005 at 100 rows,
# where fine-tuned BERTs stand to gain 0.01 to 0.1.
MINIMUM_ROWS = 100
# The paper's networks end between 1 and 3. At either bound the rows tell no temperature: where all answers are right or
# no better than chance, the best one is 0 or infinite.
BOUNDS = (0.1, 10.0)


@dataclass(frozen=True)
class Temperature:
    """What the logits are divided by, and why it is 1 where it was not fitted."""

    value: float = 1.0
    note: str = ""


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> Temperature:
    """The temperature of least log loss on rows that the weights were not fitted on; never worse than 1 on them.

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

    # The log loss is convex in 1 / temperature: one minimum on any scale. On the logarithm's a step up is one down.
    low, high = (math.log(bound) for bound in BOUNDS)
    found = optimize.minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-4}).x
    if min(found - low, high - found) < 1e-2:
        return Temperature(
            note=f"no temperature between {BOUNDS[0]:g} and {BOUNDS[1]:g} is best on the validation rows"
        )
    if not loss(found) < loss(0.0):
        return Temperature(note="none is better on the validation rows")
    return Temperature(math.exp(found))


def probabilities(logits: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities at a temperature, float64 [rows, labels], from logits, float [rows, labels]."""
    return special.softmax(logits.astype(np.float64) / temperature, axis=-1)


def unscaled(scaled: np.ndarray, temperature: float) -> np.ndarray:
    """What the probabilities would be at temperature 1: proportional to p to the power of the temperature.

    Args:
        scaled: float [rows, labels], probabilities at the temperature.
        temperature: the model's.

    Returns:
        float64 [rows, labels].
    """
    with np.errstate(divide="ignore"):  # a probability of 0 stays 0
        return special.softmax(temperature * np.log(scaled.astype(np.float64)), axis=-1)
