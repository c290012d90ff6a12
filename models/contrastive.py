"""Contrastive fine-tuning: the encoder learns which rows belong together, then a logistic regression on it the labels.

Two stages, as in SetFit (Tunstall et al., "Efficient Few-Shot Learning Without Prompts", 2022), for rows so few that a
head alone learns little. The loss is the supervised contrastive one (Khosla et al., "Supervised Contrastive Learning",
NeurIPS 2020, their L_out): SetFit's pairs teach two vectors at a time, and here each row of a batch is pulled to those
of its label and away from all others at once. That suits many labels.

A step draws some labels and a few rows of each, by the seed and the step alone: nothing as long as the list of all
pairs is ever made, and a training that was interrupted draws the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from bertline.errors import UserError
from bertline.models import divergence, dropout, hardware, methods, probe, training
from bertline.models.checkpoints import Checkpoints
from bertline.models.dataset import Batches, Rows, padded_length
from bertline.models.family import Batch, Classifier
from bertline.models.optimizer import AdamW, LossScale, Schedule
from bertline.models.recipe import TrainOptions

_EMBEDDING_BATCH = 64
ROWS_OF_A_LABEL = 2  # in a step, where there are labels enough: more labels give each row more others to tell it from


def fit(
    build: Callable[[], Classifier],
    train: Rows,
    validation: Rows,
    options: TrainOptions,
    *,
    checkpoints: str | Path,
    logs: Path | None = None,
    on_progress: Callable[[training.Progress], None] = lambda progress: None,
    on_epoch: Callable[[training.History], None] = lambda history: None,
) -> training.Trained:
    """Fine-tunes a classifier on one device; arguments and errors as those of `training.fit`.

    After each epoch a probe is fitted on the training rows' vectors. The epoch whose probe has the least validation
    loss is kept, with its probe as the head.

    Raises:
        UserError: a split is empty, fewer than two labels have rows, or loss or gradients are no longer numbers.
    """
    for name, rows in (("training", train), ("validation", validation)):
        if not len(rows):
            raise UserError(f"the {name} split has no rows; give it a larger share or more data")
    started = time.perf_counter()
    keras.utils.set_random_seed(options.seed)
    run = _Run(build(), train, validation, options, str(checkpoints))
    run.restore()
    earlier = run.history.wall_seconds
    writer = tf.summary.create_file_writer(str(logs)) if logs else tf.summary.create_noop_writer()

    def clock() -> float:
        return earlier + time.perf_counter() - started

    while not run.finished:
        run.train_epoch(clock, on_progress)
        run.end_epoch(clock())
        epoch = run.history.epochs[-1]
        with writer.as_default(step=epoch.epoch):
            tf.summary.scalar("loss/contrastive", epoch.train_loss)
            tf.summary.scalar("loss/validation", epoch.validation_loss)
            tf.summary.scalar("accuracy/validation", epoch.validation_accuracy)
        on_epoch(run.history)
    logits = run.take_best()
    run.history.wall_seconds = clock()
    return training.Trained(run.model, run.history, logits)


def loss(vectors: tf.Tensor, labels: tf.Tensor, temperature: float) -> tf.Tensor:
    """The mean supervised contrastive loss of a batch, float32 scalar.

    Args:
        vectors: float32 [rows, hidden]; they are scaled to length 1 here.
        labels: int [rows]; of each that is there, at least two rows.
        temperature: what the cosines are divided by.
    """
    unit = tf.math.l2_normalize(vectors, axis=-1)
    others = 1.0 - tf.eye(tf.shape(labels)[0])
    scores = tf.matmul(unit, unit, transpose_b=True) / temperature - 1e9 * (1.0 - others)
    shares = scores - tf.reduce_logsumexp(scores, axis=1, keepdims=True)
    same = tf.cast(labels[:, None] == labels[None], tf.float32) * others
    return -tf.reduce_mean(tf.reduce_sum(shares * same, axis=1) / tf.reduce_sum(same, axis=1))


class Draws:
    """The rows of each step.

    Args:
        labels: int [rows].
        batch_size: rows in a step.
        seed: with the step it decides on the rows.

    Raises:
        UserError: rows have several labels, or all the same one.
    """

    def __init__(self, labels: np.ndarray, batch_size: int, seed: int):
        if labels.ndim != 1:
            raise UserError(
                "train.method: contrastive: rows with several labels cannot be trained so; use full or lora"
            )
        self._places = [np.flatnonzero(labels == label) for label in np.unique(labels)]
        self._labels = min(len(self._places), max(batch_size // ROWS_OF_A_LABEL, 2))
        self._of_each = max(batch_size // self._labels, ROWS_OF_A_LABEL)
        self._seed = seed
        self.steps = -(-len(labels) // batch_size)  # of an epoch: as many as show all rows once
        if len(self._places) < 2:
            raise UserError("train.method: contrastive: all training rows have one label; it takes two to tell apart")

    def __call__(self, step: int) -> np.ndarray:
        """The places of the step's rows, int64 [about batch_size].

        A label with too few rows gives some of them twice. Dropout makes two vectors of them (Gao, Yao and Chen,
        "SimCSE", EMNLP 2021).
        """
        generator = np.random.default_rng([self._seed & 0xFFFFFFFF, step])
        drawn = generator.choice(len(self._places), self._labels, replace=False)
        return np.concatenate([self._of(self._places[label], generator) for label in drawn])

    def _of(self, places: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        return generator.choice(places, self._of_each, replace=len(places) < self._of_each)


class _Run:
    """The state of a training: model, optimizer, history, and the checkpoints that hold them."""

    def __init__(self, model: Classifier, train: Rows, validation: Rows, options: TrainOptions, folder: str):
        self.model, self._options = model, options
        self._train, self._validation = train, validation
        self._way_out = divergence.lower("train.learning_rate", options.learning_rate, "train.clip_norm")
        self._dtype = hardware.compute_dtype(options.precision)
        self._encoder = model.encoder()
        self._draws = Draws(train.labels, options.batch_size, options.seed)
        self.steps = self._draws.steps * options.epochs
        method = methods.choose(model, options, methods.Length(options.epochs, self._draws.steps))
        self._variables = [variable.value for variable in method.variables]
        scale = LossScale()
        self._loss_scale = scale if self._dtype == tf.float16 else None
        self._optimizer = AdamW(
            method.variables,
            Schedule(options.learning_rate, self.steps, options.warmup_share),
            weight_decay=options.weight_decay,
            clip_norm=options.clip_norm,
            rates=method.rates,
            loss_scale=self._loss_scale,
        )
        count = sum(int(variable.value.shape.num_elements()) for variable in model.variables)
        self.history = training.History(precision=self._dtype.name, weights=count, trained_weights=method.weights)
        one_device = tf.distribute.get_strategy()
        self._checkpoints = Checkpoints(
            folder, one_device, self._variables, self.history, optimizer=self._optimizer, loss_scale=scale
        )

    # === Checkpoints ===

    def restore(self) -> None:
        """Restores the last checkpoint, if there is one."""
        if self._checkpoints.restore():
            self.history.precision = self._dtype.name
            self.history.resumed_at.append(self.history.step)

    def save(self, wall_seconds: float) -> None:
        """Writes a checkpoint. Whenever the process is killed, this one or the one before is complete."""
        self.history.wall_seconds = wall_seconds
        self._checkpoints.save(self.history.step)

    def take_best(self) -> np.ndarray:
        """Gives the model the best epoch's encoder and its probe as the head; the validation rows' logits."""
        if self.history.stale_epochs():
            self._checkpoints.read_weights(self.history.best_epoch)
        fitted, logits = self._probe(self.history.best_epoch)
        self.model.set_head(fitted.kernel, fitted.bias)
        return logits

    # === Epochs ===

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or the last ones were no better."""
        done = len(self.history.epochs)
        return done >= self._options.epochs or (done > 0 and self.history.stale_epochs() >= self._options.patience)

    def train_epoch(self, clock: Callable[[], float], on_progress: Callable[[training.Progress], None]) -> None:
        """Trains to the end of the epoch under way."""
        history, reported = self.history, 0.0
        end = (len(history.epochs) + 1) * self._draws.steps
        while history.step < end:
            self._take_step()
            if time.perf_counter() - reported > training.REPORT_SECONDS or history.step == end:
                reported = time.perf_counter()
                on_progress(self.history.progress(self._options.epochs, self.steps, self._options.batch_size))
            if history.step % self._options.checkpoint_steps == 0 and history.step < end:
                self.save(clock())

    def _take_step(self) -> None:
        history = self.history
        rows = self._train.take(self._draws(history.step))
        traced = self._step.experimental_get_tracing_count()
        begun = time.perf_counter()
        seed = dropout.step_seed(self._options.seed, history.step)
        value, skipped = (float(each) for each in self._step(*_padded(rows), tf.constant(rows.labels), seed))
        seconds = time.perf_counter() - begun
        divergence.check(
            value,
            skipped=bool(skipped),
            loss_scale=self._loss_scale,
            place=f"at step {history.step + 1} of {self.steps}",
            way_out=self._way_out,
        )
        history.add_step(value, len(rows), skipped=bool(skipped), seconds=seconds if traced else None)

    def end_epoch(self, wall_seconds: float) -> None:
        """Fits a probe, adds the epoch to the history, and keeps its encoder if the probe is the best."""
        history = self.history
        number = len(history.epochs) + 1
        fitted, _ = self._probe(number)
        epoch = training.Epoch(
            number, history.loss_sum / history.rows, fitted.validation_loss, fitted.validation_accuracy
        )
        better = not history.epochs or epoch.validation_loss < history.best.validation_loss
        history.epochs.append(epoch)
        history.loss_sum, history.rows = 0.0, 0
        previous, history.best_epoch = history.best_epoch, number if better else history.best_epoch
        if better:
            self._checkpoints.write_weights(number)
        self.save(wall_seconds)
        if better and previous:
            self._checkpoints.remove_weights(previous)

    def _probe(self, epoch: int) -> tuple[probe.Probe, np.ndarray]:
        """The probe on the encoder as it is after an epoch, and its logits of the validation rows.

        Raises:
            UserError: the vectors are no longer numbers.
        """
        train, validation = (
            probe.LabelledFeatures(self._features(r), r.labels) for r in (self._train, self._validation)
        )
        total = float(validation.features.sum())
        divergence.check_validation(
            total, what="sum of the validation rows' vectors", epoch=epoch, way_out=self._way_out
        )
        balanced = self._options.class_weights == "balanced"
        fitted = probe.fit(train, validation, self.model.num_classes, balanced=balanced)
        return fitted, fitted.logits(validation.features)

    def _features(self, rows: Rows) -> np.ndarray:
        """What the head reads of rows, float32 [rows, hidden], in the order of the split."""
        features = np.empty((len(rows), self.model.output_dense.kernel.shape[0]), np.float32)
        for batch in Batches(rows, _EMBEDDING_BATCH).ordered():
            ids = batch["token_ids"]
            segments = batch.get("segment_ids", tf.zeros_like(ids))
            features[batch["rows"].numpy()] = self._embed(ids, segments, batch["lengths"]).numpy()
        return features

    # === Graphs: one for all shapes of a batch ===

    @cached_property
    def _step(self) -> tf.types.experimental.GenericFunction:
        """A step: token ids, segment ids, lengths, labels and seed to the loss and whether it was skipped."""
        ids, rows = tf.TensorSpec([None, None], tf.int32), tf.TensorSpec([None], tf.int32)
        signature = [ids, ids, rows, rows, tf.TensorSpec([2], tf.int64)]
        return tf.function(self._trained_on, input_signature=signature, autograph=False)

    def _trained_on(self, ids, segments, lengths, labels, seed) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(self._variables)
            batch = Batch(ids, segments, lengths)
            vectors = self._encoder.vectors(self.model.packed(self._dtype), batch, seed)
            value = loss(vectors, labels, self._options.contrastive.temperature)
            large = value * self._loss_scale.factor if self._loss_scale else value
        norm = self._optimizer.apply(tape.gradient(large, self._variables))
        skipped = ~tf.math.is_finite(norm) if self._loss_scale else tf.constant(False)
        return value, tf.cast(skipped, tf.float32)

    @cached_property
    def _embed(self) -> tf.types.experimental.GenericFunction:
        """Token ids, segment ids and lengths to what the head reads."""
        ids = tf.TensorSpec([None, None], tf.int32)

        def features(ids, segments, lengths):
            weights = self.model.packed(self._dtype)
            return self._encoder.pooling.features(self._encoder.vectors(weights, Batch(ids, segments, lengths)))

        signature = [ids, ids, tf.TensorSpec([None], tf.int32)]
        return tf.function(features, input_signature=signature, autograph=False)


def _padded(rows: Rows) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Token ids and segment ids, int32 [rows, tokens], and lengths, int32 [rows]."""
    shape = [None, padded_length(rows.lengths.max())]
    ids = rows.token_ids.to_tensor(shape=shape)
    segments = tf.zeros_like(ids) if rows.segment_ids is None else rows.segment_ids.to_tensor(shape=shape)
    return ids, segments, tf.cast(rows.lengths, tf.int32)
