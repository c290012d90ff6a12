import json
import logging
import shutil
from logging.handlers import BufferingHandler
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from factories import MOODS, raw_examples, reviews, tiny_model_options, transformed
from tfx.types import standard_artifacts

from bertline.components import trainer
from bertline.components.trainer import Trainer
from bertline.errors import UserError
from bertline.models import calibration, classifier
from bertline.models.recipe import TrainOptions

RECIPE = TrainOptions(epochs=6, batch_size=8, learning_rate=0.003, precision="float32")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trainer")
    options = tiny_model_options(folder)
    rows = [(text, label) for text, label, _ in reviews(360)]
    splits = {"train": rows[:300], "validation": rows[300:330], "test": rows[330:]}
    return options, *transformed(folder, options, *raw_examples(folder, splits, list(MOODS)))


def train(data, folder, recipe=RECIPE, **inputs):
    options, graph, rows = data
    model, run = standard_artifacts.Model(), standard_artifacts.ModelRun()
    model.uri, run.uri = str(folder / "model"), str(folder / "run")
    Trainer.test_call(
        transform_graph=graph,
        transformed_examples=rows,
        model=model,
        model_run=run,
        model_options=options.model_dump_json(),
        train_options=recipe.model_dump_json(),
        checkpoint_dir=str(folder / "checkpoints"),
        **inputs,
    )
    return model, run


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """A training's folder, Model and ModelRun, and the progress that it told."""
    folder, told = tmp_path_factory.mktemp("trained"), BufferingHandler(999)
    log = logging.getLogger("bertline.progress")
    log.setLevel(logging.INFO)
    log.addHandler(told)
    model, run = train(data, folder)
    log.removeHandler(told)
    return folder, model, run, [record.progress for record in told.buffer]


def test_trains_and_exports(trained):
    folder, model, run, progress = trained
    text = tf.saved_model.load(str(folder / "model/Format-Serving")).signatures["text"]
    answers = (
        text(text=tf.constant(["it was great love perfect", "the refund was awful late"]))["label"].numpy().tolist()
    )
    assert answers == [b"positive", b"negative"]
    assert classifier.load(folder / "model/Keras").num_classes == 3
    assert {path.name for path in (folder / "model/Format-Serving").iterdir()} == {
        "assets",
        "fingerprint.pb",
        "saved_model.pb",
        "variables",
    }
    history = json.loads((folder / "run/training.json").read_text())
    assert len(history["epochs"]) >= 1
    assert list(Path(run.uri).glob("events.out.tfevents.*"))
    assert not (folder / "checkpoints").exists()
    # 30 validation rows are too few for a temperature.
    assert (history["calibration"]["temperature"], history["calibration"]["rows"]) == (1.0, 30)
    assert history["calibration"]["note"].startswith("30 validation rows are too few")
    assert history["calibration"]["before"] == history["calibration"]["after"]
    assert history["calibration"]["after"]["log_loss"] == pytest.approx(
        history["epochs"][history["best_epoch"] - 1]["validation_loss"], abs=1e-5
    )
    assert model.get_float_custom_property("temperature") == 1.0
    rows = reviews(360)[300:330]
    answers = pq.read_table(folder / "run/answers-validation.parquet").to_pydict()
    assert answers["label"] == [label for _, label, _ in rows]
    served = text(text=tf.constant([row[0] for row in rows]))["probabilities"]
    np.testing.assert_allclose(answers["probabilities"], served, atol=1e-4)
    summary = model.get_string_custom_property("summary")
    assert summary.startswith(f"best epoch {history['best_epoch']} of {len(history['epochs'])}, validation loss 0.")
    assert set(progress[-1]) == {"epoch", "epochs", "step", "steps", "loss", "examples_per_second", "seconds_left"}
    assert progress[-1]["step"] == 38 * len(history["epochs"])


