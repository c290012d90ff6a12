"""Averages of the weights along a training, which are often better than the last weights, and never more to serve.

- ema: the exponential moving average, after each step (Polyak and Juditsky, "Acceleration of Stochastic Approximation
  by Averaging", 1992). Early on it forgets faster, by min(decay, (1 + steps) / (10 + steps)), as otherwise the first
  weights would count for long: the rule of TensorFlow's ExponentialMovingAverage.
- checkpoints: the mean of the last copies of the weights (Vaswani et al., "Attention Is All You Need", 2017, section
  6.1, averaged the last 5 checkpoints of their base model; Izmailov et al., "Averaging Weights Leads to Wider Optima
  and Better Generalization", UAI 2018).

They are tf.Modules, so that checkpoints hold their state.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import tensorflow as tf

from bertline.models.recipe import AverageOptions


class Average(Protocol):
    """What is averaged along the training."""

    def after_step(self, step: int, *, last: bool) -> None:
        """Takes the weights in after a step; steps count from 1, and `last` says that the step ends an epoch."""

    def values(self) -> list[tf.Tensor]:
        """The averages, in the order of the variables."""


class MovingAverage(tf.Module):
    """See ema above.

    Args:
        variables: what is trained; called inside the strategy's scope.
        decay: share of the average that a step keeps.
    """

    def __init__(self, variables: list[tf.Variable], decay: float):
        super().__init__()
        self._variables, self._decay = variables, decay
        self._averages = [tf.Variable(variable, trainable=False) for variable in variables]
        self._strategy = tf.distribute.get_strategy()
        self._blend = tf.function(self._blended, autograph=False)

    def after_step(self, step: int, *, last: bool) -> None:
        """See Average."""
        del last
        self._blend(tf.constant(1 - min(self._decay, (1 + step) / (10 + step)), tf.float32))

    def values(self) -> list[tf.Tensor]:
        """See Average."""
        return [tf.convert_to_tensor(average) for average in self._averages]

    def _blended(self, share: tf.Tensor) -> None:
        update = self._strategy.extended.update
        for average, variable in zip(self._averages, self._variables, strict=True):
            update(average, lambda own, new, part: own.assign_add((new - own) * part), args=(variable, share))


class LastCopies(tf.Module):
    """See checkpoints above.

    Args:
        variables: what is trained; called inside the strategy's scope.
        last: how many copies are kept.
        every: steps between two of them.
    """

    def __init__(self, variables: list[tf.Variable], last: int, every: int):
        super().__init__()
        self._variables, self._every = variables, every
        self._copies = [[tf.Variable(tf.zeros(v.shape), trainable=False) for v in variables] for _ in range(last)]
        self._taken = tf.Variable(0, dtype=tf.int64, trainable=False)

    def after_step(self, step: int, *, last: bool) -> None:
        """See Average."""
        if step % self._every and not last:
            return
        taken = int(self._taken.numpy())
        for copy, variable in zip(self._copies[taken % len(self._copies)], self._variables, strict=True):
            copy.assign(tf.convert_to_tensor(variable))
        self._taken.assign(taken + 1)

    def values(self) -> list[tf.Tensor]:
        """See Average."""
        copies = self._copies[: int(self._taken.numpy())]
        return [
            tf.add_n([tf.convert_to_tensor(each) for each in kept]) / len(copies) for kept in zip(*copies, strict=True)
        ]


def of(variables: list[tf.Variable], options: AverageOptions | None) -> MovingAverage | LastCopies | None:
    """The average that the options name; None for none."""
    if options is None:
        return None
    if options.method == "ema":
        return MovingAverage(variables, options.decay)
    return LastCopies(variables, options.last, options.every)


@contextmanager
def averaged(variables: list[tf.Variable], average: Average | None) -> Iterator[None]:
    """Gives the variables their averages for a while, and then their own values again; nothing without an average."""
    if average is None:
        yield
        return
    own = [variable.numpy() for variable in variables]
    assign(variables, average.values())
    yield
    assign(variables, own)


def assign(variables: list[tf.Variable], values: list) -> None:
    """Gives each variable its value."""
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
