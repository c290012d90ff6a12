"""L2-SP: a penalty on the distance from the weights that training starts from.

Li, Grandvalet and Davoine, "Explicit Inductive Bias for Transfer Learning with Convolutional Networks", ICML 2018. The
loss gets strength / 2 times the squared distance of the pretrained weights from where they started. The head, which no
pretraining made, keeps its weight decay towards 0, as in the paper. Of an embedding table only the rows of a batch are
pulled: the others stand still.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import keras
import tensorflow as tf

from bertline.models.gradients import Gradient


class Anchor:
    """The start of a training, and the pull towards it. Checkpoints need not hold it: a resumed run builds it again.

    Args:
        variables: what is trained, at its start; called inside the distribution strategy's scope. The start is copied.
        pretrained: those that are held, among others.
        strength: of the penalty.
    """

    def __init__(self, variables: list[keras.Variable], pretrained: Collection[keras.Variable], strength: float):
        ids = {id(variable) for variable in pretrained}
        self.holds = [id(variable) in ids for variable in variables]
        self._variables = [variable.value for variable in variables]
        self._starts = [
            tf.Variable(variable.value, trainable=False) if held else None
            for variable, held in zip(variables, self.holds, strict=True)
        ]
        self._strength = strength

    def pulled(self, gradients: list[Gradient], places: Sequence[int]) -> list[Gradient]:
        """The gradients with the penalty's, in a replica's context.

        Args:
            gradients: those that name rows name each once.
            places: of their variables among all.
        """
        return [
            gradient if self._starts[at] is None else self._pulled(gradient, self._variables[at], self._starts[at])
            for at, gradient in zip(places, gradients, strict=True)
        ]

    def _pulled(self, gradient: Gradient, variable: tf.Variable, start: tf.Variable) -> Gradient:
        if isinstance(gradient, tf.IndexedSlices):
            away = tf.gather(variable, gradient.indices) - tf.gather(start, gradient.indices)
            return tf.IndexedSlices(gradient.values + self._strength * away, gradient.indices, gradient.dense_shape)
        return gradient + self._strength * (variable - start)
