"""AdamW with BERT's schedule, doing no more work on the weights than a step needs."""

from __future__ import annotations

import keras
import tensorflow as tf

_SPARED = frozenset({"bias", "gamma", "beta"})  # weight decay on these only hurts (Devlin et al. 2019)


class Schedule:
    """The learning rate: linear growth over the warm-up, then linear decay to 0 after the last step."""

    def __init__(self, peak: float, steps: int, warmup_share: float):
        self._peak = peak
        self._steps = steps
        self._warmup = int(steps * warmup_share)

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        """The rate of a step, float32; steps count from 0."""
        step = tf.cast(step, tf.float32)
        growth = (step + 1) / max(self._warmup, 1)
        decay = (self._steps - step) / max(self._steps - self._warmup, 1)
        return self._peak * tf.maximum(tf.minimum(tf.minimum(growth, decay), 1.0), 0.0)


class AdamW(tf.Module):
    """AdamW (Loshchilov & Hutter 2019) with clipping by the global norm; the same numbers as keras.optimizers.AdamW.

    Dense variables are updated by one fused kernel each. A variable whose gradient names rows (an embedding table) is
    updated in these rows alone, moments and decay included: of a vocabulary's 30,000 rows a batch touches hundreds.

    Args:
        variables: Keras variables to train; biases and LayerNorm's are spared from weight decay.
        schedule: from step to learning rate.
        weight_decay: decoupled, multiplied by the learning rate.
        clip_norm: global norm above which gradients are scaled down.
        lazy_rows: False makes the tables' gradients dense, where the device has no dynamic shapes (TPU).
    """

    BETA_1, BETA_2 = 0.9, 0.999
    EPSILON = 1e-7  # Keras's own

    def __init__(
        self,
        variables: list[keras.Variable],
        schedule: Schedule,
        *,
        weight_decay: float,
        clip_norm: float,
        lazy_rows: bool = True,
    ):
        super().__init__()
        self.variables_ = [variable.value for variable in variables]
        self.step = tf.Variable(0, dtype=tf.int64, aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA)
        self._first = [tf.Variable(tf.zeros(v.shape), trainable=False) for v in self.variables_]
        self._second = [tf.Variable(tf.zeros(v.shape), trainable=False) for v in self.variables_]
        self._decays = [0.0 if v.name in _SPARED else weight_decay for v in variables]
        self._schedule = schedule
        self._clip_norm = clip_norm
        self._lazy_rows = lazy_rows

    def apply(self, gradients: list[tf.Tensor | tf.IndexedSlices]) -> tf.Tensor:
        """One step, called in a replica's context; replicas' gradients are added up.

        Returns:
            the gradients' global norm before clipping, float32 scalar.
        """
        context = tf.distribute.get_replica_context()
        if not self._lazy_rows:
            gradients = [tf.convert_to_tensor(gradient) for gradient in gradients]
        if context.num_replicas_in_sync > 1:
            gradients = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
        gradients = [_summed_rows(g) if isinstance(g, tf.IndexedSlices) else g for g in gradients]
        gradients, norm = tf.clip_by_global_norm(gradients, self._clip_norm)
        context.merge_call(self._update_all, args=(gradients,))
        return norm

    def _update_all(self, strategy: tf.distribute.Strategy, gradients) -> None:
        rate = self._schedule(self.step)
        time = tf.cast(self.step + 1, tf.float32)
        powers = (tf.pow(self.BETA_1, time), tf.pow(self.BETA_2, time))
        slots = zip(self.variables_, gradients, self._first, self._second, self._decays, strict=True)
        for variable, gradient, first, second, decay in slots:
            strategy.extended.update(variable, self._update, args=(gradient, first, second, rate, powers, decay))
        self.step.assign_add(1)

    def _update(self, variable, gradient, first, second, rate, powers, decay: float) -> None:
        if isinstance(gradient, tf.IndexedSlices):
            self._update_rows(variable, gradient, first, second, rate, powers, decay)
            return
        if decay:
            variable.assign(variable * (1 - rate * decay))
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=first.handle,
            v=second.handle,
            beta1_power=powers[0],
            beta2_power=powers[1],
            lr=rate,
            beta1=self.BETA_1,
            beta2=self.BETA_2,
            epsilon=self.EPSILON,
            grad=gradient,
        )

    def _update_rows(self, variable, gradient, first, second, rate, powers, decay: float) -> None:
        rows, slope = gradient.indices, gradient.values
        moment = self.BETA_1 * tf.gather(first, rows) + (1 - self.BETA_1) * slope
        square = self.BETA_2 * tf.gather(second, rows) + (1 - self.BETA_2) * tf.square(slope)
        pace = rate * tf.sqrt(1 - powers[1]) / (1 - powers[0])
        values = tf.gather(variable, rows) * (1 - rate * decay) - pace * moment / (tf.sqrt(square) + self.EPSILON)
        for target, update in ((first, moment), (second, square), (variable, values)):
            tf.raw_ops.ResourceScatterUpdate(resource=target.handle, indices=rows, updates=update)


def _summed_rows(gradient: tf.IndexedSlices) -> tf.IndexedSlices:
    """The gradient with every row named once: without it the global norm and the update would be wrong."""
    rows, places = tf.unique(gradient.indices)
    values = tf.math.unsorted_segment_sum(gradient.values, places, tf.size(rows))
    return tf.IndexedSlices(values, rows, gradient.dense_shape)
