"""Fine-tuning: the loop over epochs and steps, and its early stopping."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from bertline.errors import UserError
from bertline.models import averages, divergence, hardware, methods, targets
from bertline.models.anchor import Anchor
from bertline.models.checkpoints import Checkpoints
from bertline.models.dataset import Batches, Rows
from bertline.models.distillation import Distillation, SoftTargets
from bertline.models.family import Classifier
from bertline.models.history import Epoch, History, Progress
from bertline.models.optimizer import AdamW, LossScale, Schedule
from bertline.models.recipe import TrainOptions
from bertline.models.steps import Steps

_EVALUATION_BATCH = 64  # no gradients are kept, and larger batches are no faster on a CPU
REPORT_SECONDS = 0.5  # between two progress events


class Trained(NamedTuple):
    """What training leaves."""

    model: Classifier  # with the weights of its best epoch, on the chief
    history: History
    validation_logits: np.ndarray  # that epoch's, float32 [rows, labels], in the order of the split


def fit(
    build: Callable[[], Classifier],
    train: Rows,
    validation: Rows,
    options: TrainOptions,
    *,
    checkpoints: str | Path,
    logs: Path | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    on_epoch: Callable[[History], None] = lambda history: None,
    strategy: tf.distribute.Strategy | None = None,
    adapter: Path | None = None,
    keep_end: bool = False,
    distillation: Distillation | SoftTargets | None = None,
) -> Trained:
    """Fine-tunes a classifier and leaves it with the weights of its best epoch, the one with the least validation loss.

    A training that was killed goes on from the last checkpoint in `checkpoints`, and ends as if it had never stopped.

    With several workers each one calls this with the same rows, and trains on its part of each batch. So the batch
    size, the learning rate and the losses are those of one device. When a worker is lost, the others stop with an
    error. All go on from the checkpoint when they are started again.

    Args:
        build: makes the classifier with its initial weights; called inside the distribution strategy's scope.
        train: rows to train on.
        validation: rows that choose the best epoch.
        options: the recipe.
        checkpoints: folder, local or remote (gs://), for the checkpoints of this training only. The caller removes it
            when the model is safe.
        logs: folder for TensorBoard's scalars; None writes none.
        on_progress: called about twice a second.
        on_epoch: called after each epoch, and what it raises ends the training.
        strategy: from `hardware.strategy`; None makes the recipe's, which is too late for multi_worker.
        adapter: file (.npz) for the factors of lora and adalora, as Method.finish gives them; None keeps them only
            merged.
        keep_end: the end of the training is a checkpoint too. Called again, this then restores the model at once.
        distillation: a teacher, from which the model learns too; None for none. Validation is by the labels alone.

    Raises:
        UserError: a split is empty, or the loss or the gradients are no longer numbers.
    """
    for name, rows in (("training", train), ("validation", validation)):
        if not len(rows):
            raise UserError(f"the {name} split has no rows; give it a larger share or more data")
    started = time.perf_counter()
    keras.utils.set_random_seed(options.seed)
    strategy = strategy or hardware.strategy(options.distribution)
    chief = hardware.is_chief(strategy)
    with strategy.scope():
        run = Run(strategy, build(), train, validation, options, checkpoints, distillation)
    run.restore()
    earlier = run.history.wall_seconds
    writer = tf.summary.create_file_writer(str(logs)) if logs and chief else tf.summary.create_noop_writer()
    while not run.finished:
        run.train_epoch(lambda: earlier + time.perf_counter() - started, on_progress)
        run.end_epoch(earlier + time.perf_counter() - started, keep_end=keep_end)
        _write_scalars(writer, run.history)
        on_epoch(run.history)
    if chief:  # only it keeps the model, and then removes the checkpoints, which a slower worker could still be reading
        run.restore_best()
        run.finish(adapter)
    run.history.wall_seconds = earlier + time.perf_counter() - started
    return Trained(run.model, run.history, run.best_logits.numpy())


class Run:
    """The state of a training: model, optimizer, averages and history. Checkpoints hold all of it."""

    def __init__(
        self,
        strategy: tf.distribute.Strategy,
        model: Classifier,
        train: Rows,
        validation: Rows,
        options: TrainOptions,
        folder: str | Path,
        distillation: Distillation | SoftTargets | None = None,
    ):
        self.model = model
        self._strategy = strategy
        rate_key = "compress.distill.learning_rate" if distillation else "train.learning_rate"
        self._way_out = divergence.lower(rate_key, options.learning_rate, "train.clip_norm")
        self._options = options
        self._target = targets.of(
            train.labels[train.labelled],
            model.num_classes,
            balanced=options.class_weights == "balanced",
            smoothing=options.label_smoothing,
        )
        self.batches = Batches(train, options.batch_size, self._target.row_weights)
        self._validation = Batches(validation, _EVALUATION_BATCH, self._target.row_weights)
        dtype = hardware.compute_dtype(options.precision)
        self.method = methods.choose(model, options, methods.Length(options.epochs, self.batches.steps))
        self._variables = [variable.value for variable in self.method.variables]
        self.steps = self.batches.steps * options.epochs
        # Only float16 uses it. Each checkpoint has it, so that a training can go on where the hardware asks for another
        # dtype.
        scale = LossScale()
        self._loss_scale = scale if dtype == tf.float16 else None
        self.anchor = Anchor(self.method.variables, model.pretrained, options.l2_sp) if options.l2_sp else None
        optimizer = self._optimizer()
        weights = sum(int(variable.value.shape.num_elements()) for variable in model.variables)
        self.history = History(precision=dtype.name, weights=weights, trained_weights=self.method.weights)
        # They are part of the checkpoints, so that no epoch is validated twice.
        self.best_logits = tf.Variable(tf.zeros([len(validation), model.num_classes]), trainable=False)
        self._average = averages.of(self._variables, options.average)
        self._checkpoints = Checkpoints(
            folder,
            strategy,
            self._variables,
            self.history,
            optimizer=optimizer,
            loss_scale=scale,
            best_logits=self.best_logits,
            method=tf.train.Checkpoint(**self.method.state),
            **({"average": self._average} if self._average else {}),
        )
        self.compiled = Steps(
            strategy,
            model,
            self.method,
            self._target,
            options,
            optimizer,
            loss_scale=self._loss_scale,
            dtype=dtype,
            distillation=distillation,
        )
        # One for each set of variables that are trained together: a method may open more of them as it goes on.
        self._train_functions = {
            open_: self.compiled.train(self.batches, open_)
            for open_ in {self.method.open_at(step) for step in {0, *self.method.opens}}
        }
        self._evaluate_function = self.compiled.evaluate(self._validation)

    def _optimizer(self) -> AdamW:
        options = self._options
        return AdamW(
            self.method.variables,
            Schedule(options.learning_rate, self.steps, options.warmup_share),
            weight_decay=options.weight_decay,
            clip_norm=options.clip_norm,
            rates=self.method.rates,
            opens=self.method.opens,
            lazy_rows=not isinstance(self._strategy, tf.distribute.TPUStrategy),
            loss_scale=self._loss_scale,
            watcher=self.method.watcher,
            anchor=self.anchor,
        )

    # === Checkpoints ===

    def restore(self) -> None:
        """Restores the last checkpoint, if there is one."""
        precision = self.history.precision
        if self._checkpoints.restore():
            self.history.precision = precision
            if not self.finished:
                self.history.resumed_at.append(self.history.step)

    def save(self, wall_seconds: float) -> None:
        """Writes a checkpoint. Whenever the process is killed, this one or the one before is complete."""
        self.history.wall_seconds = wall_seconds
        self._checkpoints.save(self.history.step)

    def restore_best(self) -> None:
        """Gives the model the weights of its best epoch, averaged where the recipe says so."""
        if self.history.stale_epochs():
            self._checkpoints.read_weights(self.history.best_epoch)
        elif self._average:
            averages.assign(self._variables, self._average.values())

    def finish(self, file: Path | None) -> None:
        """Makes what the method added part of the model, and writes into the file what is kept apart of it."""
        self.history.ranks = self.method.ranks()
        kept = self.method.finish()
        if kept and file:
            file.parent.mkdir(parents=True, exist_ok=True)
            np.savez(file, **kept)

    # === Epochs ===

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or the last ones were no better and the method allows to stop."""
        done, stale = len(self.history.epochs), self.history.stale_epochs() >= self._options.patience
        return done >= self._options.epochs or (done > 0 and stale and self.history.updates >= self.method.settled)

    def train_epoch(self, clock: Callable[[], float], on_progress: Callable[[Progress], None]) -> None:
        """Trains to the end of the epoch under way."""
        history, options = self.history, self._options
        epoch = len(history.epochs)
        batches = self.batches.shuffled(options.seed, epoch, skip=history.step - epoch * self.batches.steps)
        reported = 0.0
        for batch in self._strategy.experimental_distribute_dataset(batches):
            self.train_on(batch)
            if time.perf_counter() - reported > REPORT_SECONDS:
                reported = time.perf_counter()
                on_progress(self.history.progress(self._options.epochs, self.steps, self._options.batch_size))
            if history.step % options.checkpoint_steps == 0 and history.step % self.batches.steps:
                self.save(clock())
        on_progress(self.history.progress(self._options.epochs, self.steps, self._options.batch_size))

    def train_on(self, batch: dict[str, tf.Tensor]) -> None:
        """Takes one step on a batch, and counts it in the history."""
        history = self.history
        function = self._train_functions[self.method.open_at(history.updates)]
        traced = function.experimental_get_tracing_count()
        begun = time.perf_counter()
        loss, rows, skipped = function(batch, self.compiled.seed(history.step)).numpy()
        seconds = time.perf_counter() - begun
        divergence.check(
            loss,
            skipped=bool(skipped),
            loss_scale=self._loss_scale,
            place=f"at step {history.step + 1} of {self.steps}",
            way_out=self._way_out,
        )
        history.add_step(float(loss), int(rows), skipped=bool(skipped), seconds=seconds if traced else None)
        if self._average and not skipped:
            self._average.after_step(history.step, last=history.step % self.batches.steps == 0)

    def end_epoch(self, wall_seconds: float, *, keep_end: bool = False) -> None:
        """Validates, adds the epoch to the history, and keeps its weights if they are the best."""
        with averages.averaged(self._variables, self._average):
            epoch, previous = self._validated()
            better = self.history.best_epoch == epoch
            if better and not self.finished:  # else they are safe with the Trainer's outputs in a moment
                self._checkpoints.write_weights(epoch)
        if self.finished and not keep_end:
            return
        self.save(wall_seconds)
        if better and previous:
            self._checkpoints.remove_weights(previous)

    def _validated(self) -> tuple[int, int]:
        """Adds the epoch's figures to the history: its number, and that of the epoch that was the best before."""
        history = self.history
        logits = self._evaluate()
        loss, accuracy = targets.figures(self._target, self._validation.rows.labels, logits)
        epoch, previous = len(history.epochs) + 1, history.best_epoch
        divergence.check_validation(loss, epoch=epoch, way_out=self._way_out)
        better = not history.epochs or loss < history.best.validation_loss
        history.epochs.append(Epoch(epoch, history.loss_sum / history.rows, loss, accuracy))
        history.loss_sum, history.rows = 0.0, 0
        if better:
            history.best_epoch = epoch
            self.best_logits.assign(logits)
        return epoch, previous

    def _evaluate(self) -> np.ndarray:
        """Logits of the validation rows, float32 [rows, labels], in the order of the split."""
        all_logits = np.empty(self.best_logits.shape, np.float32)
        for batch in self._strategy.experimental_distribute_dataset(self._validation.ordered()):
            rows, logits = self._evaluate_function(batch)
            all_logits[rows.numpy()] = logits.numpy()
        return all_logits


def _write_scalars(writer: tf.summary.SummaryWriter, history: History) -> None:
    epoch = history.epochs[-1]
    with writer.as_default(step=epoch.epoch):
        tf.summary.scalar("loss/train", epoch.train_loss)
        tf.summary.scalar("loss/validation", epoch.validation_loss)
        tf.summary.scalar("accuracy/validation", epoch.validation_accuracy)
        tf.summary.scalar("examples_per_second", history.examples_per_second)
    writer.flush()
