"""Trainer: fine-tunes the classifier on the transformed Examples and exports the SavedModel."""

import hashlib
import json
import logging
from dataclasses import asdict
from pathlib import Path

import tensorflow as tf
import tensorflow_transform as tft
from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.types import standard_artifacts
from tfx.utils import path_utils

from components.errors import LineError
from components.transform import read_labels
from models import backbone, classifier, hardware, signatures, training
from models.dataset import Rows, read_rows
from models.features import SEGMENT_IDS
from models.recipe import ModelOptions, TrainOptions

KERAS_FOLDER = "Keras"  # beside Format-Serving in the Model artifact: what models.classifier.load reads
HISTORY_FILE = "training.json"
_progress = logging.getLogger("bertline.progress")


@component
def Trainer(
    transform_graph: InputArtifact[standard_artifacts.TransformGraph],
    transformed_examples: InputArtifact[standard_artifacts.Examples],
    model: OutputArtifact[standard_artifacts.Model],
    model_run: OutputArtifact[standard_artifacts.ModelRun],
    model_options: Parameter[str],
    train_options: Parameter[str],
    checkpoint_dir: Parameter[str],
):
    """Writes the SavedModel and the Keras weights to `model`, the history and TensorBoard's logs to `model_run`.

    Args:
        transform_graph: Transform's graph.
        transformed_examples: token ids and label ids, splits train and validation.
        model: the exported model.
        model_run: training.json and TensorBoard's event files.
        model_options: a ModelOptions as JSON.
        train_options: a TrainOptions as JSON.
        checkpoint_dir: folder, local or remote, that outlives an interrupted run; it is removed once the model is
            exported.

    Raises:
        LineError: a split is empty, or the loss is no longer a number.
    """
    chosen = ModelOptions.model_validate_json(model_options)
    recipe = TrainOptions.model_validate_json(train_options)
    graph = tft.TFTransformOutput(transform_graph.uri)
    labels = read_labels(transform_graph.uri)
    pair = SEGMENT_IDS in graph.transformed_feature_spec()
    try:
        train, validation = (
            read_rows(Path(transformed_examples.uri) / f"Split-{split}", pair=pair) for split in ("train", "validation")
        )
        checkpoints = f"{checkpoint_dir}/{_fingerprint(train, validation, labels, chosen, recipe)}"
        trained, history = training.fit(
            lambda: classifier.build(backbone.load(chosen), len(labels), dropout=chosen.dropout, seed=recipe.seed),
            train,
            validation,
            recipe,
            checkpoints=checkpoints,
            logs=Path(model_run.uri) if recipe.tensorboard else None,
            on_progress=_log_progress,
        )
    except ValueError as error:
        raise LineError(str(error)) from error
    dtype = hardware.compute_dtype(recipe.precision)
    words = backbone.vocabulary(chosen).path
    served = signatures.ServedModel(trained, Path(transform_graph.uri), words, labels, dtype=dtype, pair=pair)
    signatures.export(served, Path(path_utils.serving_model_dir(model.uri)))
    classifier.save(trained, Path(model.uri) / KERAS_FOLDER)
    _write_history(history, Path(model_run.uri))
    summary = _summary(history)
    model.set_string_custom_property("summary", summary)
    model_run.set_string_custom_property("summary", summary)
    if tf.io.gfile.isdir(checkpoint_dir):
        tf.io.gfile.rmtree(checkpoint_dir)


def _fingerprint(train: Rows, validation: Rows, labels: list[str], *options: ModelOptions | TrainOptions) -> str:
    """Names a run by all that its result depends on, so that no checkpoint is taken up by a run that differs."""
    digest = hashlib.sha256(json.dumps([labels, *(section.model_dump_json() for section in options)]).encode())
    for rows in (train, validation):
        for part in (rows.token_ids, rows.segment_ids):
            if part is not None:
                digest.update(part.flat_values.numpy().tobytes() + part.row_splits.numpy().tobytes())
        digest.update(rows.labels.tobytes())
    return digest.hexdigest()[:16]


def _log_progress(progress: training.Progress) -> None:
    text = "epoch %d of %d, step %d of %d, loss %.4f, %.0f examples/s, %.0f s left"
    _progress.info(text, *asdict(progress).values(), extra={"progress": asdict(progress)})


def _write_history(history: training.History, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    figures = {**asdict(history), "examples_per_second": history.examples_per_second}
    (folder / HISTORY_FILE).write_text(json.dumps(figures, indent=1) + "\n")


def _summary(history: training.History) -> str:
    """Such as "best epoch 2 of 2, validation loss 0.58, accuracy 0.76, 95 examples/s"."""
    best = history.best
    resumed = f"resumed at step {history.resumed_at[-1]}, " if history.resumed_at else ""
    return (
        f"{resumed}best epoch {best.epoch} of {len(history.epochs)}, validation loss {best.validation_loss:.2f}, "
        f"accuracy {best.validation_accuracy:.3f}, {history.examples_per_second:.0f} examples/s"
    )
