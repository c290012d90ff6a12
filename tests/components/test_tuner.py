"""The Tuner's artifacts, and the Trainer that takes its hyperparameters from one."""

import json

import keras_tuner
import pytest
from factories import MOODS, raw_examples, reviews, tiny_model_options, transformed
from tfx.types import standard_artifacts

from bertline.components import training_record
from bertline.components.artifacts import Weights
from bertline.components.options import TuneOptions
from bertline.components.trainer import Trainer
from bertline.components.tuner import Tuner
from bertline.components.tuning import space, trials
from bertline.models.recipe import TrainOptions

RECIPE = TrainOptions(epochs=1, batch_size=16, learning_rate=0.003, precision="float32", tensorboard=False)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tuner")
    options = tiny_model_options(folder)
    rows = [(text, label) for text, label, _ in reviews(130)]
    splits = {"train": rows[:90], "validation": rows[90:120], "test": rows[120:]}
    return options, *transformed(folder, options, *raw_examples(folder, splits, list(MOODS)))


def artifact(kind, folder):
    made = kind()
    made.uri = str(folder)
    folder.mkdir(exist_ok=True)
    return made


def test_the_trainer_trains_with_what_the_tuner_found(data, tmp_path):
    options, graph, rows = data
    inputs = {"transform_graph": graph, "transformed_examples": rows, "model_options": options.model_dump_json()}
    best = artifact(standard_artifacts.HyperParameters, tmp_path / "best")
    results = artifact(standard_artifacts.TunerResults, tmp_path / "results")
    tuning = TuneOptions(trials=2, space={"train.epochs": [1, 3], "model.dropout": [0.0, 0.1]})
    Tuner.test_call(
        **inputs,
        best_hyperparameters=best,
        tuner_results=results,
        train_options=RECIPE.model_dump_json(),
        tune_options=tuning.model_dump_json(),
        folder=str(tmp_path / "tuning"),
        code="code",
    )
    found = json.loads((tmp_path / "results" / "tuner_results.json").read_text())
    assert [each["trial_id"] for each in found] == ["1", "2"] and "score" in found[0]
    assert found[0]["train.epochs"] == 1 and found[0]["model.dropout"] == 0.1
    chosen = min(found, key=lambda each: each["score"])
    read = keras_tuner.HyperParameters.from_config(json.loads((tmp_path / "best/best_hyperparameters.txt").read_text()))
    assert read.get("train.epochs") == chosen["train.epochs"]
    assert best.get_string_custom_property("summary").startswith("2 trials (0 pruned) in ")

    # Whichever won, the Trainer's own options are others, so that its figures show which it took.
    run = artifact(standard_artifacts.ModelRun, tmp_path / "run")
    Trainer.test_call(
        **inputs,
        weights=artifact(Weights, tmp_path / "weights"),
        model_run=run,
        train_options=RECIPE.model_copy(update={"epochs": 2}).model_dump_json(),
        checkpoint_dir=str(tmp_path / "checkpoints"),
        hyperparameters=best,
    )
    history = training_record.read_history(run.uri)
    assert history["epochs"][history["best_epoch"] - 1]["validation_loss"] == chosen["score"]
    trained = trials.trained_sections(run)
    model, recipe = space.combined(options, RECIPE, trials.read_hyperparameters(best.uri))
    assert trained == {"model": model.model_dump(mode="json"), "train": recipe.model_dump(mode="json")}
