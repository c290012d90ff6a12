import json
import logging
import os
import shutil
import time
from logging.handlers import BufferingHandler
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from factories import MOODS, raw_examples, reviews, tiny_model_options, transformed
from scipy import special
from tfx.types import standard_artifacts

from bertline.components import checkpoint_folders, exporter, trainer, training_record
from bertline.components.artifacts import Weights
from bertline.components.trainer import Trainer
from bertline.errors import UserError
from bertline.models import ensemble, families
from bertline.models.bert import classifier
from bertline.models.bert.encoder import Batch, Encoder, pack
from bertline.models.dataset import read_rows
from bertline.models.recipe import ExportOptions, PrefixOptions, TrainOptions

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
    weights, run = Weights(), standard_artifacts.ModelRun()
    weights.uri, run.uri = str(folder / "weights"), str(folder / "run")
    Trainer.test_call(
        transform_graph=graph,
        transformed_examples=rows,
        weights=weights,
        model_run=run,
        model_options=options.model_dump_json(),
        train_options=recipe.model_dump_json(),
        checkpoint_dir=str(folder / "checkpoints"),
        **inputs,
    )
    return weights, run


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """A training's folder, Weights and ModelRun, and the progress that it told."""
    folder, told = tmp_path_factory.mktemp("trained"), BufferingHandler(999)
    log = logging.getLogger("bertline.progress")
    log.setLevel(logging.INFO)
    log.addHandler(told)
    weights, run = train(data, folder)
    log.removeHandler(told)
    return folder, weights, run, [record.progress for record in told.buffer]


def test_leaves_weights_history_and_raw_validation_logits(trained, data):
    folder, weights, run, progress = trained
    assert {path.name for path in (folder / "weights").iterdir()} == {"classifier.json", "classifier.weights.h5"}
    model = classifier.load(folder / "weights")
    history = training_record.read_history(run.uri)
    assert list(Path(run.uri).glob("events.out.tfevents.*"))
    assert list((folder / "checkpoints").iterdir()) == []

    rows = read_rows(Path(data[2].uri) / "Split-validation", pair=False)
    left = training_record.read_logits(run.uri)
    assert left.labels == [label for _, label, _ in reviews(360)[300:330]]
    batch = Batch(rows.token_ids.to_tensor(), None, tf.cast(rows.token_ids.row_lengths(), tf.int32))
    np.testing.assert_allclose(left.logits, Encoder.of(model).logits(pack(model, tf.float32), batch), atol=1e-4)
    best = history["epochs"][history["best_epoch"] - 1]
    truth = np.array([list(MOODS).index(label) for label in left.labels])
    losses = -special.log_softmax(left.logits, axis=-1)[np.arange(30), truth]
    assert losses.mean() == pytest.approx(best["validation_loss"], abs=1e-5)
    assert best["validation_accuracy"] > 0.9

    summary = weights.get_string_custom_property("summary")
    assert summary.startswith(f"best epoch {history['best_epoch']} of {len(history['epochs'])}, validation loss 0.")
    assert set(progress[-1]) == {"epoch", "epochs", "step", "steps", "loss", "examples_per_second", "seconds_left"}
    assert progress[-1]["step"] == 38 * len(history["epochs"])


def test_checkpoints_belong_to_their_training(data, tmp_path, monkeypatch):
    class Stopped(Exception):
        pass

    def stop(record):
        if record.progress["step"] > 20:
            raise Stopped

    monkeypatch.setattr("bertline.models.training.REPORT_SECONDS", 0)
    log = logging.getLogger("bertline.progress")
    monkeypatch.setattr(log, "level", logging.INFO)
    log.addFilter(stop)
    recipe = RECIPE.model_copy(update={"epochs": 1, "checkpoint_steps": 10})
    with pytest.raises(Stopped):
        train(data, tmp_path, recipe)
    log.removeFilter(stop)
    (interrupted,) = (tmp_path / "checkpoints").iterdir()
    left_long_ago, just_begun = tmp_path / "checkpoints/stale", tmp_path / "checkpoints/begun"
    for folder in (left_long_ago, just_begun):
        shutil.copytree(interrupted, folder)
    for path in left_long_ago.iterdir():
        os.utime(path, (time.time() - checkpoint_folders.STALE_SECONDS - 60,) * 2)
    just_begun.joinpath("checkpoint").unlink()

    # Another training of the same task ends first.
    _, other = train(data, tmp_path, recipe.model_copy(update={"learning_rate": 0.001}))
    assert training_record.read_history(other.uri)["resumed_at"] == []
    assert set((tmp_path / "checkpoints").iterdir()) == {interrupted, just_begun}
    _, run = train(data, tmp_path, recipe)
    assert training_record.read_history(run.uri)["resumed_at"] == [20]
    assert set((tmp_path / "checkpoints").iterdir()) == {just_begun}


def test_an_empty_split_is_named(data, tmp_path):
    options, graph, _ = data
    empty = standard_artifacts.Examples()
    empty.uri = str(tmp_path / "empty")
    with pytest.raises(UserError, match=r"Split-train: the split holds no rows"):
        train((options, graph, empty), tmp_path)


# === Ensembles ===


