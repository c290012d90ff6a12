"""The search: trials of training, each by the Trainer's own code on the same rows, until their number or time is up."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from pydantic import ValidationError

from bertline.components import trainer
from bertline.components.options import TuneOptions
from bertline.components.tuning import space as spaces
from bertline.components.tuning.space import Space
from bertline.components.tuning.study import Proposal, Study
from bertline.components.tuning.trials import Outcome, Trial
from bertline.errors import UserError
from bertline.models import hardware, network_size, training
from bertline.models.recipe import ModelOptions, TrainOptions

PROBED = ("train.method", "train.head")  # keys whose value "probe" needs one
CHECKPOINTS = "checkpoints"  # folder beside the trials, for the training that goes on


_progress = logging.getLogger("bertline.progress")


class _Pruned(Exception):
    """Other trials were better at this point."""


class _TimeIsUp(Exception):
    """The search's time ended within a trial; the trial goes on when there is more."""


@dataclass(frozen=True)
class Progress:
    """Where a search stands.

    Attributes:
        trial: the one under way, from 1.
        trials: in all.
        best: validation loss of the best so far; None before the first.
        seconds_left: of the search, if trials take as long as those before, and at most of its time; NaN while unknown.
        training: where the trial's training stands.
    """

    trial: int
    trials: int
    best: float | None
    seconds_left: float
    training: training.Progress


class Search:
    """A search for the hyperparameters of a task.

    Args:
        task: rows, labels and the probe, as the Trainer reads them.
        model: the config's.
        recipe: the config's.
        options: how many trials, how long, and in which space.
        folder: local folder of the trials and the checkpoints of the one under way; it outlives an interrupted search.
        code: stands for the code that trains. Trials by other code are not taken up.

    Raises:
        UserError: nothing can be searched, Optuna is not installed, or the trials on disk cannot be read.
    """

    def __init__(
        self,
        task: trainer.Task,
        model: ModelOptions,
        recipe: TrainOptions,
        options: TuneOptions,
        folder: Path,
        code: str,
    ):
        self._task, self._model, self._recipe, self._folder = task, model, recipe, folder
        self._trials, self._seconds = options.trials, options.time.total_seconds() if options.time else math.inf
        try:
            self.space = space_of(task, model, recipe, options)
        except ValueError as error:
            raise UserError(str(error)) from error
        identity = json.dumps([task.fingerprint(model, recipe), self.space.identity(), code])
        name = hashlib.sha256(identity.encode()).hexdigest()[:16]
        own = self.space.of_config(model, recipe)
        self._study = Study(folder, name, self.space, own, recipe.seed)

    @property
    def outcome(self) -> Outcome:
        """What has been found so far."""
        rows, validation = len(self._task.train), len(self._task.validation)
        return Outcome(self.space, self._study.trials(), self._study.importances(), rows, validation)

    def run(
        self,
        on_progress: Callable[[Progress], None] = lambda progress: None,
        on_trial: Callable[[Trial], None] = lambda trial: None,
    ) -> Outcome:
        """Runs trials until their number or the time is up, those of earlier calls included.

        Trial 1 is the config itself, and runs to its end whatever the time, since the others are compared with it.

        Args:
            on_progress: called about twice a second.
            on_trial: called after each trial that counts.

        Raises:
            KeyboardInterrupt: a person stopped it; the trial under way goes on with the next call.
            UserError: no trial could be completed.
        """
        strategy = hardware.strategy(self._recipe.distribution)
        while self._goes_on():
            proposal = self._study.propose()
            try:
                figures = self._same_as_before(proposal) or self._run(proposal, strategy, on_progress)
            except _TimeIsUp:
                self._study.interrupt(proposal)
                break
            except KeyboardInterrupt:
                self._study.interrupt(proposal)
                raise
            # Here rather than in `_run`, which still holds the network. It collects too: a network, its moments and its
            # graphs refer to each other.
            keras.backend.clear_session()
            self._study.end(proposal, figures)
            on_trial(figures)
        outcome = self.outcome
        if outcome.best is None:
            raise UserError(f"no trial could be completed; the last one failed: {outcome.trials[-1].note}")
        return outcome

    def _goes_on(self) -> bool:
        done = self._study.trials()
        return not done or (len(done) < self._trials and self._study.seconds < self._seconds)

    def _same_as_before(self, proposal: Proposal) -> Trial | None:
        """The figures of an earlier trial with the same values, which a training would only give again."""
        for trial in self._study.trials():
            if trial.values == proposal.values:
                return Trial(**{**asdict(trial), "number": proposal.number, "seconds": 0.0,
                                "note": f"as trial {trial.number}"})  # fmt: skip
        return None

    # === One trial ===

    def _run(
        self, proposal: Proposal, strategy: tf.distribute.Strategy, on_progress: Callable[[Progress], None]
    ) -> Trial:
        left = self._seconds - self._study.seconds - proposal.seconds
        watch = _Watch(proposal, self._study.trials(), self._trials, left, on_progress)
        ended: dict[str, Any] = {"number": proposal.number, "values": proposal.values}
        histories: list[training.History] = []
        checkpoints = None

        def after_epoch(history: training.History) -> None:
            histories[:] = [history]
            if proposal.falls_behind([epoch.validation_loss for epoch in history.epochs], recipe.epochs):
                raise _Pruned

        try:
            model, recipe = spaces.combined(self._model, self._recipe, proposal.values)
            checkpoints = self._folder / CHECKPOINTS / self._task.fingerprint(model, recipe)
            trained = trainer.train(
                self._task,
                model,
                recipe,
                checkpoints=checkpoints,
                on_progress=watch.look,
                on_epoch=after_epoch,
                strategy=strategy,
            )
            state, histories[:] = "complete", [trained.history]
        except _Pruned:
            state = "pruned"
        except (UserError, ValidationError) as error:
            state, ended["note"] = "failed", _reason(error)
        except (tf.errors.ResourceExhaustedError, MemoryError) as error:
            state, ended["note"] = "failed", f"the memory does not suffice: {_first_line(error)}"
        figures = Trial(state=state, **ended, **_figures(state, histories, watch.seconds))
        if checkpoints and checkpoints.exists():
            tf.io.gfile.rmtree(str(checkpoints))
        return figures


