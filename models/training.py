"""Fine-tuning: the loop, its checkpoints and its early stopping."""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from bertline.errors import UserError
from bertline.models import hardware, methods, targets
from bertline.models.dataset import Batches, Rows
from bertline.models.family import DROPOUT_PLACES, Batch, Classifier
from bertline.models.optimizer import AdamW, LossScale, Schedule
from bertline.models.recipe import TrainOptions

_EVALUATION_BATCH = 64  # no gradients are kept, and larger batches are no faster on a CPU
REPORT_SECONDS = 0.5  # between two progress events
Gradient = tf.Tensor | tf.IndexedSlices
Places = tuple[int, ...]  # of variables among those of the method


@dataclass(frozen=True)
class Progress:
    """Where training stands."""

    epoch: int  # from 1
    epochs: int
    step: int  # of all steps
    steps: int
    loss: float  # mean over the epoch so far
    examples_per_second: float
    seconds_left: float  # if all epochs are run


@dataclass
class Epoch:
    """The figures of one pass over the training rows."""

    epoch: int  # from 1
    train_loss: float
    validation_loss: float
    validation_accuracy: float


@dataclass
class History:
    """How training went. Checkpoints hold it beside the tensors."""

    epochs: list[Epoch] = field(default_factory=list)
    best_epoch: int = 0  # from 1; 0 before the first is done
    step: int = 0  # steps done
    loss_sum: float = 0.0  # over the rows of the epoch under way
    rows: int = 0  # of the epoch under way, trained on so far
    timed_rows: int = 0  # the rows of step_seconds
    step_seconds: float = 0.0  # inside training steps, without tracing
    wall_seconds: float = 0.0
    precision: str = ""
    skipped_steps: int = 0  # whose gradients overflowed in float16; see optimizer.LossScale
    weights: int = 0  # of the network
    trained_weights: int = 0  # of them, those that the method trains; what it adds comes beside the network's
    ranks: dict[str, int] = field(default_factory=dict)  # by kernel, such as "0/query", where adalora chose them
    resumed_at: list[int] = field(default_factory=list)  # steps at which an interrupted run went on

    @property
    def best(self) -> Epoch:
        """The epoch whose weights the model has after `fit`."""
        return self.epochs[self.best_epoch - 1]

    @property
    def examples_per_second(self) -> float:
        """Training speed, without tracing and validation."""
        return self.timed_rows / self.step_seconds if self.step_seconds else 0.0

    def stale_epochs(self) -> int:
        """Epochs since the best one."""
        return len(self.epochs) - self.best_epoch

    @classmethod
    def from_json(cls, text: str) -> History:
        """Reads what `json.dumps(asdict(history))` wrote."""
        fields = json.loads(text)
        return cls(**{**fields, "epochs": [Epoch(**epoch) for epoch in fields["epochs"]]})


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
        run = Run(strategy, build(), train, validation, options, checkpoints)
    run.restore()
    earlier = run.history.wall_seconds
    writer = tf.summary.create_file_writer(str(logs)) if logs and chief else tf.summary.create_noop_writer()
    while not run.finished:
        run.train_epoch(lambda: earlier + time.perf_counter() - started, on_progress)
        run.end_epoch(earlier + time.perf_counter() - started)
        _write_scalars(writer, run.history)
        on_epoch(run.history)
    if chief:  # only it keeps the model, and then removes the checkpoints, which a slower worker could still be reading
        run.restore_best()
        run.finish(adapter)
    run.history.wall_seconds = earlier + time.perf_counter() - started
    return Trained(run.model, run.history, run.best_logits.numpy())


class _State(tf.train.experimental.PythonState):
    """A training's history in its checkpoints. It is no variable, since workers cannot send each other text."""

    def __init__(self, run: Run):
        super().__init__()
        self._run = run

    def serialize(self) -> str:
        return json.dumps(asdict(self._run.history))

    def deserialize(self, string_value: bytes) -> None:
        self._run.history = History.from_json(tf.compat.as_text(string_value))


