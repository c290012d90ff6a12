"""Trials by the code of the line's stages: tokenizer, frozen encoder, probe, and the Trainer's loop."""

from __future__ import annotations

import functools
import gc
import tempfile
import time

import keras
import numpy as np
import tensorflow as tf

from benchmarks.recipes import methods, sets
from benchmarks.recipes.results import Answered
from bertline.components import trainer
from bertline.components.probe_head import Probed
from bertline.models import hardware, probe, training
from bertline.models.bert import backbone, classifier
from bertline.models.bert.encoder import Batch, Encoder, pack
from bertline.models.bert.tokenizer import Tokenizer
from bertline.models.dataset import Batches, Rows
from bertline.models.embeddings import FrozenEncoder
from bertline.models.recipe import ModelOptions, TrainOptions

BATCH = 64  # of test rows


class Ours:
    """The trials of a set by the code of the line's stages. Its rows are tokenised once, and embedded once.

    Args:
        data: the set.
        model: `model` of a config.
    """

    def __init__(self, data: sets.Set, model: ModelOptions):
        self._data, self._model = data, model
        words = backbone.vocabulary(model)
        tokenizer = Tokenizer(words.path, lowercase=words.lowercase, max_length=model.max_length)
        ids, _ = tokenizer(tf.constant(data.texts))
        self._rows = Rows(tf.cast(ids, tf.int32), None, data.labels.astype(np.int32))
        self._encoder, hidden = _frozen(model.model_copy(update={"max_length": 128}).model_dump_json())
        self._gain = np.float32(backbone.pooling(model).gain(hidden))
        self._vectors = np.full((len(data.texts), hidden), np.nan, np.float32)
        self._embed_seconds = 0.0  # of a row

    def run(self, chosen: sets.Split, seed: int, method: str) -> Answered:
        """Fits on the training rows and answers the test rows.

        Raises:
            UserError: the recipe is none, or its training failed.
        """
        recipe = methods.recipe_of(method).train.model_copy(update={"seed": seed, "tensorboard": False})
        train, validation, test = (self._features(places) for places in (*chosen, self._data.test))
        labels, began = len(self._data.names), time.process_time()
        fitted = probe.fit(train, validation, labels, balanced=recipe.class_weights == "balanced")
        probing = time.process_time() - began + self._embed_seconds * (len(chosen.train) + len(chosen.validation))
        if recipe.method == "probe":
            weights = fitted.kernel.size + fitted.bias.size
            return Answered(fitted.logits(test.features).argmax(-1), probing, weights, f"C {fitted.strength:g}")
        began = time.process_time()
        trained = self._trained(chosen, recipe, Probed(fitted, fitted.logits(validation.features)))
        seconds = time.process_time() - began + (0 if recipe.head == "random" else probing)
        answers = _answers(trained.model, self._rows.take(self._data.test), hardware.compute_dtype(recipe.precision))
        history = trained.history
        del trained
        # A fit's model, moments and graph hold each other: hundreds of megabytes that would wait for the collector.
        keras.backend.clear_session()
        gc.collect()
        note = f"epoch {history.best_epoch} of {len(history.epochs)}"
        return Answered(answers, seconds, history.trained_weights, note)

    def _trained(self, chosen: sets.Split, recipe: TrainOptions, probed: Probed) -> training.Trained:
        """What the Trainer would leave of these rows."""
        rows = (self._rows.take(places) for places in chosen)
        task = trainer.Task(self._data.names, backbone.digest(self._model), *rows, probed=probed)
        with tempfile.TemporaryDirectory(prefix="bertline-recipes-") as checkpoints:
            return trainer.train(task, self._model, recipe, checkpoints=checkpoints)

    def _features(self, places: np.ndarray) -> probe.LabelledFeatures:
        """What the head reads of rows; each row is embedded the first time that a trial asks for it."""
        missing = places[np.isnan(self._vectors[places, 0])]
        if len(missing):
            began = time.process_time()
            self._vectors[missing] = self._encoder(self._rows.take(missing))
            self._embed_seconds = (time.process_time() - began) / len(missing)
        return probe.LabelledFeatures(self._vectors[places] * self._gain, self._rows.labels[places])


@functools.cache
def _frozen(model: str) -> tuple[FrozenEncoder, int]:
    """The encoder that all sets share, and the width of its vectors; the model as JSON."""
    # The number of labels does not matter, as only the layers below the head are used.
    network = classifier.from_options(ModelOptions.model_validate_json(model), 2, seed=1)
    return FrozenEncoder(network, hardware.compute_dtype("auto")), network.backbone.hidden_dim


def _answers(model: classifier.Classifier, rows: Rows, dtype: tf.DType) -> np.ndarray:
    """The label of each row, int [rows]."""
    encoder, weights = Encoder.of(model), pack(model, dtype)
    answers = np.empty(len(rows), np.int64)
    for batch in Batches(rows, BATCH).ordered():
        logits = encoder.logits(weights, Batch(batch["token_ids"], None, batch["lengths"]), None)
        answers[batch["rows"].numpy()] = logits.numpy().argmax(-1)
    return answers
