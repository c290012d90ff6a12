"""One step of a training, and of its validation, compiled and spread over the devices."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import tensorflow as tf

from bertline.models import dropout
from bertline.models.adversarial import Adversary
from bertline.models.dataset import NO_LABEL, Batches
from bertline.models.distillation import Distillation, OfLabels, SoftTargets
from bertline.models.family import Batch, Classifier
from bertline.models.gradients import Gradient, added, invariant
from bertline.models.methods import Method
from bertline.models.optimizer import AdamW, LossScale
from bertline.models.recipe import TrainOptions
from bertline.models.targets import Target

Rows = dict[str, tf.Tensor]  # a batch, as dataset.Batches gives it
Places = tuple[int, ...]  # of variables among those of the method


class Steps:
    """The compiled steps of a training.

    Args:
        strategy: where they run.
        model: the classifier.
        method: what is trained of it.
        target: the loss.
        options: the recipe.
        optimizer: takes the gradients.
        loss_scale: what the loss is multiplied by for them; None for nothing.
        dtype: of the matrix products.
        distillation: a teacher, from which the model learns too; None for none.
    """

    def __init__(
        self,
        strategy: tf.distribute.Strategy,
        model: Classifier,
        method: Method,
        target: Target,
        options: TrainOptions,
        optimizer: AdamW,
        *,
        loss_scale: LossScale | None,
        dtype: tf.DType,
        distillation: Distillation | SoftTargets | None = None,
    ):
        self._strategy, self._method, self._target = strategy, method, target
        self._options, self._optimizer, self._loss_scale, self._dtype = options, optimizer, loss_scale, dtype
        self._encoder, self._distillation = model.encoder(), distillation
        self._variables = [variable.value for variable in method.variables]
        self.adversary = Adversary(options.adversarial) if options.adversarial else None
        self._hidden = int(method.pack(dtype).words.shape[-1]) if self.adversary else 0  # width of a word's embedding

    def train(self, batches: Batches, places: Places) -> Callable[[Rows, tf.Tensor], tf.Tensor]:
        """A step on a batch with a seed, int64 [2]: [loss x its share, rows, whether it was skipped], float32 [3].

        Args:
            batches: what it is called with.
            places: of the variables that it trains.
        """
        step = partial(self._train_step, places)
        return self._compiled(step, self._summed, batches, tf.TensorSpec([2], tf.int64))

    def evaluate(self, batches: Batches) -> Callable[[Rows], tuple[tf.Tensor, tf.Tensor]]:
        """From a batch to its rows' places in the split, int64 [batch], and logits, float32 [batch, labels]."""
        return self._compiled(self._evaluate_step, self._gathered, batches)

    def seed(self, step: int) -> tf.Tensor:
        """Dropout's seed. It depends only on the run's seed and the step, so a resumed training draws the same."""
        return dropout.step_seed(self._options.seed, step)

    # === Spread over the devices ===

    def _compiled(self, step: Callable, combine: Callable, batches: Batches, *more: tf.TensorSpec) -> Any:
        """One graph for all shapes of a batch, since tracing takes longer than hundreds of steps."""
        spec = self._strategy.experimental_distribute_dataset(batches.ordered()).element_spec

        def distributed(batch, *rest):
            return combine(self._strategy.run(step, args=(batch, *rest)))

        return tf.function(distributed, input_signature=[spec, *more], autograph=False)

    def _summed(self, results: tf.Tensor) -> tf.Tensor:
        """The replicas' results added up."""
        return self._strategy.reduce(tf.distribute.ReduceOp.SUM, results, axis=None)

    def _gathered(self, results: tuple[tf.Tensor, ...]) -> tuple[tf.Tensor, ...]:
        """The replicas' rows one after the other."""
        return tuple(self._strategy.gather(result, axis=0) for result in results)

    # === One replica's part ===

    def _train_step(self, places: Places, batch: Rows, seed: tf.Tensor) -> tf.Tensor:
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        seed += tf.stack([tf.cast(replica, tf.int64), 0])
        gradients_of = self.gradients if self._options.accumulate_steps == 1 else self._accumulated
        loss, gradients = gradients_of(places, batch, seed)
        norm = self._optimizer.apply(gradients, places)
        skipped = ~tf.math.is_finite(norm) if self._loss_scale else tf.constant(False)
        return tf.stack([loss, tf.cast(tf.size(batch["rows"]), tf.float32), tf.cast(skipped, tf.float32)])

    def _accumulated(self, places: Places, batch: Rows, seed: tf.Tensor) -> tuple[tf.Tensor, list[Gradient]]:
        """The same as `gradients`, from parts of the batch one after the other.

        Only one part's activations are held at a time. The rows' shares are those of the whole batch, so the parts'
        losses and gradients add up to the batch's.
        """
        rows, replicas = tf.size(batch["rows"]), self._strategy.num_replicas_in_sync
        size = tf.maximum(-(-rows // self._options.accumulate_steps), 1)

        def part(index: tf.Tensor) -> tuple[tf.Tensor, list[Gradient]]:
            own = {name: column[index * size : (index + 1) * size] for name, column in batch.items()}
            return self.gradients(places, own, seed + tf.stack([tf.cast(index * replicas, tf.int64), 0]))

        def add(index: tf.Tensor, loss: tf.Tensor, sums: list[Gradient]):
            more, gradients = part(index)
            return index + 1, loss + more, [added(*each) for each in zip(sums, gradients, strict=True)]

        # The first part comes before the loop: its result says which gradients name rows.
        start = (tf.constant(1), *part(tf.constant(0)))
        shapes = tf.nest.map_structure(invariant, start)
        _, loss, sums = tf.while_loop(lambda index, *_: index * size < rows, add, start, shapes, parallel_iterations=1)
        return loss, sums

    def gradients(self, places: Places, batch: Rows, seed: tf.Tensor) -> tuple[tf.Tensor, list[Gradient]]:
        """Loss x its share, float32 scalar, and the gradients of the variables at the places, times the loss scale."""
        variables = [self._variables[place] for place in places]
        factor = self._loss_scale.factor if self._loss_scale else 1.0
        if self.adversary:
            real = tf.sequence_mask(batch["lengths"], tf.shape(batch["token_ids"])[1], tf.float32)
            start = seed + tf.constant([0, dropout.PLACES - 1], tf.int64)  # no place with dropout draws by it
            loss, gradients = self.adversary.gradients(
                lambda move: (self._loss(batch, seed, move) + self._penalty(batch)) * factor,
                variables,
                real,
                self._hidden,
                start,
            )
            return loss / factor - self._penalty(batch), gradients
        # Only what depends on a trained variable is kept for the gradients: below the lowest of them, nothing.
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(variables)
            loss = self._loss(batch, seed)
            large = (loss + self._penalty(batch)) * factor
        return loss, tape.gradient(large, variables)

    def _penalty(self, batch: Rows) -> tf.Tensor | float:
        """What the method adds to the loss that is minimised; all rows' shares make 1, so it counts once in a step."""
        penalty = self._method.penalty()
        return 0.0 if penalty is None else penalty * tf.reduce_sum(batch["shares"])

    def _loss(self, batch: Rows, seed: tf.Tensor, move: tf.Tensor | None = None) -> tf.Tensor:
        """The batch's loss x its share, float32 scalar, with the word embeddings moved."""
        labels, weight = batch["labels"], self._options.r_drop
        if isinstance(self._distillation, SoftTargets):
            logits = self._logits(batch, seed)
            losses = self._distillation.losses(self._of_labels(labels, logits), logits, batch["rows"])
        elif self._distillation:
            rows = Batch(batch["token_ids"], batch.get("segment_ids"), batch["lengths"])
            logits, states = self._encoder.logits_and_states(self._method.pack(self._dtype), rows, seed)
            losses = self._distillation.losses(self._of_labels(labels, logits), logits, states, rows)
        elif not weight:
            losses = self._target.losses(labels, self._logits(batch, seed, move))
        else:
            # R-Drop. Each row stands in the batch twice, as the paper's authors have it, and gets two draws of dropout.
            # This is half of the paper's sum, so that the rate and the clipping mean what they mean without it.
            twice = {
                name: tf.concat([batch[name]] * 2, 0)
                for name in ("token_ids", "segment_ids", "lengths")
                if name in batch
            }
            one, other = tf.split(self._logits(twice, seed), 2)
            losses = (self._target.losses(labels, one) + self._target.losses(labels, other)) / 2
            losses += weight / 4 * self._target.divergences(one, other)
        return tf.reduce_sum(losses * batch["shares"])

    def _of_labels(self, labels: tf.Tensor, logits: tf.Tensor) -> OfLabels:
        """What a student's answers lose against the labels of its rows, of which some have none."""
        first = labels if labels.shape.rank == 1 else labels[:, 0]
        labelled = first != NO_LABEL
        return OfLabels(self._target.losses(tf.maximum(labels, 0), logits), labelled)

    def _evaluate_step(self, batch: Rows) -> tuple[tf.Tensor, tf.Tensor]:
        return batch["rows"], self._logits(batch, None)

    def _logits(self, batch: Rows, seed: tf.Tensor | None, move: tf.Tensor | None = None) -> tf.Tensor:
        rows = Batch(batch["token_ids"], batch.get("segment_ids"), batch["lengths"], move)
        return self._encoder.logits(self._method.pack(self._dtype), rows, seed)