def test_checkpoints_belong_to_their_run(data, tmp_path, monkeypatch):
    class Stopped(Exception):
        pass

    def stop(progress):
        if progress.step > 20:
            raise Stopped

    monkeypatch.setattr("bertline.models.training._REPORT_SECONDS", 0)
    monkeypatch.setattr("bertline.components.trainer._log_progress", stop)
    recipe = RECIPE.model_copy(update={"epochs": 1, "checkpoint_steps": 10})
    with pytest.raises(Stopped):
        train(data, tmp_path, recipe)
    monkeypatch.undo()
    other = json.loads((Path(train_elsewhere(data, tmp_path, recipe).uri) / "training.json").read_text())
    assert other["resumed_at"] == []
    _, run = train(data, tmp_path, recipe)
    assert json.loads((Path(run.uri) / "training.json").read_text())["resumed_at"] == [20]


def train_elsewhere(data, folder, recipe):
    """Another learning rate over the same checkpoints."""
    shutil.copytree(folder / "checkpoints", folder / "other/checkpoints")
    return train(data, folder / "other", recipe.model_copy(update={"learning_rate": 0.001}))[1]


def test_an_empty_split_is_named(data, tmp_path):
    options, graph, _ = data
    empty = standard_artifacts.Examples()
    empty.uri = str(tmp_path / "empty")
    with pytest.raises(UserError, match=r"Split-train: the split holds no rows"):
        train((options, graph, empty), tmp_path)


def test_a_temperature_is_fitted_where_the_recipe_asks_for_one_and_its_figures_are_noted():
    # Sure of itself with 98% in 300 rows, and right in 240 of them: 80% is what it should say.
    logits = np.tile([4.0, 0.0], (300, 1)).astype(np.float32)
    labels = np.repeat([0, 1], [240, 60])
    found = trainer.calibrated(logits, labels, trainer.fit_temperature(logits, labels, RECIPE))
    assert found["temperature"] == pytest.approx(4 / np.log(4), rel=1e-3)
    assert found["before"]["calibration_error"] == pytest.approx(1 / (1 + np.exp(-4)) - 0.8, abs=1e-6)
    assert found["after"]["calibration_error"] == pytest.approx(0, abs=1e-3)
    assert found["before"]["log_loss"] == pytest.approx(np.log1p(np.exp(-4)) + 0.2 * 4, abs=1e-6)
    assert found["after"]["log_loss"] == pytest.approx(-0.8 * np.log(0.8) - 0.2 * np.log(0.2), abs=1e-6)
    off = RECIPE.model_copy(update={"calibrate": "none"})
    assert trainer.fit_temperature(logits, labels, off) == calibration.Temperature(1.0, "train.calibrate is none")


def test_a_threshold_that_no_answer_is_below_is_refused():
    trainer.check_abstention(None, ["no", "yes"])
    trainer.check_abstention(0.34, ["a", "b", "c"])
    with pytest.raises(UserError, match=r"model.abstain: 0.5 is never .* with 2 labels .* at least 0.5"):
        trainer.check_abstention(0.5, ["no", "yes"])


# === Warm start ===


def pushed(model, version="7"):
    """The artifact that LastBlessed leaves of a model."""
    found = standard_artifacts.Model()
    found.uri = model.uri
    found.set_string_custom_property("version", version)
    return found


def test_a_warm_start_begins_where_the_last_blessed_model_stopped(data, trained, tmp_path):
    _, first, _, _ = trained
    once = RECIPE.model_copy(update={"epochs": 1, "learning_rate": 1e-6, "warm_start": True})
    _, cold = train(data, tmp_path / "cold", once, last_blessed=pushed(first, version=""))
    model, warm = train(data, tmp_path / "warm", once, last_blessed=pushed(first))
    accuracies = [
        json.loads((Path(run.uri) / "training.json").read_text())["epochs"][0]["validation_accuracy"]
        for run in (cold, warm)
    ]
    assert accuracies[0] < 0.7 and accuracies[1] > 0.9
    assert model.get_string_custom_property("summary").startswith("from 7: best epoch 1 of 1")


def test_weights_that_do_not_fit_are_told(data, tmp_path):
    model = pushed(standard_artifacts.Model())
    model.uri = str(tmp_path)
    (tmp_path / "Keras").mkdir()
    (tmp_path / "Keras" / "classifier.json").write_text('{"labels": ["good", "bad"]}')
    with pytest.raises(UserError, match="it knows the labels good, bad, and the data have negative, neutral, positive"):
        train(data, tmp_path, last_blessed=model)