def test_an_ensemble_goes_on_in_its_second_member(data, tmp_path, monkeypatch):
    class Stopped(Exception):
        pass

    def stop(record):
        told.append(record.progress)
        if record.progress["member"] == 2 and record.progress["step"] > 20:
            raise Stopped

    told = []
    monkeypatch.setattr("bertline.models.training.REPORT_SECONDS", 0)
    log = logging.getLogger("bertline.progress")
    monkeypatch.setattr(log, "level", logging.INFO)
    recipe = RECIPE.model_copy(update={"epochs": 1, "checkpoint_steps": 10})
    both = recipe.model_copy(update={"ensemble": 2})
    log.addFilter(stop)
    with pytest.raises(Stopped):
        train(data, tmp_path, both)
    assert [(told[0]["member"], told[0]["members"]), told[-1]["member"]] == [(1, 2), 2]
    log.removeFilter(stop)
    told.clear()
    log.addFilter(lambda record: told.append(record.progress) or True)
    weights, run = train(data, tmp_path, both)
    log.filters.clear()
    assert {each["member"] for each in told} == {2}  # the first is not trained again
    history = training_record.read_history(run.uri)
    assert [member["resumed_at"] for member in history["members"]] == [[], [20]]
    assert history["epochs"] == history["members"][0]["epochs"]
    assert list((tmp_path / "checkpoints").iterdir()) == []

    # The second is what the next seed trains.
    alone, _ = train(data, tmp_path / "alone", recipe.model_copy(update={"seed": recipe.seed + 1}))
    first, second = ensemble.load(families.BERT, Path(weights.uri))
    for one, other in zip(second.weights, classifier.load(Path(alone.uri)).weights, strict=True):
        np.testing.assert_array_equal(one, other)

    rows = read_rows(Path(data[2].uri) / "Split-validation", pair=False)
    batch = Batch(rows.token_ids.to_tensor(), None, tf.cast(rows.token_ids.row_lengths(), tf.int32))
    answers = [tf.nn.softmax(Encoder.of(each).logits(pack(each, tf.float32), batch)) for each in (first, second)]
    left = training_record.read_logits(run.uri)
    np.testing.assert_allclose(special.softmax(left.logits, axis=-1), np.mean(answers, axis=0), atol=1e-4)
    summary = weights.get_string_custom_property("summary")
    assert summary.startswith("resumed, 2 members, validation loss ")

    # A warm start takes the members one by one; one training takes the first.
    start = trainer.Start("7", Path(weights.uri))
    assert [start.of_member(number).weights.name for number in (1, 2, 3)] == ["member-1", "member-2", "member-1"]


# === Warm start ===


def pushed(weights, folder, version="7"):
    """The artifact that LastBlessed leaves of a release."""
    copied = standard_artifacts.Model()
    copied.uri = str(folder)
    copied.set_string_custom_property("version", version)
    shutil.copytree(weights.uri, folder / "Keras")
    return copied


def test_a_warm_start_begins_where_the_last_blessed_model_stopped(data, trained, tmp_path):
    _, first, _, _ = trained
    once = RECIPE.model_copy(update={"epochs": 1, "learning_rate": 1e-6, "warm_start": True})
    _, cold = train(data, tmp_path / "cold", once, last_blessed=pushed(first, tmp_path / "none", version=""))
    weights, warm = train(data, tmp_path / "warm", once, last_blessed=pushed(first, tmp_path / "release"))
    accuracies = [training_record.read_history(run.uri)["epochs"][0]["validation_accuracy"] for run in (cold, warm)]
    assert accuracies[0] < 0.7 and accuracies[1] > 0.9
    assert weights.get_string_custom_property("summary").startswith("from 7: best epoch 1 of 1")


def test_what_a_method_adds_is_exported_and_started_from(data, tmp_path):
    prefix = {"method": "prefix", "prefix": PrefixOptions(tokens=4, reparametrise=8), "epochs": 1}
    recipe = RECIPE.model_copy(update=prefix)
    weights, run = train(data, tmp_path, recipe)
    assert (tmp_path / "weights/adapter.npz").stat().st_size < 5000
    trained = training_record.read_history(run.uri)["trained_weights"]
    assert weights.get_string_custom_property("summary").startswith(f"prefix, {trained:,} of ")
    logits = training_record.read_logits(run.uri).logits

    options, graph, _ = data
    source = exporter.Source(Path(weights.uri), graph.uri, options, ExportOptions())
    exporter.write_saved_model(tmp_path / "served", source)
    texts = tf.constant([text for text, _, _ in reviews(360)[300:330]])
    answers = tf.saved_model.load(str(tmp_path / "served")).signatures["text"](text=texts)
    np.testing.assert_allclose(answers["probabilities"], special.softmax(logits, axis=-1), atol=1e-4)

    still = recipe.model_copy(update={"learning_rate": 1e-6, "warm_start": True})
    _, warm = train(data, tmp_path / "warm", still, last_blessed=pushed(weights, tmp_path / "release"))
    np.testing.assert_allclose(training_record.read_logits(warm.uri).logits, logits, atol=1e-2)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("labels", ["good", "bad"], "it knows the labels good, bad, and the data have negative, neutral, positive"),
        ("backbone_digest", "0" * 64, "it was trained from another backbone than model.backbone"),
        ("backbone_digest", None, "an earlier bertline pushed it, which did not record its backbone"),
    ],
)
def test_weights_that_do_not_fit_are_refused(data, trained, tmp_path, key, value, said):
    release = pushed(trained[1], tmp_path / "release")
    saved = tmp_path / "release/Keras/classifier.json"
    changed = {**json.loads(saved.read_text()), key: value}
    saved.write_text(json.dumps({name: content for name, content in changed.items() if content is not None}))
    with pytest.raises(UserError, match=rf"version 7 .*{said}.* Set train\.warm_start: false"):
        train(data, tmp_path, last_blessed=release)
