"""The loop of every family trains it, and goes on after a kill."""

import numpy as np
import pytest
import tensorflow as tf
from factories import MOODS, reviews

from bertline.models import families, training
from bertline.models.bilstm import vocabulary
from bertline.models.dataset import Rows
from bertline.models.recipe import ModelOptions, TrainOptions

OPTIONS = ModelOptions(family="bilstm", bilstm={"embedding": 16, "units": 8, "l2": 1e-4}, max_length=16, dropout=0.2)
RECIPE = TrainOptions(epochs=3, batch_size=8, learning_rate=0.02, checkpoint_steps=4)


class Killed(Exception):
    pass


def rows(folder, count, seed):
    table = reviews(count, seed)
    ids, _ = families.BILSTM.tokenizer(OPTIONS, folder)(tf.constant([text for text, _, _ in table]))
    labels = np.array([list(MOODS).index(label) for _, label, _ in table], np.int32)
    return Rows(tf.cast(ids, tf.int32), None, labels)


def train(folder, name, recipe=RECIPE, **more):
    texts = [tf.constant([text for text, _, _ in reviews(96)])]
    families.BILSTM.learn(OPTIONS, texts, str(folder))
    return training.fit(
        lambda: families.BILSTM.build(OPTIONS, 3, seed=recipe.seed, learned=str(folder)),
        rows(str(folder), 96, 0),
        rows(str(folder), 30, 1),
        recipe,
        checkpoints=folder / name,
        **more,
    )


def weights(model):
    return np.concatenate([variable.numpy().ravel() for variable in model.trainable_variables])


def test_it_learns_and_goes_on_to_the_bit(tmp_path, monkeypatch):
    def kill(progress):
        if progress.step == 18:  # two steps after a checkpoint
            raise Killed

    monkeypatch.setattr(training, "REPORT_SECONDS", 0)
    model, history, logits = train(tmp_path, "whole")
    assert history.best.validation_accuracy > 0.9
    assert tuple(model.tokens) == tuple(vocabulary.read(f"{tmp_path}/{vocabulary.FILE}"))
    with pytest.raises(Killed):
        train(tmp_path, "cut", on_progress=kill)
    resumed, resumed_history, resumed_logits = train(tmp_path, "cut")
    assert resumed_history.resumed_at == [16]
    assert np.array_equal(weights(resumed), weights(model))
    assert np.array_equal(resumed_logits, logits)


def test_regularity_of_the_recipe_goes_with_it(tmp_path):
    recipe = RECIPE.model_copy(update={"epochs": 1, "adversarial": {"method": "fgm"}, "label_smoothing": 0.1})
    recipe = TrainOptions.model_validate(recipe.model_dump())
    _, history, _ = train(tmp_path, "moved", recipe)
    assert history.best.validation_accuracy > 0.5
