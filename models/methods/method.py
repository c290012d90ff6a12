"""What a training needs to know of its method."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from bertline.errors import UserError
from bertline.models.additions import PROMPT
from bertline.models.family import Classifier, Weights
from bertline.models.recipe import TrainOptions


class Length(NamedTuple):
    """How long a training is."""

    epochs: int
    steps: int  # of an epoch


class Method:
    """A method over a classifier, which trains some of the network's own weights and adds nothing to them.

    Args:
        model: the classifier.
        options: the recipe; `options.method` is the class's.
        length: of the training.

    Attributes:
        variables: they alone get gradients and moments.
        rates: what the learning rate of each is multiplied by.
        opens: the step from which each is trained, counted from 0; not before it. Skipped steps do not count.
        settled: the step from which the training may stop early, counted likewise.
    """

    def __init__(self, model: Classifier, options: TrainOptions, length: Length):
        self.model, self.options, self.length = model, options, length
        self._check_additions()
        self.variables = self._chosen()
        self.rates = [1.0] * len(self.variables)
        self.opens = [0] * len(self.variables)
        self.settled = 0

    # === What is trained ===

    def _chosen(self) -> list[keras.Variable]:
        raise NotImplementedError

    def _check_additions(self) -> None:
        """Raises UserError where a warm start brought additions that the method does not train."""
        if self.model.additions:
            raise UserError(
                f"train.warm_start: the last blessed model has {_described(self.model.additions)}, which train.method: "
                f"{self.options.method} does not train. Take the method that it was trained by, or set "
                "train.warm_start: false"
            )

    @property
    def head(self) -> list[keras.Variable]:
        """The head's weights, which each method trains."""
        return list(self.model.output_dense.trainable_variables)

    @property
    def weights(self) -> int:
        """How many numbers are trained."""
        return sum(int(variable.value.shape.num_elements()) for variable in self.variables)

    def open_at(self, step: int) -> tuple[int, ...]:
        """The places in `variables` of those that are trained in a step."""
        return tuple(place for place, first in enumerate(self.opens) if first <= step)

    # === While it is trained ===

    def pack(self, dtype: tf.DType) -> Weights:
        """The network and what the method adds, as the encoder takes them; gradients flow to `variables`."""
        return self.model.packed(dtype)

    def penalty(self) -> tf.Tensor | None:
        """What is added to the loss that is minimised, float32 scalar; None for nothing."""
        return self.model.penalty()

    @property
    def state(self) -> dict[str, list[tf.Variable]]:
        """What checkpoints hold beside the variables and the optimizer."""
        return {}

    @property
    def watcher(self) -> Watcher | None:
        """What sees the optimizer's updates; None for nothing."""
        return None

    # === At the end ===

    def finish(self) -> dict[str, np.ndarray]:
        """Makes what the method added part of the model, which computes the same as before.

        Returns:
            what to keep apart of it, by name; empty for nothing.
        """
        return {}

    def ranks(self) -> dict[str, int]:
        """The ranks that the training chose, by kernel; before `finish`. Empty for other methods."""
        return {}


class Watcher(NamedTuple):
    """Called around each update of the variables, in the cross-replica context (see optimizer.AdamW)."""

    before: Callable[[tf.distribute.Strategy, list[tf.Tensor]], None]  # with the gradients of Method.variables
    after: Callable[[tf.distribute.Strategy, tf.Tensor], None]  # with the number of steps done, int64


def _described(names: Iterable[str]) -> str:
    """What additions are, by their names in bertline.models.additions."""
    if PROMPT in names:
        return "a prompt"
    return "a prefix" if any(name.endswith("/keys") for name in names) else "adapters"
