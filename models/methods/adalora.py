"""AdaLoRA: factors whose rank is shared out among the kernels by importance.

Zhang et al., "AdaLoRA: Adaptive Budget Allocation for Parameter-Efficient Fine-Tuning", ICLR 2023. A product x W
becomes x W + x P diag(s) Q, with P [in, rank] and Q [rank, out] kept near orthonormal by a penalty, so that s are about
the singular values of what W gets. They are pruned while training. The budget of all kernels together falls from the
first rank to the one asked for (equation 10 of the paper), and goes to the triplets (a singular value with its two
vectors) of the greatest importance (equations 7 to 9). At the end the product is merged into W, as LoRA's is.

The paper draws P and Q from a Gaussian. Here they start orthonormal, a Gaussian's by QR: the gradients are clipped by
their global norm, and a penalty of many times the loss would leave the loss nothing of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

from bertline.models.bert.classifier import Classifier
from bertline.models.methods.lora import Factors, LowRankMethod, beside_kernels
from bertline.models.methods.method import Length, Watcher
from bertline.models.recipe import LoraTarget, TrainOptions

_SMOOTHING = 0.85  # of sensitivity and uncertainty; both the paper's


@dataclass(frozen=True)
class Triplets(Factors):
    """The factors beside one kernel: P is `down`, Q is `up`.

    Attributes:
        singular: s of the docstring above, [rank].
        kept: 1 for the triplets that the budget has room for, 0 for the others; [rank].
    """

    singular: keras.Variable
    kept: tf.Variable

    @property
    def variables(self) -> dict[str, keras.Variable]:
        """What is trained, by the name under which it is kept."""
        return {"down": self.down, "singular": self.singular, "up": self.up}

    def product(self, scale: float) -> tuple[tf.Tensor, tf.Tensor]:
        """P and diag(s) Q."""
        return self.down.value, self.singular.value[:, None] * self.up.value * scale

    def clear(self) -> None:
        """Makes the product zero."""
        self.singular.assign(tf.zeros_like(self.singular.value))

    @property
    def rank(self) -> int:
        """How many singular values are not zero."""
        return int(np.count_nonzero(self.singular.numpy()))

    def penalty(self) -> tf.Tensor:
        """How far P and Q are from orthonormal: the squared Frobenius norms of P' P - 1 and Q Q' - 1."""
        one = tf.eye(self.singular.shape[0])
        down, up = self.down.value, self.up.value
        products = (tf.matmul(down, down, transpose_a=True), tf.matmul(up, up, transpose_b=True))
        return tf.add_n([tf.reduce_sum(tf.square(product - one)) for product in products])


class AdaLora(LowRankMethod):
    """AdaLoRA's triplets and the head (Zhang et al. 2023)."""

    scale = 1.0

    def __init__(self, model: Classifier, options: TrainOptions, length: Length):
        self.dropout = options.adalora.dropout
        super().__init__(model, options, length)
        steps, share = length.epochs * length.steps, options.adalora
        self._warm, self.settled = round(steps * share.warmup_share), round(steps * (1 - share.settled_share))
        self._triplets: list[Triplets] = [each for _, each in self.named()]
        kept = {"trainable": False, "aggregation": tf.VariableAggregation.ONLY_FIRST_REPLICA}
        shapes = [variable.shape for variable in self.factor_variables]
        self._sensitivity, self._uncertainty = ([tf.Variable(tf.zeros(each), **kept) for each in shapes] for _ in "12")

    def _made(self, model: Classifier, options: TrainOptions) -> list[dict[LoraTarget, Factors]]:
        rank = options.adalora.first_rank

        def drawn(kernel: keras.Variable, first: int, last: int, draw: np.random.Generator) -> Triplets:
            down, up = (np.linalg.qr(draw.normal(size=[size, rank]))[0].astype(np.float32) for size in (first, last))
            # Zero, as the paper has it, gives P and Q no gradient in the first step; s itself has one.
            singular = keras.Variable(np.zeros(rank, np.float32), name="adalora_singular")
            ones = tf.Variable(tf.ones(rank), trainable=False, aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA)
            down, up = keras.Variable(down, name="adalora_down"), keras.Variable(up.T, name="adalora_up")
            return Triplets(kernel, down, up, singular, ones)

        return beside_kernels(model, options.adalora.targets, options.seed, drawn)

    def penalty(self) -> tf.Tensor:
        """The paper's regularisation, times its coefficient."""
        return self.options.adalora.orthogonality * tf.add_n([each.penalty() for each in self._triplets])

    @property
    def state(self) -> dict[str, list[tf.Variable]]:
        """Importance and masks."""
        kept = [each.kept for each in self._triplets]
        return {"sensitivity": self._sensitivity, "uncertainty": self._uncertainty, "kept": kept}

    @property
    def watcher(self) -> Watcher:
        """Importance is taken from the gradients before an update, and the budget shared out after it."""
        return Watcher(self._observe, self._share_out)

    def ranks(self) -> dict[str, int]:
        """The singular values that are left, by kernel."""
        return {name: factors.rank for name, factors in self.named()}

    # === The budget ===

    def budget(self, step: tf.Tensor) -> tf.Tensor:
        """How many triplets all kernels have together after so many steps, int32 (equation 10)."""
        first, last = (
            rank * len(self._triplets) for rank in (self.options.adalora.first_rank, self.options.adalora.rank)
        )
        way = tf.cast(step - self._warm, tf.float32) / max(self.settled - self._warm, 1)
        left = (1.0 - tf.clip_by_value(way, 0.0, 1.0)) ** 3
        return last + tf.cast(tf.round((first - last) * left), tf.int32)

    def importance(self) -> tf.Tensor:
        """Of each triplet, float32 [kernels, rank]: that of its singular value, and the mean of each vector's."""
        scores = iter([s * u for s, u in zip(self._sensitivity, self._uncertainty, strict=True)])
        return tf.stack(
            [tf.reduce_mean(down, axis=0) + singular + tf.reduce_mean(up, axis=1)
             for down, singular, up in zip(scores, scores, scores, strict=True)]
        )  # fmt: skip

    def _observe(self, strategy: tf.distribute.Strategy, gradients: list[tf.Tensor]) -> None:
        factors = [variable.value for variable in self.factor_variables]
        smoothed = zip(self._sensitivity, self._uncertainty, factors, gradients, strict=False)  # the head's come last
        for sensitivity, uncertainty, variable, gradient in smoothed:
            strategy.extended.update(sensitivity, _smooth, args=(uncertainty, variable, gradient))

    def _share_out(self, strategy: tf.distribute.Strategy, step: tf.Tensor) -> None:
        """Prunes the singular values that the budget has no room for.

        Every `interval` steps each triplet may win or lose its place; what was pruned goes on being trained until then.
        Once the budget is reached, the places are fixed.
        """
        flat = tf.reshape(self.importance(), [-1])
        places = tf.argsort(tf.argsort(-flat, stable=True))  # 0 is the most important
        wins = tf.cast(places < self.budget(step), tf.float32)
        rows = tf.unstack(tf.reshape(wins, [len(self._triplets), -1]))
        turn = (step >= self._warm) & (step % self.options.adalora.interval == 0) & (step < self.settled)
        due, fixed = turn | tf.equal(step, self.settled), step >= self.settled
        for factors, row in zip(self._triplets, rows, strict=True):
            strategy.extended.update(factors.kept, _keep, args=(row, due))
            strategy.extended.update(factors.singular.value, _prune, args=(factors.kept, due | fixed))


def _smooth(sensitivity: tf.Variable, uncertainty: tf.Variable, variable: tf.Variable, gradient: tf.Tensor) -> None:
    now = tf.abs(variable * gradient)
    mean = _SMOOTHING * sensitivity + (1 - _SMOOTHING) * now
    uncertainty.assign(_SMOOTHING * uncertainty + (1 - _SMOOTHING) * tf.abs(now - mean))
    sensitivity.assign(mean)


def _keep(kept: tf.Variable, row: tf.Tensor, due: tf.Tensor) -> None:
    kept.assign(tf.where(due, row, kept))


def _prune(singular: tf.Variable, kept: tf.Variable, now: tf.Tensor) -> None:
    singular.assign(tf.where(now, singular * kept, singular))
