"""The loop of every family trains those without a transformer, and goes on after a kill."""

import numpy as np
import pytest
import tensorflow as tf
from factories import MOODS, reviews, tiny_backbone

from bertline.models import families, training
from bertline.models.dataset import Rows
from bertline.models.recipe import ModelOptions, TrainOptions

SIZES = {
    "bilstm": {"bilstm": {"embedding": 16, "units": 8, "l2": 1e-4}},
    "static": {"static": {"dimensions": 16, "hidden": 16, "sif": None}},  # no law of frequencies holds for 38 words
}
RECIPE = TrainOptions(epochs=3, batch_size=8, learning_rate=0.02, checkpoint_steps=4)


class Killed(Exception):
    pass


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return str(tiny_backbone(tmp_path_factory.mktemp("bert")))


@pytest.fixture(params=SIZES)
def options(request, backbone, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    weights = {"backbone": backbone} if request.param == "static" else {}
    return ModelOptions(family=request.param, max_length=16, dropout=0.2, **SIZES[request.param], **weights)


def rows(options, folder, count, seed):
    table = reviews(count, seed)
    ids, _ = families.of(options).tokenizer(options, folder)(tf.constant([text for text, _, _ in table]))
    labels = np.array([list(MOODS).index(label) for _, label, _ in table], np.int32)
    return Rows(tf.cast(ids, tf.int32), None, labels)


def train(options, folder, name, recipe=RECIPE, **more):
    family, texts = families.of(options), [tf.constant([text for text, _, _ in reviews(96)])]
    family.learn(options, texts, str(folder))
    return training.fit(
        lambda: family.build(options, 3, seed=recipe.seed, learned=str(folder)),
        rows(options, str(folder), 96, 0),
        rows(options, str(folder), 30, 1),
        recipe,
        checkpoints=folder / name,
        **more,
    )


def weights(model):
    return np.concatenate([variable.numpy().ravel() for variable in model.trainable_variables])


def test_it_learns_and_goes_on_to_the_bit(options, tmp_path, monkeypatch):
    def kill(progress):
        if progress.step == 18:  # two steps after a checkpoint
            raise Killed

    monkeypatch.setattr(training, "REPORT_SECONDS", 0)
    model, history, logits = train(options, tmp_path, "whole")
    assert history.best.validation_accuracy > 0.8
    with pytest.raises(Killed):
        train(options, tmp_path, "cut", on_progress=kill)
    resumed, resumed_history, resumed_logits = train(options, tmp_path, "cut")
    assert resumed_history.resumed_at == [16]
    assert np.array_equal(weights(resumed), weights(model))
    assert np.array_equal(resumed_logits, logits)


def test_regularity_of_the_recipe_goes_with_it(options, tmp_path):
    recipe = RECIPE.model_copy(update={"adversarial": {"method": "fgm"}, "label_smoothing": 0.1})
    recipe = TrainOptions.model_validate(recipe.model_dump())
    _, history, _ = train(options, tmp_path, "moved", recipe)
    assert history.best.validation_accuracy > 0.5
