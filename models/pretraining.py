"""Further pre-training as a masked language model, on texts of the task's own kind.

Gururangan et al., "Don't Stop Pretraining: Adapt Language Models to Domains and Tasks", ACL 2020. It is BERT's masked
language model without the next-sentence task; masks are drawn anew in each epoch. Batches, optimizer, precision,
checkpoints and history are those of fine-tuning.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from bertline.models import divergence, dropout, hardware, training
from bertline.models.bert.masked_lm import MaskedLm
from bertline.models.checkpoints import Checkpoints
from bertline.models.dataset import Batches, Rows
from bertline.models.family import Batch
from bertline.models.history import Epoch, History, Progress
from bertline.models.masking import Masking
from bertline.models.optimizer import AdamW, LossScale, Schedule
from bertline.models.recipe import Precision, PretrainOptions

# Added to the seeds of masks, so that they are no dropout's; dropout's differ by multiples of 1,000,003.
_MASKS, _HELD_OUT_MASKS = 1, 2


class Pretrained(NamedTuple):
    """What pre-training says of itself.

    Attributes:
        before: loss and accuracy on the held-out texts before the first step; its epoch is 0.
        history: the epochs; accuracy is the share of the chosen tokens that are predicted rightly.
    """

    before: Epoch
    history: History


def fit(
    masked: MaskedLm,
    masking: Masking,
    train: Rows,
    held_out: Rows,
    options: PretrainOptions,
    *,
    precision: Precision,
    checkpoints: str | Path,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Pretrained:
    """Trains a network to predict masked tokens, and leaves it with the weights of the last step.

    A training that was killed goes on from the last checkpoint, and ends as if it had never stopped.

    Args:
        masked: the network and its head.
        masking: how tokens are masked.
        train: texts to train on; their labels do not matter.
        held_out: texts that show the loss. Their masks are the same after each epoch.
        options: the recipe.
        precision: of the matrix products.
        checkpoints: folder, local or remote, of this training only. The caller removes it when the network is safe.
        on_progress: called about twice a second.

    Raises:
        UserError: the loss or the gradients are no longer numbers.
    """
    started = time.perf_counter()
    run = _Run(masked, masking, train, held_out, options, hardware.compute_dtype(precision), checkpoints)
    before = run.evaluate(0)
    run.restore()
    earlier = run.history.wall_seconds
    while not run.finished:
        run.train_epoch(lambda: earlier + time.perf_counter() - started, on_progress)
    run.history.wall_seconds = earlier + time.perf_counter() - started
    return Pretrained(before, run.history)


class _Run:
    """The state of a pre-training."""

    def __init__(
        self,
        masked: MaskedLm,
        masking: Masking,
        train: Rows,
        held_out: Rows,
        options: PretrainOptions,
        dtype: tf.DType,
        folder: str | Path,
    ):
        self._masked, self._masking, self._options, self._dtype = masked, masking, options, dtype
        self._way_out = divergence.lower("pretrain.learning_rate", options.learning_rate, "pretrain.clip_norm")
        self._batches = Batches(train, options.batch_size)
        self._held_out = Batches(held_out, options.batch_size)
        self.steps = self._batches.steps * options.epochs
        if options.steps:
            self.steps = min(self.steps, options.steps)
        scale = LossScale()  # each checkpoint has it, whatever the dtype
        self._loss_scale = scale if dtype == tf.float16 else None
        self._optimizer = AdamW(
            masked.variables,
            Schedule(options.learning_rate, self.steps, options.warmup_share),
            weight_decay=options.weight_decay,
            clip_norm=options.clip_norm,
            loss_scale=self._loss_scale,
        )
        self._variables = [variable.value for variable in masked.variables]
        weights = sum(int(variable.shape.num_elements()) for variable in self._variables)
        self.history = History(precision=dtype.name, weights=weights, trained_weights=weights)
        self._checkpoints = Checkpoints(
            folder,
            tf.distribute.get_strategy(),
            self._variables,
            self.history,
            optimizer=self._optimizer,
            loss_scale=scale,
        )
        spec = [self._batches.ordered().element_spec, tf.TensorSpec([2], tf.int64)]
        self._train_step = tf.function(self._step, input_signature=spec, autograph=False)
        self._judge = tf.function(self._judged, input_signature=spec, autograph=False)

    def restore(self) -> None:
        """Restores the last checkpoint, if there is one."""
        if self._checkpoints.restore():
            self.history.precision = self._dtype.name
            self.history.resumed_at.append(self.history.step)

    @property
    def finished(self) -> bool:
        """Whether the last step is taken and its epoch judged; a checkpoint can stand between the two."""
        return self.history.step >= self.steps and not self.history.rows

    def train_epoch(self, clock: Callable[[], float], on_progress: Callable[[Progress], None]) -> None:
        """Trains to the end of the epoch under way, or to the last step, and judges the held-out texts."""
        history, epoch = self.history, len(self.history.epochs)
        batches = self._batches.shuffled(self._options.seed, epoch, skip=history.step - epoch * self._batches.steps)
        reported = 0.0
        for batch in batches.take(self.steps - history.step):
            self._train_on(batch)
            if time.perf_counter() - reported > training.REPORT_SECONDS:
                reported = time.perf_counter()
                on_progress(self.history.progress(self._options.epochs, self.steps, self._options.batch_size))
            if history.step % self._options.checkpoint_steps == 0 and history.step % self._batches.steps:
                self._save(clock())
        on_progress(self.history.progress(self._options.epochs, self.steps, self._options.batch_size))
        judged = self.evaluate(epoch + 1)
        what = "loss of pre-training on the held-out texts"
        divergence.check_validation(judged.validation_loss, what=what, epoch=epoch + 1, way_out=self._way_out)
        judged.train_loss = history.loss_sum / history.rows
        history.epochs.append(judged)
        history.best_epoch = judged.epoch
        history.loss_sum, history.rows = 0.0, 0
        if not self.finished:
            self._save(clock())

    def evaluate(self, epoch: int) -> Epoch:
        """Loss and accuracy over the chosen tokens of the held-out texts."""
        sums = np.zeros(3)
        for number, batch in enumerate(self._held_out.ordered()):
            seed = dropout.step_seed(self._options.seed, number, _HELD_OUT_MASKS)
            sums += self._judge(batch, seed).numpy()
        loss, right, chosen = sums
        return Epoch(epoch, math.nan, float(loss / max(chosen, 1)), float(right / max(chosen, 1)))

    def _save(self, wall_seconds: float) -> None:
        self.history.wall_seconds = wall_seconds
        self._checkpoints.save(self.history.step)

    def _train_on(self, batch: dict[str, tf.Tensor]) -> None:
        history = self.history
        traced = self._train_step.experimental_get_tracing_count()
        begun = time.perf_counter()
        loss, rows, skipped = self._train_step(batch, dropout.step_seed(self._options.seed, history.step)).numpy()
        seconds = time.perf_counter() - begun
        divergence.check(
            loss,
            skipped=bool(skipped),
            loss_scale=self._loss_scale,
            place=f"of pre-training at step {history.step + 1} of {self.steps}",
            way_out=self._way_out,
        )
        history.add_step(float(loss), int(rows), skipped=bool(skipped), seconds=seconds if traced else None)

    # === Steps ===

    def _step(self, batch: dict[str, tf.Tensor], seed: tf.Tensor) -> tf.Tensor:
        """[mean loss of the chosen tokens, rows, whether it was skipped], float32 [3]."""
        drawn = self._masking(batch["token_ids"], batch["lengths"], seed + tf.constant([_MASKS, 0], tf.int64))
        rows = Batch(drawn.token_ids, None, batch["lengths"])
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(self._variables)
            losses, _ = self._masked.losses(rows, drawn.chosen, batch["token_ids"], self._dtype, seed)
            loss = tf.reduce_sum(losses) / tf.maximum(tf.cast(tf.size(losses), tf.float32), 1.0)
            large = loss * self._loss_scale.factor if self._loss_scale else loss
        norm = self._optimizer.apply(tape.gradient(large, self._variables))
        skipped = ~tf.math.is_finite(norm) if self._loss_scale else tf.constant(False)
        return tf.stack([loss, tf.cast(tf.size(batch["rows"]), tf.float32), tf.cast(skipped, tf.float32)])

    def _judged(self, batch: dict[str, tf.Tensor], seed: tf.Tensor) -> tf.Tensor:
        """[sum of the chosen tokens' losses, how many are predicted rightly, how many there are], float32 [3]."""
        drawn = self._masking(batch["token_ids"], batch["lengths"], seed)
        rows = Batch(drawn.token_ids, None, batch["lengths"])
        losses, right = self._masked.losses(rows, drawn.chosen, batch["token_ids"], self._dtype, None)
        sums = (tf.reduce_sum(losses), tf.reduce_sum(tf.cast(right, tf.float32)), tf.cast(tf.size(losses), tf.float32))
        return tf.stack(sums)
