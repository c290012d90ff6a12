"""The search's order, memory and budget with trainings that only follow a formula; their figures with a real one."""

import json
import math
import sqlite3
from datetime import timedelta

import keras_tuner
import pytest
import tensorflow as tf
from factories import MOODS, tiny_model_options, tokenised_reviews

from bertline.components import trainer
from bertline.components.options import TuneOptions
from bertline.components.tuning import search as searching
from bertline.components.tuning import space, study, trials
from bertline.components.tuning.search import Search
from bertline.errors import UserError
from bertline.models import training
from bertline.models.recipe import TrainOptions

RECIPE = TrainOptions(epochs=4, batch_size=16, learning_rate=0.001, precision="float32", patience=4)
SPACE = {"train.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}, "train.epochs": {"low": 1, "high": 4}}


class Killed(BaseException):
    """Ends a search where it stands, as a signal does that nobody can catch."""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    model = tiny_model_options(tmp_path_factory.mktemp("model"))
    return model, trainer.Task(list(MOODS), "backbone", tokenised_reviews(model, 96), tokenised_reviews(model, 30, 1))


@pytest.fixture
def formula(monkeypatch):
    """Trainings whose loss is how far the rate is from 0.003, and a little less after each epoch; the clock is ours."""
    clock = Formula()
    monkeypatch.setattr("bertline.components.trainer.train", clock.train)
    monkeypatch.setattr("keras.backend.clear_session", lambda: None)  # half a second, and there is no network to free
    monkeypatch.setattr("bertline.components.tuning.search.time.monotonic", lambda: clock.now)
    return clock


class Formula:
    def __init__(self):
        self.now, self.trained, self.before = 0.0, [], lambda rate, epoch: None

    def train(self, task, model, recipe, *, checkpoints, on_progress, on_epoch, strategy):
        self.trained.append(recipe)
        history, rate = training.History(), recipe.learning_rate
        for epoch in range(1, recipe.epochs + 1):
            self.now += 60
            checkpoints.mkdir(parents=True, exist_ok=True)
            on_progress(training.Progress(epoch, recipe.epochs, epoch, recipe.epochs, 1.0, 10.0, math.nan))
            self.before(rate, epoch)
            loss = abs(math.log10(rate / 0.003)) + 0.1 / epoch
            history.epochs.append(training.Epoch(epoch, loss, loss, 1 - loss / 10))
            history.best_epoch, history.wall_seconds = epoch, 60.0 * epoch
            on_epoch(history)
        return training.Trained(None, history, None)


def search(data, folder, recipe=RECIPE, code="code", **options):
    model, task = data
    return Search(task, model, recipe, TuneOptions(**{"space": SPACE, **options}), folder, code)


def values(outcome):
    return [trial.values for trial in outcome.trials]


def test_the_first_trial_is_the_config_and_the_best_is_no_worse(data, formula, tmp_path):
    outcome = search(data, tmp_path, trials=10).run()
    assert len(outcome.trials) == 10
    assert outcome.start.values == {"train.learning_rate": 0.001, "train.epochs": 4}
    assert formula.trained[0] == RECIPE
    complete = [trial.loss for trial in outcome.trials if trial.state == "complete"]
    assert outcome.best.loss == min(complete) < outcome.start.loss
    assert outcome.importances["train.learning_rate"] > outcome.importances["train.epochs"]
    assert not list((tmp_path / searching.CHECKPOINTS).iterdir())


def test_a_config_outside_of_its_space_is_still_the_first_trial(data, formula, tmp_path):
    outcome = search(data, tmp_path, TrainOptions(learning_rate=0.5, epochs=9, patience=9), trials=3).run()
    assert outcome.start.values == {"train.learning_rate": 0.5, "train.epochs": 9}
    assert all(1e-4 <= trial.values["train.learning_rate"] <= 1e-2 for trial in outcome.trials[1:])


def test_poor_trials_are_pruned_after_an_epoch(data, formula, tmp_path):
    outcome = search(data, tmp_path, trials=14).run()
    pruned = [trial for trial in outcome.trials if trial.state == "pruned"]
    assert pruned and all(trial.epochs < trial.values["train.epochs"] for trial in pruned)
    assert outcome.best.loss < min(trial.loss for trial in pruned)


@pytest.mark.parametrize("at", [(1, 2), (4, 1)])
def test_killed_in_a_trial_it_goes_on_as_if_nobody_had(data, formula, tmp_path, at):
    undisturbed = search(data, tmp_path / "undisturbed", trials=5).run()
    trial, epoch = at
    formula.trained.clear()

    def kill(rate, now):
        if len(formula.trained) == trial and now == epoch:
            raise Killed

    formula.before = kill
    with pytest.raises(Killed):
        search(data, tmp_path / "killed", trials=5).run()
    left = list((tmp_path / "killed" / searching.CHECKPOINTS).iterdir())
    assert len(left) == 1  # the trial's training goes on from here
    formula.before = lambda rate, epoch: None
    resumed = search(data, tmp_path / "killed", trials=5).run()
    assert values(resumed) == values(undisturbed) and len(resumed.trials) == 5
    assert [each.loss for each in resumed.trials] == [each.loss for each in undisturbed.trials]
    assert formula.trained[trial - 1] == formula.trained[trial]  # the same training, so it found its checkpoint
    with sqlite3.connect(tmp_path / "killed" / study.FILE) as database:
        states = [state for (state,) in database.execute("SELECT state FROM trials ORDER BY number")]
    assert states[trial - 1] == "FAIL" and len(states) == 6


def test_ctrl_c_keeps_what_was_found(data, formula, tmp_path):
    def stop(rate, epoch):
        if len(formula.trained) == 3:
            raise KeyboardInterrupt

    formula.before = stop
    started = search(data, tmp_path, trials=8)
    with pytest.raises(KeyboardInterrupt):
        started.run()
    assert len(started.outcome.trials) == 2 and started.outcome.best


def test_time_ends_the_search_and_counts_what_earlier_calls_took(data, formula, tmp_path):
    fixed = {"space": {"train.learning_rate": SPACE["train.learning_rate"]}, "trials": 50}
    first = search(data, tmp_path, time=timedelta(minutes=9), **fixed).run()
    assert first.seconds <= 540 + 60
    trained = len(formula.trained)
    assert values(search(data, tmp_path, time=timedelta(minutes=9), **fixed).run()) == values(first)
    assert len(formula.trained) == trained
    more = search(data, tmp_path, time=timedelta(minutes=16), **fixed).run()
    assert len(more.trials) > len(first.trials) and values(more)[: len(first.trials)] == values(first)
    assert formula.trained[trained] == formula.trained[trained - 1]  # the trial that the time had ended goes on


def test_the_config_itself_runs_to_its_end_whatever_the_time(data, formula, tmp_path):
    outcome = search(data, tmp_path, time=timedelta(seconds=30)).run()
    assert [trial.state for trial in outcome.trials] == ["complete"]


def test_a_training_that_diverges_ends_its_trial_only(data, formula, tmp_path):
    def diverge(rate, epoch):
        if rate > 0.003:
            raise UserError("the training loss became nan")

    formula.before = diverge
    outcome = search(data, tmp_path, trials=7).run()
    failed = [trial for trial in outcome.trials if trial.state == "failed"]
    assert failed and {trial.note for trial in failed} == {"the training loss became nan"}
    assert outcome.best.state == "complete" and len(outcome.trials) == 7


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            tf.errors.ResourceExhaustedError(None, None, "Graph error\nOOM when allocating [64,512]\nat"),
            "OOM when allo",
        ),
        (MemoryError(), "MemoryError"),
    ],
    ids=["tensorflow", "python"],
)
def test_a_trial_that_is_too_large_for_the_memory_ends_alone(data, formula, tmp_path, error, said):
    def exhaust(rate, epoch):
        if rate > 0.003:
            raise error

    formula.before = exhaust
    outcome = search(data, tmp_path, trials=7).run()
    failed = [trial for trial in outcome.trials if trial.state == "failed"]
    assert failed and all(trial.note.startswith(f"the memory does not suffice: {said}") for trial in failed)
    trained = len(formula.trained)
    assert values(search(data, tmp_path, trials=7).run()) == values(outcome) and len(formula.trained) == trained


