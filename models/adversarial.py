"""Adversarial training: the word embeddings of each row are moved to where the loss is larger, and trained on there.

- fgm: the gradient of the loss, scaled to the length epsilon; the step follows the plain loss and the moved one
  (Miyato, Dai and Goodfellow, "Adversarial Training Methods for Semi-Supervised Text Classification", ICLR 2017).
- pgd: steps of the ascent, each brought back into the ball of radius epsilon; the step follows the loss where they end
  (Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018).
- freelb: each step of the ascent gives gradients of the weights too, and the training step follows their mean (Zhu et
  al., "FreeLB: Enhanced Adversarial Training for Natural Language Understanding", ICLR 2020).

A length is that of all of a row's embeddings together. Padding is not moved. What moves is what the first layer reads,
not the table, so the table may be frozen. All passes of a step drop the same units, as FreeLB's paper asks for: another
draw would change the network that the gradient was taken of. pgd starts at random as freelb does; both papers start so,
each in the shape of its ball.
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from bertline.models.gradients import Gradient, added, invariant, scaled
from bertline.models.recipe import AdversarialOptions

Loss = Callable[[tf.Tensor], tf.Tensor]  # from the move of the embeddings, float32 [batch, tokens, hidden], to a scalar
Variables = list[tf.Variable]

STEPS = 3
_REACH = 2.5  # steps of 2.5 epsilon / steps reach the ball's edge from anywhere in it (Madry et al.'s own rule)


class Adversary:
    """Gradients of the loss on moved embeddings.

    Args:
        options: method, radius, steps.
    """

    def __init__(self, options: AdversarialOptions):
        self._options = options
        self.steps = options.steps or STEPS
        self.step_size = options.step_size or _REACH * options.epsilon / self.steps

    def gradients(
        self, loss: Loss, variables: Variables, real: tf.Tensor, hidden: int, seed: tf.Tensor
    ) -> tuple[tf.Tensor, list[Gradient]]:
        """The loss that a training step follows, and the gradients of the variables.

        Args:
            loss: of the rows with their embeddings moved.
            variables: what the step trains.
            real: float32 [batch, tokens], 1 for tokens and 0 in the padding.
            hidden: width of an embedding.
            seed: int64 [2], of the start.
        """
        real = real[:, :, None]
        if self._options.method == "fgm":
            return self._fgm(loss, variables, real, hidden)
        start = self.start(real, hidden, seed)
        follow = self._pgd if self._options.method == "pgd" else self._freelb
        return follow(loss, variables, real, start)

    def _fgm(self, loss: Loss, variables: Variables, real: tf.Tensor, hidden: int) -> tuple[tf.Tensor, list[Gradient]]:
        """Half of the paper's sum, so that the rate and the clipping mean what they mean without it."""
        plain, gradients, slope = _slopes(loss, variables, tf.zeros(_shape(real, hidden)))
        moved, more, _ = _slopes(loss, variables, self._options.epsilon * direction(slope, real))
        return (plain + moved) / 2, [scaled(added(*pair), 0.5) for pair in zip(gradients, more, strict=True)]

    def _pgd(
        self, loss: Loss, variables: Variables, real: tf.Tensor, start: tf.Tensor
    ) -> tuple[tf.Tensor, list[Gradient]]:
        def climb(step: tf.Tensor, move: tf.Tensor):
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(move)
                value = loss(move)
            return step + 1, self._climbed(move, tape.gradient(value, move), real)

        _, move = tf.while_loop(
            lambda step, _: step < self.steps, climb, (tf.constant(0), start), parallel_iterations=1
        )
        value, gradients, _ = _slopes(loss, variables, tf.stop_gradient(move))
        return value, gradients

    def _freelb(
        self, loss: Loss, variables: Variables, real: tf.Tensor, start: tf.Tensor
    ) -> tuple[tf.Tensor, list[Gradient]]:
        def climb(step: tf.Tensor, move: tf.Tensor, total: tf.Tensor, sums: list[Gradient]):
            value, gradients, slope = _slopes(loss, variables, move)
            sums = [added(*pair) for pair in zip(sums, gradients, strict=True)]
            return step + 1, self._climbed(move, slope, real), total + value, sums

        # The first step comes before the loop: its result says which gradients name rows.
        value, gradients, slope = _slopes(loss, variables, start)
        first = (tf.constant(1), self._climbed(start, slope, real), value, gradients)
        shapes = tf.nest.map_structure(invariant, first)
        _, _, total, sums = tf.while_loop(
            lambda step, *_: step < self.steps, climb, first, shapes, parallel_iterations=1
        )
        return total / self.steps, [scaled(each, 1 / self.steps) for each in sums]

    def start(self, real: tf.Tensor, hidden: int, seed: tf.Tensor) -> tf.Tensor:
        """Uniform within +-epsilon / sqrt(n) in each of a row's n numbers, so at most epsilon long."""
        draw = tf.random.stateless_uniform(_shape(real, hidden), seed, -1.0, 1.0)
        numbers = tf.reduce_sum(real, axis=[1, 2], keepdims=True) * hidden
        return draw * real * self._options.epsilon * tf.math.rsqrt(tf.maximum(numbers, 1.0))

    def _climbed(self, move: tf.Tensor, slope: tf.Tensor, real: tf.Tensor) -> tf.Tensor:
        """The move after one step of the ascent, back in the ball."""
        move += self.step_size * direction(slope, real)
        length = tf.sqrt(tf.reduce_sum(tf.square(move), axis=[1, 2], keepdims=True))
        return move * tf.minimum(1.0, tf.math.divide_no_nan(self._options.epsilon, length))


def _slopes(loss: Loss, variables: Variables, move: tf.Tensor) -> tuple[tf.Tensor, list[Gradient], tf.Tensor]:
    """The loss at a move, its gradients by the variables, and by the move."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch([*variables, move])
        value = loss(move)
    *gradients, slope = tape.gradient(value, [*variables, move])
    return value, gradients, slope


def direction(slope: tf.Tensor, real: tf.Tensor) -> tf.Tensor:
    """Each row's slope scaled to length 1, float32 [batch, tokens, hidden]; 0 in the padding.

    A row whose slope is 0, or overflowed in float16, gets 0: it has no direction.

    Args:
        slope: float32 [batch, tokens, hidden].
        real: float32 [batch, tokens, 1], 0 in the padding.
    """
    slope = tf.where(real > 0, slope, 0.0)
    size = tf.reduce_sum(tf.abs(slope), axis=[1, 2], keepdims=True)
    known = tf.math.is_finite(size) & (size > 0)
    # Divided by the size first: the squares of small slopes would be 0.
    slope = tf.where(known, slope / tf.where(known, size, 1.0), 0.0)
    length = tf.sqrt(tf.reduce_sum(tf.square(slope), axis=[1, 2], keepdims=True))
    return tf.math.divide_no_nan(slope, length)


def _shape(real: tf.Tensor, hidden: int) -> tf.Tensor:
    return tf.stack([*tf.unstack(tf.shape(real)[:2]), hidden])