def log_progress(progress: Progress) -> None:
    """Tells the screen and the log; see `bertline.pipeline.screen.bar`."""
    fields = {**asdict(progress.training), **asdict(progress)}
    del fields["training"]
    shown = (fields[name] for name in ("trial", "trials", "epoch", "epochs"))
    _progress.info("trial %d of %d, epoch %d of %d", *shown, extra={"progress": fields})


class _Watch:
    """Keeps the time of a trial, and tells where the search stands."""

    def __init__(
        self,
        proposal: Proposal,
        done: list[Trial],
        trials: int,
        seconds_left: float,
        on_progress: Callable[[Progress], None],
    ):
        self._proposal, self._done, self._trials, self._on_progress = proposal, done, trials, on_progress
        self._began, self._before, self._time_left = time.monotonic(), proposal.seconds, seconds_left
        losses = [trial.loss for trial in done if trial.state == "complete"]
        self._best = min(losses, default=None)

    @property
    def seconds(self) -> float:
        """Since the trial began or went on."""
        return time.monotonic() - self._began

    def look(self, progress: training.Progress) -> None:
        """Takes the training's progress.

        Raises:
            _TimeIsUp: the search's time has ended, and this is not the first trial.
        """
        self._proposal.seconds = self._before + self.seconds
        if self._done and self.seconds > self._time_left:
            raise _TimeIsUp
        mean = sum(trial.seconds for trial in self._done) / len(self._done) if self._done else math.nan
        after = self._trials - len(self._done) - 1
        left = max(mean - self.seconds, progress.seconds_left if math.isnan(mean) else 0.0) + after * mean
        left = min(left, self._time_left - self.seconds) if not math.isnan(left) else left
        self._on_progress(Progress(len(self._done) + 1, self._trials, self._best, left, progress))


def _figures(state: str, histories: list[training.History], seconds: float) -> dict[str, Any]:
    """The figures of a Trial by the history of its training."""
    if not histories:
        return {"seconds": seconds}
    (history,) = histories
    # A trial that was interrupted has trained for longer than since it went on.
    figures = {"epochs": len(history.epochs), "seconds": max(seconds, history.wall_seconds)}
    if state == "failed":
        return figures
    return {**figures, "loss": history.best.validation_loss, "accuracy": history.best.validation_accuracy}


def _first_line(error: Exception) -> str:
    """What was too large, without the list of places that TensorFlow adds."""
    said = getattr(error, "message", None) or str(error) or type(error).__name__
    return next((line.strip() for line in said.splitlines() if "OOM" in line), said.splitlines()[0])


def _reason(error: UserError | ValidationError) -> str:
    if isinstance(error, ValidationError):
        return "; ".join(fault["msg"].removeprefix("Value error, ") for fault in error.errors())
    return str(error)


def space_of(task: trainer.Task, model: ModelOptions, recipe: TrainOptions, options: TuneOptions) -> Space:
    """The space that the config names, or the one that suits the rows.

    Raises:
        ValueError: the config's method or space leaves nothing to search.
    """
    if options.space:
        named = spaces.named(options.space, model, recipe)
        for each in named.dimensions:
            if each.key in PROBED and "probe" in each.values and task.probed is None:
                raise ValueError(f"tune.space: {each.key}: probe: this line has no probe; take it out")
        return named
    size = network_size.read(model)
    rows = spaces.Rows(
        train=len(task.train),
        labels=len(task.labels),
        layers=size.layers if size else task.build(model, recipe).size.layers,
        pretrained=model.pretrained,
        has_probe=task.probed is not None,
    )
    return spaces.default(rows, model, recipe)