def test_a_search_without_a_trial_that_ends_says_why(data, formula, tmp_path):
    def diverge(rate, epoch):
        raise UserError("the training loss became nan")

    formula.before = diverge
    with pytest.raises(UserError, match="no trial could be completed; the last one failed: the training loss became"):
        search(data, tmp_path, trials=3).run()


def test_the_same_values_are_trained_once(data, formula, tmp_path):
    outcome = search(data, tmp_path, space={"train.batch_size": [16, 32]}, trials=4).run()
    assert len(outcome.trials) == 4 and len(formula.trained) == 2
    assert {trial.note for trial in outcome.trials if not trial.seconds} <= {"as trial 1", "as trial 2", "as trial 3"}


def test_other_rows_code_or_recipes_are_other_searches(data, formula, tmp_path):
    search(data, tmp_path, trials=2).run()
    model, task = data
    fewer = trainer.Task(task.labels, task.digest, task.validation, task.validation)
    for other in (
        search(data, tmp_path, code="changed"),
        search(data, tmp_path, RECIPE.model_copy(update={"weight_decay": 0.1})),
        search((model, fewer), tmp_path),
    ):
        assert other.outcome.trials == []
    assert len(search(data, tmp_path).outcome.trials) == 2


def test_damaged_trials_are_named(data, tmp_path):
    (tmp_path / study.FILE).write_bytes(b"no database" * 100)
    with pytest.raises(UserError, match=rf"{study.FILE}: the trials cannot be read: .*Move the file away"):
        search(data, tmp_path)


def test_the_artifact_is_one_of_kerastuner(data, formula, tmp_path):
    outcome = search(data, tmp_path / "trials", trials=3, space={**SPACE, "train.batch_size": [16, 32]}).run()
    trials.write_hyperparameters(str(tmp_path), outcome.space, outcome.best.values)
    read = keras_tuner.HyperParameters.from_config(json.loads((tmp_path / trials.HYPERPARAMETERS_FILE).read_text()))
    assert read.get("train.learning_rate") == outcome.best.values["train.learning_rate"]
    assert [type(each).__name__ for each in read.space] == ["Float", "Int", "Choice"]
    assert trials.read_hyperparameters(str(tmp_path)) == outcome.best.values


def test_a_trials_figures_are_those_of_the_training(data, tmp_path):
    model, task = data
    told = []
    options = {"trials": 2, "space": {"model.dropout": [0.1, 0.3], "train.learning_rate": SPACE["train.learning_rate"]}}
    once = RECIPE.model_copy(update={"epochs": 1})
    outcome = search(data, tmp_path / "search", once, **options).run(told.append)
    assert told[-1].trial == told[-1].trials == 2
    tried = outcome.trials[1]
    options, recipe = space.combined(model, once, tried.values)
    trained = trainer.train(task, options, recipe, checkpoints=tmp_path / "checkpoints")
    assert trained.history.best.validation_loss == tried.loss
    assert trained.history.best.validation_accuracy == tried.accuracy