class Run:
    """The state of a training: model, optimizer, history, and the checkpoints that hold them."""

    def __init__(self, strategy, model, train: Rows, validation: Rows, options: TrainOptions, folder: str | Path):
        self.model = model
        self._strategy = strategy
        self._options = options
        balanced = options.class_weights == "balanced"
        self._target = targets.of(train.labels, model.num_classes, balanced=balanced)
        self.batches = Batches(train, options.batch_size, self._target.row_weights)
        self._validation = Batches(validation, _EVALUATION_BATCH, self._target.row_weights)
        self._dtype = hardware.compute_dtype(options.precision)
        self._encoder = model.encoder()
        self.method = methods.choose(model, options, methods.Length(options.epochs, self.batches.steps))
        self._variables = [variable.value for variable in self.method.variables]
        self.steps = self.batches.steps * options.epochs
        # Only float16 uses it. Each checkpoint has it, so that a training can go on where the hardware asks for another
        # dtype.
        scale = LossScale()
        self._loss_scale = scale if self._dtype == tf.float16 else None
        self._optimizer = AdamW(
            self.method.variables,
            Schedule(options.learning_rate, self.steps, options.warmup_share),
            weight_decay=options.weight_decay,
            clip_norm=options.clip_norm,
            rates=self.method.rates,
            opens=self.method.opens,
            lazy_rows=not isinstance(strategy, tf.distribute.TPUStrategy),
            loss_scale=self._loss_scale,
            watcher=self.method.watcher,
        )
        weights = sum(int(variable.value.shape.num_elements()) for variable in model.variables)
        self.history = History(precision=self._dtype.name, weights=weights, trained_weights=self.method.weights)
        self._folder = folder
        # They are part of the checkpoints, so that no epoch is validated twice.
        self.best_logits = tf.Variable(tf.zeros([len(validation), model.num_classes]), trainable=False)
        self._weights = tf.train.Checkpoint(variables=self._variables)
        checkpoint = tf.train.Checkpoint(
            weights=self._weights,
            optimizer=self._optimizer,
            loss_scale=scale,
            state=_State(self),
            best_logits=self.best_logits,
            method=tf.train.Checkpoint(**self.method.state),
        )
        # Workers must save together, though only the chief's files are used.
        self._scratch = tempfile.TemporaryDirectory(prefix="bertline-worker-")
        self._own = str(folder) if hardware.is_chief(strategy) else self._scratch.name
        self._manager = tf.train.CheckpointManager(checkpoint, self._own, max_to_keep=1)
        seed = tf.TensorSpec([2], tf.int64)
        # One for each set of variables that are trained together: a method may open more of them as it goes on.
        self._train_functions = {
            open_: self._compiled(partial(self._train_step, open_), self._summed, self.batches, seed)
            for open_ in {self.method.open_at(step) for step in {0, *self.method.opens}}
        }
        self._evaluate_function = self._compiled(self._evaluate_step, self._gathered, self._validation)

    # === Checkpoints ===

    def restore(self) -> None:
        """Restores the last checkpoint, if there is one."""
        latest = tf.train.latest_checkpoint(str(self._folder))
        if latest is None:
            return
        self._manager.checkpoint.restore(latest).assert_consumed()
        self.history.precision = self._dtype.name
        self.history.resumed_at.append(self.history.step)

    def save(self, wall_seconds: float) -> None:
        """Writes a checkpoint. Whenever the process is killed, this one or the one before is complete."""
        self.history.wall_seconds = wall_seconds
        self._manager.save(checkpoint_number=self.history.step)

    def restore_best(self) -> None:
        """Gives the model the weights of its best epoch."""
        if self.history.stale_epochs():
            self._weights.read(f"{self._folder}/best-{self.history.best_epoch}").assert_existing_objects_matched()

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
        return done >= self._options.epochs or (done > 0 and stale and self.history.step >= self.method.settled)

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
                on_progress(self._progress())
            if history.step % options.checkpoint_steps == 0 and history.step % self.batches.steps:
                self.save(clock())
        on_progress(self._progress())

    def train_on(self, batch: dict[str, tf.Tensor]) -> None:
        """Takes one step on a batch, and counts it in the history."""
        history = self.history
        function = self._train_functions[self.method.open_at(history.step)]
        traced = function.experimental_get_tracing_count()
        begun = time.perf_counter()
        loss, rows, skipped = function(batch, self._seed(history.step)).numpy()
        seconds = time.perf_counter() - begun
        self._check(loss, bool(skipped))
        history.step += 1
        history.skipped_steps += bool(skipped)
        history.loss_sum += float(loss) * int(rows)
        history.rows += int(rows)
        if traced:  # the first step is left out, as it spends most of its time on tracing
            history.timed_rows += int(rows)
            history.step_seconds += seconds

    def _check(self, loss: float, skipped: bool) -> None:
        """Raises UserError where training cannot go on after a step."""
        place = f"at step {self.history.step + 1} of {self.steps}"
        way_out = f"lower train.learning_rate (now {self._options.learning_rate:g}) or train.clip_norm"
        if not math.isfinite(loss):
            raise UserError(f"the training loss became {loss} {place}; {way_out}")
        if skipped and float(self._loss_scale.factor.numpy()) < 1:
            raise UserError(
                f"the gradients overflow float16 {place}, whatever the loss is scaled by; {way_out}, or set "
                "train.precision: float32"
            )

    def end_epoch(self, wall_seconds: float) -> None:
        """Validates, adds the epoch to the history, and keeps its weights if they are the best."""
        history = self.history
        logits = self._evaluate()
        loss, accuracy = self._figures(logits)
        epoch = Epoch(len(history.epochs) + 1, history.loss_sum / history.rows, loss, accuracy)
        better = not history.epochs or loss < history.best.validation_loss
        history.epochs.append(epoch)
        history.loss_sum, history.rows = 0.0, 0
        previous, history.best_epoch = history.best_epoch, epoch.epoch if better else history.best_epoch
        if better:
            self.best_logits.assign(logits)
        if self.finished:
            return  # the weights are safe with the Trainer's outputs in a moment
        if better:
            self._weights.write(f"{self._own}/best-{epoch.epoch}")
        self.save(wall_seconds)
        if better and previous:
            for path in tf.io.gfile.glob(f"{self._own}/best-{previous}.*"):
                tf.io.gfile.remove(path)

    def _evaluate(self) -> np.ndarray:
        """Logits of the validation rows, float32 [rows, labels], in the order of the split."""
        all_logits = np.empty(self.best_logits.shape, np.float32)
        for batch in self._strategy.experimental_distribute_dataset(self._validation.ordered()):
            rows, logits = self._evaluate_function(batch)
            all_logits[rows.numpy()] = logits.numpy()
        return all_logits

    def _figures(self, logits: np.ndarray) -> tuple[float, float]:
        """Validation loss, weighted as in training, and accuracy."""
        labels = self._validation.rows.labels
        loss = np.average(self._target.losses_of(labels, logits), weights=self._validation.weights)
        return float(loss), self._target.accuracy(labels, logits)

    def _progress(self) -> Progress:
        history = self.history
        speed = history.examples_per_second
        left = (self.steps - history.step) * self._options.batch_size
        return Progress(
            epoch=min(len(history.epochs) + 1, self._options.epochs),
            epochs=self._options.epochs,
            step=history.step,
            steps=self.steps,
            loss=history.loss_sum / history.rows,
            examples_per_second=speed,
            seconds_left=left / speed if speed else math.nan,
        )

    # === Steps ===

    def _compiled(self, step: Callable, combine: Callable, batches: Batches, *more: tf.TensorSpec):
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

    def _train_step(self, places: Places, batch: dict[str, tf.Tensor], seed: tf.Tensor) -> tf.Tensor:
        """One replica's step: [loss x its share, rows, whether it was skipped], float32 [3]."""
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        seed += tf.stack([tf.cast(replica, tf.int64), 0])
        gradients_of = self._gradients if self._options.accumulate_steps == 1 else self._accumulated
        loss, gradients = gradients_of(places, batch, seed)
        norm = self._optimizer.apply(gradients, places)
        skipped = ~tf.math.is_finite(norm) if self._loss_scale else tf.constant(False)
        return tf.stack([loss, tf.cast(tf.size(batch["rows"]), tf.float32), tf.cast(skipped, tf.float32)])

    def _gradients(
        self, places: Places, batch: dict[str, tf.Tensor], seed: tf.Tensor
    ) -> tuple[tf.Tensor, list[Gradient]]:
        """Loss x its share, float32 scalar, and the gradients of the variables at the places, times the loss scale."""
        variables = [self._variables[place] for place in places]
        # Only what depends on a trained variable is kept for the gradients: below the lowest of them, nothing.
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(variables)
            logits = self._logits(batch, seed)
            loss = tf.reduce_sum(self._target.losses(batch["labels"], logits) * batch["shares"])
            whole, penalty = loss, self.method.penalty()
            if penalty is not None:  # all rows' shares make 1, so it counts once, on however many devices
                whole += penalty * tf.reduce_sum(batch["shares"])
            large = whole * self._loss_scale.factor if self._loss_scale else whole
        return loss, tape.gradient(large, variables)

    def _accumulated(
        self, places: Places, batch: dict[str, tf.Tensor], seed: tf.Tensor
    ) -> tuple[tf.Tensor, list[Gradient]]:
        """The same as `_gradients`, from parts of the batch one after the other.

        Only one part's activations are held at a time. The rows' shares are those of the whole batch, so the parts'
        losses and gradients add up to the batch's.
        """
        rows, replicas = tf.size(batch["rows"]), self._strategy.num_replicas_in_sync
        size = tf.maximum(-(-rows // self._options.accumulate_steps), 1)

        def part(index: tf.Tensor) -> tuple[tf.Tensor, list[Gradient]]:
            own = {name: column[index * size : (index + 1) * size] for name, column in batch.items()}
            return self._gradients(places, own, seed + tf.stack([tf.cast(index * replicas, tf.int64), 0]))

        def add(index: tf.Tensor, loss: tf.Tensor, sums: list[Gradient]):
            more, gradients = part(index)
            return index + 1, loss + more, [_added(*each) for each in zip(sums, gradients, strict=True)]

        # The first part comes before the loop: its result says which gradients name rows.
        start = (tf.constant(1), *part(tf.constant(0)))
        shapes = tf.nest.map_structure(_invariant, start)
        _, loss, sums = tf.while_loop(lambda index, *_: index * size < rows, add, start, shapes, parallel_iterations=1)
        return loss, sums

    def _evaluate_step(self, batch: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        """One replica's rows: their places in the split, int64 [batch], and logits, float32 [batch, labels]."""
        return batch["rows"], self._logits(batch, None)

    def _logits(self, batch: dict[str, tf.Tensor], seed: tf.Tensor | None) -> tf.Tensor:
        rows = Batch(batch["token_ids"], batch.get("segment_ids"), batch["lengths"])
        return self._encoder.logits(self.method.pack(self._dtype), rows, seed)

    def _seed(self, step: int) -> tf.Tensor:
        """Dropout's seed. It depends only on the run's seed and the step, so a resumed training draws the same."""
        return tf.constant([self._options.seed * 1_000_003, step * DROPOUT_PLACES], tf.int64)


def _added(one: Gradient, other: Gradient) -> Gradient:
    if isinstance(one, tf.IndexedSlices):  # a row may be named more than once, and then counts that often
        values, indices = (tf.concat(pair, 0) for pair in ((one.values, other.values), (one.indices, other.indices)))
        return tf.IndexedSlices(values, indices, one.dense_shape)
    return one + other


def _invariant(value: Gradient) -> tf.TensorShape | tf.IndexedSlicesSpec:
    """What stays the same of a gradient while others are added to it: everything but the number of rows it names."""
    if isinstance(value, tf.IndexedSlices):
        return tf.IndexedSlicesSpec(value.shape, value.dtype, value.indices.dtype, value.dense_shape.dtype)
    return value.shape


def _write_scalars(writer: tf.summary.SummaryWriter, history: History) -> None:
    epoch = history.epochs[-1]
    with writer.as_default(step=epoch.epoch):
        tf.summary.scalar("loss/train", epoch.train_loss)
        tf.summary.scalar("loss/validation", epoch.validation_loss)
        tf.summary.scalar("accuracy/validation", epoch.validation_accuracy)
        tf.summary.scalar("examples_per_second", history.examples_per_second)
    writer.flush()
