"""AdamW with BERT's schedule; it touches only the weights that a step changes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import keras
import tensorflow as tf

from bertline.models.anchor import Anchor
from bertline.models.gradients import Gradient, scaled, summed_rows

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


class LossScale(tf.Module):
    """The factor of the loss in float16, without which small gradients would fall below its smallest number.

    It follows the rule of keras.optimizers.LossScaleOptimizer: a step whose gradients overflow is skipped and halves
    the factor; GROWTH_STEPS good steps in a row double it. It is a tf.Module so that checkpoints hold its state.
    """

    INITIAL, GROWTH_STEPS = 2.0**15, 2000  # Keras's own

    def __init__(self):
        super().__init__()
        kept = {"trainable": False, "aggregation": tf.VariableAggregation.ONLY_FIRST_REPLICA}
        self.factor = tf.Variable(self.INITIAL, **kept)
        self._good_steps = tf.Variable(0, dtype=tf.int64, **kept)

    def halve(self) -> None:
        """After a step whose gradients overflowed."""
        self.factor.assign(self.factor / 2)
        self._good_steps.assign(0)

    def count_good_step(self) -> None:
        """After any other step; doubles the factor when it is time."""
        grows = self._good_steps + 1 >= self.GROWTH_STEPS
        self.factor.assign(tf.where(grows, self.factor * 2, self.factor))
        self._good_steps.assign(tf.where(grows, tf.constant(0, tf.int64), self._good_steps + 1))


class AdamW(tf.Module):
    """AdamW (Loshchilov & Hutter 2019) with clipping by the global norm; the same numbers as keras.optimizers.AdamW.

    Each dense variable is updated by one fused kernel. Where a gradient names rows (of an embedding table), only these
    rows are updated, their moments and decay included: a batch touches hundreds of a vocabulary's 30,000 rows.

    Args:
        variables: Keras variables to train. Biases and LayerNorm's variables get no weight decay.
        schedule: from step to learning rate.
        weight_decay: decoupled, multiplied by the learning rate.
        rates: what each variable's learning rate is multiplied by; None for 1.
        opens: the step from which each variable is trained; None for 0. Its moments' age counts from there.
        clip_norm: global norm above which gradients are scaled down.
        lazy_rows: False makes the tables' gradients dense, for devices without dynamic shapes (TPU).
        loss_scale: what the loss was multiplied by before its gradients were taken; None for nothing.
        watcher: what sees each update, as bertline.models.methods.method.Watcher; None for nothing.
        anchor: adds L2-SP's part to the gradients, and spares the variables that it holds weight decay; None for none.
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
        rates: list[float] | None = None,
        opens: list[int] | None = None,
        lazy_rows: bool = True,
        loss_scale: LossScale | None = None,
        watcher: Any = None,
        anchor: Anchor | None = None,
    ):
        super().__init__()
        self.variables_ = [variable.value for variable in variables]
        self.step = tf.Variable(0, dtype=tf.int64, aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA)
        self._first = [tf.Variable(tf.zeros(v.shape), trainable=False) for v in self.variables_]
        self._second = [tf.Variable(tf.zeros(v.shape), trainable=False) for v in self.variables_]
        held = anchor.holds if anchor else [False] * len(variables)
        self._decays = [
            0.0 if v.name in _SPARED or is_held else weight_decay for v, is_held in zip(variables, held, strict=True)
        ]
        self._rates = rates or [1.0] * len(variables)
        self._opens = opens or [0] * len(variables)
        self._watcher = watcher
        self._schedule = schedule
        self._clip_norm = clip_norm
        self._lazy_rows = lazy_rows
        self._loss_scale = loss_scale
        self._anchor = anchor

    def apply(self, gradients: list[Gradient], places: Sequence[int] | None = None) -> tf.Tensor:
        """Takes one step. It is called in a replica's context; the replicas' gradients are added up.

        With a loss scale, a step whose gradients are not finite changes no variable but the scale.

        Args:
            gradients: of the variables that are trained in this step.
            places: of these among all variables; None for all of them.

        Returns:
            the gradients' global norm before clipping and without the loss scale, float32 scalar.
        """
        places = range(len(self.variables_)) if places is None else places
        context = tf.distribute.get_replica_context()
        if not self._lazy_rows:
            gradients = [tf.convert_to_tensor(gradient) for gradient in gradients]
        if context.num_replicas_in_sync > 1:
            gradients = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
        gradients = [summed_rows(g) if isinstance(g, tf.IndexedSlices) else g for g in gradients]
        if self._loss_scale:
            gradients = [scaled(gradient, 1 / self._loss_scale.factor) for gradient in gradients]
        if self._anchor:
            gradients = self._anchor.pulled(gradients, places)
        gradients, norm = tf.clip_by_global_norm(gradients, self._clip_norm)
        update = self._update_if_finite if self._loss_scale else self._update_all
        context.merge_call(partial(update, places), args=(gradients, norm))
        return norm

    def _update_if_finite(self, places: Sequence[int], strategy: tf.distribute.Strategy, gradients, norms) -> None:
        def good() -> tf.Tensor:
            self._update_all(places, strategy, gradients, norms)
            self._loss_scale.count_good_step()
            return tf.constant(True)

        def overflowed() -> tf.Tensor:
            self._loss_scale.halve()
            return tf.constant(False)

        norm, *_ = strategy.experimental_local_results(norms)  # the same on all replicas
        tf.cond(tf.math.is_finite(norm), good, overflowed)

    def _update_all(self, places: Sequence[int], strategy: tf.distribute.Strategy, gradients, norms) -> None:
        del norms
        if self._watcher:
            self._watcher.before(strategy, gradients)
        rate = self._schedule(self.step)
        ages = {opens: tf.cast(self.step + 1 - opens, tf.float32) for opens in {self._opens[at] for at in places}}
        powers = {opens: (tf.pow(self.BETA_1, age), tf.pow(self.BETA_2, age)) for opens, age in ages.items()}
        for at, gradient in zip(places, gradients, strict=True):
            own_rate = rate if self._rates[at] == 1 else rate * self._rates[at]
            slots = (gradient, self._first[at], self._second[at], own_rate, powers[self._opens[at]], self._decays[at])
            strategy.extended.update(self.variables_[at], self._update, args=slots)
        self.step.assign_add(1)
        if self._watcher:
            self._watcher.after(strategy, self.step)

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
